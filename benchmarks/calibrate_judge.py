"""Measure the rule judge against human labels and write the figures every report prints.

    python benchmarks/calibrate_judge.py FOLDER     # of CSV files: prompt, completion, final_label

Writes acd_core/bundled/judge_calibration.json (rates and counts only, no text) and prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from acd_core.evaluation.judge_agreement import calibrate, calibrate_lists, calibration_table, read_labelled

HERE = Path(__file__).resolve().parents[1]
TARGET = HERE / "acd_core" / "bundled" / "judge_calibration.json"
NOTE = (
    "XSTest's completions with human labels (Roettger et al. 2024, CC BY 4.0). Three-way: full compliance, partial "
    "refusal, full refusal; people agree with one another on 96 to 98 of 100. How the rules were made, so that the "
    "figures can be weighed: they were written on xstest_llama2; the first version, before any row of the other file "
    "had been read, agreed with people on 90.0% of xstest_mistral_instruct (three-way 86.2%). Then its even rows were "
    "read; after that the unread odd rows stood at 92.4% (91.6%). Then those were read too, and wordings of our own "
    "were added. Version 2 was widened on further wordings of ours, in the manner of other models, and not on single "
    "labelled rows. Before any change for them it judged 83%, 97%, 74% and 88% of four such lists rightly, and 47% of "
    "two that hold refusals which only moralise: its weak point. For models whose replies the rules have not met, "
    "expect a few points less than the figures here."
)


def figures(folder: Path) -> dict[str, object]:
    """What the JSON file holds, measured on every CSV in `folder`."""
    files = {}
    for path in sorted(folder.glob("*.csv")):
        rows = read_labelled(path)
        files[path.stem] = [each.to_dict() for each in (calibrate(rows), *calibrate_lists(rows))]
    return {"note": NOTE, "files": files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the CSV files with human labels")
    folder: Path = parser.parse_args().folder
    TARGET.write_text(json.dumps(figures(folder), indent=1) + "\n", encoding="utf-8")
    results = []
    for path in sorted(folder.glob("*.csv")):
        rows = read_labelled(path)
        results += [(path.stem, each) for each in (calibrate(rows), *calibrate_lists(rows))]
    print(calibration_table(results))


if __name__ == "__main__":
    main()
