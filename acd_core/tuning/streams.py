"""Rows of text behind one shared prefix: logits with gradients for tuning, greedy replies for validation.

Every row of a batch starts with the same tokens: the template's head and the soft prompt. Their keys and values are
computed once and differentiated through, so a step costs the instructions and replies only. `Prefix.leaves` are those
keys and values cut off the graph: any number of micro-batches adds to their gradients, and one pass at the end carries
the sum back to the soft prompt. Memory then grows with the micro-batch, not with the batch, at no extra cost.

The model is only called. No weight, buffer or flag of it is written; gradients are asked for by `torch.autograd.grad`,
so that not even `.grad` of a weight appears.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from acd_core.engine.memory import give_back, is_out_of_memory
from acd_core.errors import TuningError
from acd_core.methods import rules
from acd_core.model.backbone import Backbone, Output, cpu_has_fast_bf16, gpu_has_bf16
from acd_core.model.interventions import Acting
from acd_core.tuning.recompute import twin_of

Ids = Sequence[int]
T = TypeVar("T")


def tuning_view(backbone: Backbone) -> Backbone:
    """The same weights behind another set of modules, for tuning; `backbone` itself where that would gain nothing.

    - Frozen, where the caller's model is trainable (`twin_of`).
    - On a CPU the fused attention's bf16 backward is four to five times slower than plain matrix products (measured:
      35 ms against 7.5 ms for 32 rows, 40 queries, 150 keys). The attention kind is part of a model's config, and the
      caller's model may not be written, so its module tree is copied with every tensor shared.
    """
    slow = backbone.device.type == "cpu" and backbone.dtype == torch.bfloat16
    if not slow and not any(weight.requires_grad for weight in backbone.model.parameters()):
        return backbone
    twin = twin_of(backbone)
    if twin is None:
        return backbone  # modules that cannot be copied: slower, not wrong
    if slow:
        # A model that has one kind of attention only keeps it: likewise.
        with contextlib.suppress(AttributeError, TypeError, ValueError, RuntimeError):
            twin.model.set_attn_implementation("eager")
    return twin


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prefix: per layer [1, heads, length, head_dim].

    roots hang on the graph of the soft prompt (if there is one); leaves are the same values, cut off it.
    """

    length: int
    roots: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]

    def cache(self, backbone: Backbone, rows: int) -> DynamicCache:
        """A cache of `rows` rows that starts with this prefix; gradients flow into `leaves`."""
        cache = DynamicCache(config=backbone.model.config)
        for layer in range(len(self.leaves) // 2):
            keys, values = self.leaves[2 * layer], self.leaves[2 * layer + 1]
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache


def prefill(
    backbone: Backbone, before: Ids, soft: Tensor | None = None, behind: Ids = (), *, fast: bool = False
) -> Prefix:
    """Run `before` ids, then `soft` vectors [n, width] (cast to the model's dtype), then `behind` ids, once. `fast`:
    see `autocast`.

    Raises TuningError for models that keep something other than keys and values of every token.
    """
    device = backbone.device
    parts = [backbone.embed(torch.tensor([list(before)], dtype=torch.long, device=device))] if before else []
    if soft is not None:
        parts.append(soft.to(device, backbone.dtype).unsqueeze(0))
    if behind:
        parts.append(backbone.embed(torch.tensor([list(behind)], dtype=torch.long, device=device)))
    if not parts:
        return Prefix(0, (), ())
    embeds = torch.cat(parts, 1)
    length = int(embeds.shape[1])
    cache = DynamicCache(config=backbone.model.config)
    with autocast(backbone, fast):
        backbone.forward(
            embeds,
            positions=torch.arange(length, device=device).unsqueeze(0),
            mask=torch.ones(1, length, dtype=torch.long, device=device),
            cache=cache,
            last=1,
        )
    roots = keys_and_values(cache, length)
    if roots is None:
        raise TuningError(
            f"{backbone.model_id!r} ({backbone.model_type}) does not keep keys and values of all {length} prompt "
            "positions in every layer (a recurrent state, shared layers, or a very short window), so a prompt "
            "cannot be tuned through its cache.",
            hint="Use a transformer model with ordinary or wide sliding-window attention.",
        )
    wanted = soft is not None and soft.requires_grad and torch.is_grad_enabled()
    leaves = tuple(root.detach().requires_grad_(wanted) for root in roots)
    return Prefix(length, roots, leaves)


def keys_and_values(cache: DynamicCache, length: int, layers: int | None = None) -> tuple[Tensor, ...] | None:
    """Keys and values by turns of the first `layers` layers (None: all). None where one lacks some of `length` ids."""
    found: list[Tensor] = []
    for layer in cache.layers[:layers]:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.shape[-2] != length:
            return None
        found += [keys, values]
    return tuple(found)


class ReplyScores(NamedTuple):
    """logits [B, R, V], and layer -> its states [B, R, hidden], at the positions that predict the reply tokens."""

    logits: Tensor
    states: dict[int, Tensor]


def reply_scores(
    backbone: Backbone,
    prefix: Prefix,
    after: Sequence[Ids],
    replies: Sequence[Ids],
    *,
    width: int,
    fast: bool = False,
    interventions: Sequence[Acting] = (),
    layers: Sequence[int] = (),
) -> ReplyScores:
    """What predicts the reply tokens: R = `width`, at least the longest reply.

    Row b is prefix + after[b] + replies[b]; entry [b, r] predicts replies[b][r]. Entries past a row's own reply are
    meaningless (finite) and must be masked. Rows are padded on the right, where causal attention never looks.
    interventions: what acts on the rows. layers: whose states are wanted too, from 1.
    """
    rows = [[*head, *reply[:-1]] for head, reply in zip(after, replies)]
    ids = _pad(rows, backbone.device)
    first = min(len(head) for head in after) - 1
    cache = prefix.cache(backbone, len(rows))
    found = _forward(
        backbone,
        prefix,
        ids,
        cache,
        keep=int(ids.shape[1]) - first,
        fast=fast,
        interventions=interventions,
        layers=layers,
    )
    starts = [len(head) - 1 for head in after]
    logits = _from(found.logits, [start - first for start in starts], width)
    return ReplyScores(logits, {layer: _from(states, starts, width) for layer, states in found.states.items()})


def reply_logits(
    backbone: Backbone, prefix: Prefix, after: Sequence[Ids], replies: Sequence[Ids], *, width: int, fast: bool = False
) -> Tensor:
    """Only the logits of `reply_scores`: [B, R, V]."""
    return reply_scores(backbone, prefix, after, replies, width=width, fast=fast).logits


def _from(values: Tensor, starts: Sequence[int], width: int) -> Tensor:
    """[B, width, n]: of each row of `values` [B, L, n] the positions from its start on."""
    rows, length = values.shape[:2]
    at = torch.tensor(starts, device=values.device).unsqueeze(1) + torch.arange(width, device=values.device)
    at = at.clamp_max(length - 1)  # past the row's own reply: any entry will do, it is masked
    at = at + torch.arange(rows, device=values.device).unsqueeze(1) * length
    # Whole rows by number: gather takes an index for every single value, and so does its backward.
    return values.flatten(0, 1).index_select(0, at.flatten()).view(rows, width, -1)


def pad_targets(replies: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Reply ids [B, R] int64 (0 where there is none) and mask [B, R] float32."""
    targets = _pad(replies, device)
    lengths = torch.tensor([len(reply) for reply in replies], device=device)
    mask = torch.arange(targets.shape[1], device=device).unsqueeze(0) < lengths.unsqueeze(1)
    return targets, mask.float()


@torch.no_grad()
def greedy(
    backbone: Backbone,
    safe: Prefix,
    safe_rows: Sequence[Ids],
    adversarial: Prefix | None = None,
    adversarial_rows: Sequence[Ids] | None = None,
    *,
    alpha: float = 0.0,
    max_tokens: int,
    plausibility: float = 0.0,
    contrast_tokens: int | None = None,
    chunk: int | None = None,
) -> list[list[int]]:
    """Greedy replies (without the closing token) of the joined scores; alpha 0 or no adversarial prefix is plain.

    The engine's own rules, in a loop that serves tuning: many rows at once, no prefix beyond what is given.
    plausibility, contrast_tokens: as in `ContrastParams`. chunk: rows in memory at a time, those of similar length
    together; None takes 256 on CUDA and 64 elsewhere. Where they do not fit, half as many are tried.
    """
    sides = [(safe, safe_rows)]
    if alpha > 0.0 and contrast_tokens != 0 and adversarial is not None and adversarial_rows is not None:
        sides.append((adversarial, adversarial_rows))

    def replies(picked: Sequence[int]) -> list[list[int]]:
        streams = [_Stream(backbone, prefix, [given[row] for row in picked]) for prefix, given in sides]
        return _greedy_chunk(backbone, streams, alpha, max_tokens, plausibility, contrast_tokens)

    return _as_many_as_fit(backbone, safe_rows, replies, chunk)


@torch.no_grad()
def of_first_tokens(
    backbone: Backbone,
    prefixes: tuple[Prefix, Prefix],
    rows: Sequence[Ids],
    alpha: float,
    reading: Callable[[Tensor], Tensor],
) -> tuple[list[float], list[float]]:
    """What `reading` (scores [B, V] -> [B]) says of the scores with which every row's reply begins: those of the two
    prefixes joined, and those of the first alone."""

    def values(picked: Sequence[int]) -> list[tuple[float, float]]:
        streams = [_Stream(backbone, prefix, [rows[row] for row in picked]) for prefix in prefixes]
        logits = [stream.start() for stream in streams]
        both = (reading(_joined(some, alpha, 0.0)).tolist() for some in (logits, logits[:1]))
        return list(zip(*both))

    joined, alone = zip(*_as_many_as_fit(backbone, rows, values, None))
    return list(joined), list(alone)


def _as_many_as_fit(
    backbone: Backbone, rows: Sequence[Ids], run: Callable[[Sequence[int]], list[T]], chunk: int | None
) -> list[T]:
    """run(numbers of some rows) for all of them: those of similar length together, as many at a time as fit."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    most = chunk or (256 if backbone.device.type == "cuda" else 64)
    found: list[T] = []
    while len(found) < len(order):
        picked = order[len(found) : len(found) + most]
        try:
            found += run(picked)
            continue
        except Exception as error:
            if not is_out_of_memory(error) or len(picked) == 1:
                raise
        most = len(picked) // 2
        give_back(backbone.device)
    return [value for _, value in sorted(zip(order, found), key=lambda pair: pair[0])]


def _greedy_chunk(
    backbone: Backbone,
    streams: list[_Stream],
    alpha: float,
    max_tokens: int,
    plausibility: float,
    contrast_tokens: int | None,
) -> list[list[int]]:
    logits = [stream.start() for stream in streams]
    rows = int(logits[0].shape[0])
    replies: list[list[int]] = [[] for _ in range(rows)]
    going = [True] * rows
    for step in range(max_tokens):
        tokens = _joined(logits, alpha, plausibility).argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            going[row] = going[row] and token not in backbone.eos_ids
            if going[row]:
                replies[row].append(token)
        if not any(going) or step + 1 == max_tokens:
            break
        if contrast_tokens is not None and step + 1 >= contrast_tokens:
            streams = streams[:1]
        logits = [stream.step(tokens) for stream in streams]
    return replies


def _joined(logits: Sequence[Tensor], alpha: float, plausibility: float) -> Tensor:
    """Scores [B, V] of one or two streams' logits, by the functions the engine joins with."""
    kept = logits[0].float()
    if len(logits) == 1:
        return kept
    strength = torch.full((len(kept), 1), alpha, dtype=torch.float32, device=kept.device)
    scores = rules.contrast(kept, logits[1].float(), strength, torch.ones_like(strength, dtype=torch.bool))
    if plausibility > 0.0:
        scores = scores.masked_fill(~rules.plausible(kept, torch.full_like(strength, plausibility)), -torch.inf)
    return scores


class _Stream:
    """Rows under one prefix while they are decoded."""

    def __init__(self, backbone: Backbone, prefix: Prefix, rows: Sequence[Ids]) -> None:
        self._backbone, self._prefix = backbone, prefix
        self._ids = _pad(rows, backbone.device)
        self._cache = prefix.cache(backbone, len(rows))
        self._lengths = torch.tensor([len(row) for row in rows], device=backbone.device)
        seen = torch.arange(self._ids.shape[1], device=backbone.device).unsqueeze(0) < self._lengths.unsqueeze(1)
        self._mask = torch.cat([seen.new_ones(len(rows), prefix.length), seen], 1).long()

    def start(self) -> Tensor:
        """Logits [B, V] after each row's last token."""
        first = int(self._lengths.min()) - 1
        keep = int(self._ids.shape[1]) - first
        logits: Tensor = _forward(self._backbone, self._prefix, self._ids, self._cache, keep=keep).logits
        at = (self._lengths - 1 - first).view(-1, 1, 1).expand(-1, 1, logits.shape[-1])
        return logits.gather(1, at).squeeze(1)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [B, V] after one more token a row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        positions = (self._prefix.length + self._lengths).unsqueeze(1)
        self._lengths = self._lengths + 1
        embeds = self._backbone.embed(tokens.unsqueeze(1))
        found = self._backbone.forward(embeds, positions=positions, mask=self._mask, cache=self._cache, last=1)
        logits: Tensor = found.logits[:, -1]
        return logits


def _forward(
    backbone: Backbone,
    prefix: Prefix,
    ids: Tensor,
    cache: DynamicCache,
    *,
    keep: int,
    fast: bool = False,
    interventions: Sequence[Acting] = (),
    layers: Sequence[int] = (),
) -> Output:
    """Logits [B, keep, V] of right-padded `ids` [B, L] behind `prefix`, and states [B, L, hidden] of `layers`."""
    rows, length = ids.shape
    positions = prefix.length + torch.arange(length, device=ids.device)
    with autocast(backbone, fast):
        return backbone.forward(
            backbone.embed(ids),
            positions=positions.unsqueeze(0).expand(rows, -1),
            mask=torch.ones(rows, prefix.length + length, dtype=torch.long, device=ids.device),
            cache=cache,
            last=keep,
            interventions=interventions,
            layers=layers,
        )


def computes_faster(backbone: Backbone) -> bool:
    """Whether this is a float32 model on a device that is quicker in bf16."""
    if backbone.dtype != torch.float32:
        return False
    if backbone.device.type == "cuda":
        return gpu_has_bf16(backbone.device)
    return backbone.device.type == "cpu" and cpu_has_fast_bf16()


@contextlib.contextmanager
def autocast(backbone: Backbone, fast: bool) -> Iterator[None]:
    """With `fast`, bf16 arithmetic for a float32 model where the device is quick at it. Models in half precision need
    no help, and float64 models (gradient checks) stay exact. Decoding stays as the engine does it: not `fast`."""
    if fast and computes_faster(backbone):
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
            yield
    else:
        yield


def shared_start(rows: Sequence[Ids]) -> int:
    """How many leading ids all rows have in common, leaving at least one id to every row."""
    limit = min(len(row) for row in rows) - 1
    for index in range(limit):
        if any(row[index] != rows[0][index] for row in rows):
            return index
    return limit


def _pad(rows: Sequence[Ids], device: torch.device) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
