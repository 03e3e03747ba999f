"""What a newcomer sees: one real run of `acd demo`, as text and as a picture of the terminal.

python benchmarks/demo_picture.py            # writes docs/demo.txt and docs/demo.svg
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 112


def main() -> None:
    env = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", "from acd_core.cli import main; main()", "demo", *sys.argv[1:]]
    started = time.perf_counter()
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    seen = Text.from_ansi(run.stdout)
    (DOCS / "demo.txt").write_text(
        "\n".join(line.rstrip() for line in seen.plain.splitlines()) + "\n", encoding="utf-8"
    )
    # The picture leaves out all but the first and the last table: it is to be read at a glance.
    parts = run.stdout.split("\n\n")
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(" ".join(["$ acd demo", *sys.argv[1:]]) + "\n")
    for part in (parts[0], *parts[-3:]):
        console.print(Text.from_ansi(part))
        console.print()
    console.save_svg(str(DOCS / "demo.svg"), title="acd demo")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
