"""Where the public data lie that some tests read: evaluation sets, human labels, chat templates.

They are no part of the project. The variable ACD_DATA names the folder of the sets, and the other folders are its
neighbours; where it is unset, `tests/conftest.py` sets it to the folder beside the checkout, if there is one.
"""

from __future__ import annotations

import os
from pathlib import Path

BESIDE_THE_CHECKOUT = Path(__file__).parents[2] / "shared" / "data" / "eval"
ABSENT = "the public data are not here: set ACD_DATA to the folder of the evaluation sets"


def public_data(name: str) -> Path:
    """The folder `name` of the public data: "eval", "calibration" or "templates". It may not exist."""
    given = os.environ.get("ACD_DATA")
    sets = Path(given) if given else BESIDE_THE_CHECKOUT
    return sets if name == "eval" else sets.parent / name
