"""What adapters say of the contrast and the gate, and what a ContrastiveLM itself must know of the gate. No torch."""

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


def operator_rules(floor: float | None, recheck: int | None, defaults: bool = True) -> tuple[tuple[str, Any], ...]:
    """Settings that the ContrastiveLM must have: whether the model's own generation_config counts, a floor of the gate
    that calls are held to and, under it, how often replies are read. Other settings go with each call. Pairs, so that
    they can stand in a key."""
    own: tuple[tuple[str, Any], ...] = () if defaults else (("generation_defaults", False),)
    if floor is None:
        return own
    return (*own, ("gate_floor", floor), *((("recheck", recheck),) if recheck is not None else ()))


def _number(value: float) -> Union[float, str]:
    return value if math.isfinite(value) else str(value)
