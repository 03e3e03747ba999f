"""What the engine reads of requests under a gate: prompts while they are prefilled, replies every so many tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from acd_core.artifacts.gate import Gate
from acd_core.engine.prefix import Readings
from acd_core.engine.request import Gating
from acd_core.engine.rows import Row

UNREAD = np.float32(np.inf)
"""In place of the reading of a token that nobody took; a reading is a number or NaN."""


def layers_read(rows: Sequence[Row]) -> list[int]:
    """The layers that gates of `rows` read."""
    return sorted({layer for row in rows for layer in gating_of(row).gate.layers})


def take_readings(row: Row, known: int, readings: Readings | None) -> int:
    """How many of `known` leading tokens `row` may take from a saved row whose readings these are: all, unless its
    gate has yet to read some of them. What was read of them is taken over."""
    if not reads_prompt(row):
        return known
    gating = gating_of(row)
    row.tokens = np.full(len(row.branch.ids), UNREAD, dtype=np.float32)
    if readings is not None and readings[0] == gating.gate.id:
        count = min(known, len(readings[1]))
        row.tokens[:count] = readings[1][:count]
    unread = np.flatnonzero(row.tokens[gating.start : known] == UNREAD)
    return known if not len(unread) else gating.start + int(unread[0])


def gating_of(row: Row) -> Gating:
    """The gating of a row's request, which must have one."""
    assert row.request.gating is not None
    return row.request.gating


def reads_prompt(row: Row) -> bool:
    """Whether the row's gate reads the prompt that is being prefilled."""
    gating = row.request.gating
    return gating is not None and gating.prompt_unread and row.is_kept


def readings_of(row: Row) -> Readings | None:
    """What the gate has read of the row's tokens, those of its prompt; None where it reads none."""
    return None if row.tokens is None else (gating_of(row).gate.id, row.tokens)


def by_gate(rows: Sequence[Row], members: Iterable[int]) -> dict[Gate, list[int]]:
    """Places in `rows` by the gate of their requests."""
    found: dict[Gate, list[int]] = {}
    for index in members:
        found.setdefault(gating_of(rows[index]).gate, []).append(index)
    return found


def record_tokens(gate: Gate, members: Sequence[tuple[Row, int, int]], states: Mapping[int, torch.Tensor]) -> None:
    """Read a chunk of prompts. members: (row, its place in the forward, its tokens of this chunk, at the right end)."""
    width = max(taken for _, _, taken in members)
    chosen = {layer: states[layer][[at for _, at, _ in members], -width:] for layer in gate.layers}
    found = gate.logits("token", chosen).cpu().numpy()
    headers = gate.logits("header", {layer: state[:, -1] for layer, state in chosen.items()}).tolist()
    for (row, _, taken), values, header in zip(members, found, headers):
        gating, size = gating_of(row), len(row.branch.ids)
        if row.tokens is None:
            row.tokens = np.full(size, UNREAD, dtype=np.float32)
        row.tokens[row.length : row.length + taken] = values[width - taken :]
        if row.length + taken == size:
            turn = row.tokens[gating.start :]
            row.reading = gate.of_prompt(turn.tolist(), None if gating.appended else header)


def neighbours(rows: Sequence[Row]) -> list[list[Row]]:
    """`rows` in runs whose slots follow each other and which add as many tokens: one forward each."""
    runs: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.slot):
        last = runs[-1][-1] if runs else None
        same = last is not None and row.slot == last.slot + 1 and _added(row) == _added(last)
        if same:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _added(row: Row) -> int:
    return len(row.ids) - row.length + len(gating_of(row).header)


def rows_to_read(rows: Sequence[Row]) -> list[Row]:
    """The kept rows whose gates are to be read now."""
    kept = (row for row in rows if row.is_kept and row.request.gating is not None)
    return [row for row in kept if gating_of(row).must_read(len(row.request.generated))]


def record_prompts(due: Sequence[Row]) -> list[Row]:
    """Tell the gates what was read of their prompts. Returns the rows of `due` that are to be read at a header."""
    left = []
    for row in due:
        gating = gating_of(row)
        if gating.prompt_unread:
            gating.record(row.reading, 0, appended=False)
            row.reading = None
        if row.request.generated or gating.begun_reply_unread:
            left.append(row)
    return left


def record_replies(rows: Sequence[Row]) -> None:
    """Tell the gates what was read at an appended header. A begun reply that could not be read opens its gate."""
    for row in rows:
        said = len(row.request.generated)
        if row.reading is not None or not said:
            gating_of(row).record(row.reading, said, appended=True)
        row.reading = None


def has_room_for_header(row: Row, context: int) -> bool:
    """Whether a row can be read at an appended header: the template has one, and the context goes that far."""
    header = gating_of(row).header
    return bool(header) and len(row.ids) + len(header) <= context
