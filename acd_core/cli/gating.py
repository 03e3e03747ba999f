"""The gate on the command line: its option, and how it is described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acd_core.errors import UsageError
from acd_core.params import GateReport

if TYPE_CHECKING:
    from acd_core.artifacts.gate import Gate

GATE_HELP = (
    "on, off, or the share of harmless requests it may open for, such as 0.02. Default: on, if the pair has a gate."
)


def gate_setting(given: str) -> bool | float | None:
    """What --gate says, as ContrastiveLM takes it; None for nothing. Raises UsageError for anything else."""
    if not given:
        return None
    if given in ("on", "off"):
        return given == "on"
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise UsageError(f"--gate {given!r} is not on, off or a share in (0, 1].", hint="For example --gate 0.02.")
    return share


def gate_facts(gate: Gate | None) -> str:
    """What a pair's gate is, on one line."""
    if gate is None:
        return "none: the method acts on every request"
    again = "read again in replies" if gate.reply is not None else "read at the prompt only"
    return (
        f"reads layers {', '.join(map(str, gate.layers))}; threshold {gate.prompt.threshold:.3g}, above it "
        f"{gate.prompt.share():.1%} of the harmless and {gate.prompt.caught():.1%} of the harmful validation requests; "
        f"{again}"
    )


def gate_said(report: GateReport) -> str:
    """What the gate did in one reply."""
    if not report.opened:
        what = "closed"
    elif report.opened_at == 0:
        what = "opened at the prompt"
    else:
        what = f"opened after {report.opened_at} tokens"
    reading = "nothing to read" if report.reading is None else f"reading {report.reading:.3g}"
    return f"[gate: {what}; {reading}, threshold {report.threshold:.3g}]"
