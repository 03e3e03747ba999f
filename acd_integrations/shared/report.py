"""What a reply's metadata say of the contrast and the gate. No torch."""

from __future__ import annotations

import math
from typing import Any, Union

from acd_core.params import ContrastReport


def reported(report: ContrastReport) -> dict[str, Any]:
    """What the contrast and its gate did, for a reply's metadata; never a prompt. JSON throughout: a reading or a
    threshold that is not finite is the text "nan", "inf" or "-inf". gate: None where the request had none."""
    gate = report.gate
    return {
        "method": report.method,
        "alpha": report.alpha,
        "contrasted_tokens": report.contrasted_tokens,
        "mean_divergence": report.mean_divergence,
        "gate": None
        if gate is None
        else {
            "opened": gate.opened,
            "opened_at": gate.opened_at,
            "reading": None if gate.reading is None else _number(gate.reading),
            "threshold": _number(gate.threshold),
            "readings": gate.readings,
        },
    }


def _number(value: float) -> Union[float, str]:
    return value if math.isfinite(value) else str(value)
