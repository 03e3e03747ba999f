"""One forward over some rows of the cache: a token a row, a chunk of prompts, or a look at a gate's header.

Knows rows and tensors; knows nothing of threads, queues or admission (that is scheduler.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from acd_core.engine import faults, gates, trial
from acd_core.engine.cache import MaskBuilder, SlotCache
from acd_core.engine.rows import Row
from acd_core.engine.static import Decode, StaticDecoder, chosen
from acd_core.errors import ModelError
from acd_core.model.backbone import Backbone, Output
from acd_core.model.interventions import by_rows

WINDOW_STEP = 16
"""Attention windows are rounded up to this many slots."""


class Stepper:
    """Runs the model over rows of a SlotCache. All methods run on the engine thread, under inference mode."""

    def __init__(self, backbone: Backbone, cache: SlotCache, decode: Decode = "auto") -> None:
        self.backbone = backbone
        self.cache = cache
        self.masks = MaskBuilder(backbone.config)
        reason = self.masks.unsupported() or _unsupported(backbone)
        if reason:
            raise ModelError(
                f"The model {backbone.model_id!r} cannot be served: it has {reason}.",
                hint="Supported: decoder-only models with full or sliding-window attention.",
            )
        self.forwards = 0
        self.embeddable, self.logit_width = faults.embedding_rows(backbone), faults.logit_width(backbone)
        self.isolating = False  # while a guilty row is looked for: each forward by itself, at its own shape
        mode, self.decode_reason = chosen(decode, backbone)
        self.static: StaticDecoder | None = None
        if mode != "eager":
            self.static = StaticDecoder(backbone, cache, self.masks, mode)
        if trial.needs_trial(backbone):
            trial.check(backbone, self)

    def decode(self, rows: Sequence[Row], tokens: Sequence[int]) -> torch.Tensor:
        """One token a row, rows in slot order from `rows[0].slot`: logits [rows, vocab] in the model's dtype.

        May be done again for rows of a call that failed: what it wrote of them is written anew.
        """
        device = self.backbone.device
        lengths = [row.length for row in rows]
        plain = not any(row.branch.interventions for row in rows)  # hooks are no part of a captured graph
        if self.static is not None and rows[0].slot == 0 and plain and not self.isolating:
            logits = self.static.decode(lengths, tokens)
            self.forwards += 1
            for row in rows:
                row.length += 1
            return logits
        positions = torch.tensor(lengths, device=device)[:, None]
        same = lengths[0] if min(lengths) == max(lengths) else None
        ids = torch.tensor(list(tokens), device=device)[:, None]
        found = self._forward(rows, self.backbone.embed(ids), positions, positions, max(lengths) + 1, same)
        logits = torch.as_tensor(found.logits)[:, -1]
        for row in rows:
            row.length += 1
        return logits

    def prefill(self, rows: Sequence[Row], budget: int) -> bool:
        """The next chunk of each row's prompt, at most about `budget` tokens in all; True once every row is filled.

        Rows are aligned to the right, so that the last column holds every row's last token; padding writes to the
        trash slot and looks at slot 0. A row that is filled keeps its next-token logits in `row.logits`. May be done
        again for rows of a call that failed, once what it wrote behind them is wiped.
        """
        pending = [len(row.ids) - row.length for row in rows]
        if not max(pending):
            return True
        width = min(max(pending), max(1, budget // len(rows)))
        taken = [min(width, left) for left in pending]
        device, trash = self.backbone.device, self.cache.capacity
        embeds = torch.zeros(
            (len(rows), width, self.backbone.embedding_width), dtype=self.backbone.dtype, device=device
        )
        query = torch.zeros((len(rows), width), dtype=torch.long)
        write = torch.full((len(rows), width), trash, dtype=torch.long)
        for index, (row, count) in enumerate(zip(rows, taken)):
            row.reach = max(row.reach, row.length + count)
            if count:
                embeds[index, width - count :] = self._embed(row, row.length, row.length + count)
                span = torch.arange(row.length, row.length + count)
                query[index, width - count :] = span
                write[index, width - count :] = span
        window = max(row.length + count for row, count in zip(rows, taken))
        read = [index for index, (row, count) in enumerate(zip(rows, taken)) if count and gates.reads_prompt(row)]
        layers = gates.layers_read([rows[index] for index in read])
        found = self._forward(rows, embeds, query.to(device), write.to(device), window, None, layers)
        logits = found.logits[:, -1]
        for gate, members in gates.by_gate(rows, read).items():
            gates.record_tokens(gate, [(rows[index], index, taken[index]) for index in members], found.states)
        for index, (row, count) in enumerate(zip(rows, taken)):
            row.length += count
            if count and count == pending[index]:
                row.logits = logits[index]
        return all(len(row.ids) == row.length for row in rows)

    def read_gates(self, rows: Sequence[Row]) -> list[tuple[Row, Exception]]:
        """Take the readings that are due of `rows`: of a prompt, and every so many tokens of a reply. Returns the rows
        whose own forward failed, with the error."""
        left = gates.record_prompts(gates.rows_to_read(rows))
        guilty = faults.isolate_failures(
            [row for row in left if gates.has_room_for_header(row, self.backbone.context_length)], self._check
        )
        failed = {id(row) for row, _ in guilty}
        gates.record_replies([row for row in left if id(row) not in failed])
        return guilty

    def _check(self, rows: Sequence[Row]) -> None:
        """Read the gates of `rows` at a header appended to what each holds and to the token it said last.

        The header's keys and values go to the slots behind the row, where the next tokens will overwrite them; the row
        itself stays as it is. The forward ends behind the last layer that is read.
        """
        for run in gates.neighbours(rows):
            device = self.backbone.device
            added = [[*row.ids[row.length :], *gates.gating_of(row).header] for row in run]
            ids = torch.tensor(added, device=device)
            start = torch.tensor([row.length for row in run], device=device)[:, None]
            places = start + torch.arange(ids.shape[1], device=device)
            window = max(row.length for row in run) + ids.shape[1]
            for row in run:
                row.reach = max(row.reach, row.length + ids.shape[1])
            embeds, layers = self.backbone.embed(ids), gates.layers_read(run)
            found = self._run(
                self.cache, run[0].slot, embeds, places, places, window, None, layers=layers, only_layers=True
            )
            self.forwards += 1
            for gate, members in gates.by_gate(run, range(len(run))).items():
                values = gate.logits("appended", {layer: found.states[layer][members, -1] for layer in gate.layers})
                for index, value in zip(members, values.tolist()):
                    run[index].reading = value

    def _embed(self, row: Row, start: int, stop: int) -> torch.Tensor:
        ids = torch.tensor(row.ids[start:stop], device=self.backbone.device)
        embeds = self.backbone.embed(ids.clamp_min(0))
        soft = row.branch.soft
        if soft is not None:
            places = (ids < 0).nonzero()[:, 0]
            if len(places):
                offset = start - row.branch.soft_at
                embeds = embeds.clone()
                embeds[places] = soft.to(embeds.device, embeds.dtype)[places + offset]
        return embeds

    def _forward(
        self,
        rows: Sequence[Row],
        embeds: torch.Tensor,
        query: torch.Tensor,
        write: torch.Tensor,
        needed: int,
        column: int | None,
        layers: Sequence[int] = (),
    ) -> Output:
        """`_run` over rows of the engine's cache, each under its interventions."""
        under = by_rows([row.branch.interventions for row in rows])
        found = self._run(
            self.cache, rows[0].slot, embeds, query, write, needed, column, interventions=under, layers=layers
        )
        self.forwards += 1
        return found

    def _run(
        self,
        cache: SlotCache,
        low: int,
        embeds: torch.Tensor,
        query: torch.Tensor,
        write: torch.Tensor,
        needed: int,
        column: int | None,
        **more: Any,
    ) -> Output:
        """One forward over the rows of `cache` from `low` on. query, write: positions [rows, tokens] and slots."""
        window = min(cache.capacity, -(-needed // WINDOW_STEP) * WINDOW_STEP)
        cache.begin(low, low + embeds.shape[0], write, window, column if embeds.shape[1] == 1 else None)
        mask = self.masks.build(query, window, self.backbone.dtype)
        embeds = embeds.to(self.backbone.dtype)
        found = self.backbone.forward(embeds, positions=query, mask=mask, cache=cache, last=1, **more)
        cache.complete = True
        return found

    def ragged(self, prompts: list[torch.Tensor], replies: list[torch.Tensor]) -> torch.Tensor:
        """Logits [rows, vocab] after prompts [tokens, width] of different lengths and replies [n, width] of one length,
        prefilled and decoded together on a cache of their own: what trial.py compares with plain forwards."""
        lengths = [len(prompt) for prompt in prompts]
        width, count = max(lengths), len(replies[0])
        cache = SlotCache()
        cache.resize(len(prompts), width + count, 0, 0)
        embeds = torch.stack([torch.cat([x.new_zeros(width - len(x), x.shape[1]), x]) for x in prompts])
        places = torch.stack([torch.arange(width) - (width - length) for length in lengths]).to(embeds.device)
        query, write = places.clamp_min(0), places.where(places >= 0, cache.capacity)
        logits = self._run(cache, 0, embeds, query, write, width, None).logits
        for step in range(count):
            at = torch.tensor(lengths, device=embeds.device)[:, None] + step
            said = torch.stack([x[step] for x in replies])[:, None]
            logits = self._run(cache, 0, said, at, at, width + step + 1, None).logits
        self.cache.expected_bytes = cache.bytes_per_slot
        last: torch.Tensor = logits[:, -1]
        return last


def _unsupported(backbone: Backbone) -> str | None:
    config = backbone.config
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder and a decoder"
    if getattr(config, "_attn_implementation", None) in ("flash_attention_2", "flash_attention_3"):
        return "flash attention, which takes no custom masks (load it with attn_implementation='sdpa')"
    return None
