"""Waiting for an engine to come to rest, and for a script in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from acd_core import ContrastiveLM


def quiet(lm: ContrastiveLM, seconds: float = 10.0) -> None:
    """Wait until the engine holds no rows: a reply is handed out a moment before its rows are kept and freed."""
    until = time.monotonic() + seconds
    while lm.engine.active_rows or lm.engine.queued:
        assert time.monotonic() < until, "rows were leaked"
        time.sleep(0.005)


def run_apart(script: str) -> None:
    """Run `script` in an interpreter of its own, which must end with status 0."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=120, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
