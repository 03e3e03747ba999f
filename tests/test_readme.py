"""Every Python block of the README runs as it stands, offline, and every command it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)


def test_there_is_something_to_paste():
    assert BLOCKS


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_python_block_runs(number: int, tmp_path: Path):
    """In a process of its own, elsewhere, as a reader would paste it."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "print" not in BLOCKS[number]


def test_its_commands_exist():
    from acd_core.cli.app import app

    verbs = {command.callback.__name__ for command in app.registered_commands}
    verbs |= {group.typer_instance.info.name for group in app.registered_groups}
    assert set(re.findall(r"\bacd (\w+)", README)) <= verbs
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\$ make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for extra in re.findall(r"\.\[([\w,-]+)\]", README):
        assert all(
            re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.M) for name in extra.split(",")
        )
