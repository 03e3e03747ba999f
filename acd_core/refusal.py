"""Whether a reply begins by refusing. Used where a format would be forced on a model that wants to refuse."""

from __future__ import annotations


def is_refusal(text: str) -> bool:
    """True when `text` (possibly the first words only) declines the request, by the rules of RefusalJudge."""
    from acd_core.evaluation.judges import RefusalJudge

    return bool(text.strip()) and RefusalJudge().judge("", text).refused
