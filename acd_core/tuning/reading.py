"""Learning a gate: linear readings of hidden states that tell harmful requests from harmless ones.

Three logistic regressions on the anchors: over the tokens of the last turn (a request is as harmful as its TOP most
harmful tokens, multiple-instance learning), at the assistant header, and at a header appended to a reply under way.
The anchors wear the dresses of applications. Which layers, how much each reading counts beside the others, and the
thresholds come from validation requests that the readings themselves are not learnt from.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor
from transformers import DynamicCache

from acd_core.artifacts.gate import Gate, Levels
from acd_core.chat import Chat
from acd_core.errors import GateError
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import decoder_layers
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import Instruction, SplitName
from acd_core.tuning.dresses import BARE, Dress, by_kind, dresses_digest
from acd_core.tuning.pooled_regression import auc, fit_pooled, pool
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import write_beside
from acd_core.tuning.streams import Prefix, greedy, keys_and_values, prefill, shared_start

SHARE = 0.05
"""Share of dressed harmless validation requests for which a reading may open the gate."""
LEAST_AUC = 0.85
"""Below this area under the curve on the validation requests a reading is a nuisance: no gate is made."""
RIDGE = {"token": 0.1, "header": 0.1, "appended": 0.3}
"""Weight of the squared norm, on standardised states, beside a loss that is a mean."""
DEPTHS = (0.47, 0.54, 0.6)
"""Layers that are read, as shares of the model's depth: below them a model knows words, above them its next token. The
middle one by itself is tried too."""
DRESSED, LONGEST = 0.3, 40
"""Of the anchors of at most so many words, how many are also read in a dress."""
REPLY = 24
"""Tokens of the model's own replies behind which a header is appended, at most."""
ROWS, TOKENS = 24, 3000
"""Of one forward, at most."""

LEARNT: tuple[SplitName, ...] = ("safe", "unsafe", "more_safe", "more_unsafe")
Ids = tuple[int, ...]
States = dict[int, Tensor]
"""layer -> [tokens, width] float16 of one row, from the start of its last turn on."""


def layers_read(count: int) -> tuple[int, ...]:
    """The layers that are read of a model with `count`, from 1."""
    return tuple(sorted({max(1, round(depth * count)) for depth in DEPTHS}))


@dataclass(frozen=True)
class DressedRequest:
    """One request in one dress as ids, with where its last turn begins."""

    ids: Ids
    start: int
    harmful: bool = False
    dress: Dress = BARE
    said: int = 0  # of the ids, those behind the prompt: a reply under way and a header

    @property
    def kind(self) -> str:
        return self.dress.kind


def _worn(chat: Chat, text: str, dress: Dress, harmful: bool) -> DressedRequest:
    messages = dress.wear(text)
    ids = chat.layout(messages).ids
    return DressedRequest(ids, chat.turn_start(messages, (), ids), harmful, dress)


def gate_for(
    backbone: Backbone,
    validation: tuple[Sequence[Instruction], Sequence[Instruction]],
    work: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Gate | None:
    """A gate for `backbone`, or None where its hidden states do not tell (AUC below LEAST_AUC) or cannot be read.

    validation: (harmless, harmful) instructions; thresholds are set on them. work: a folder in which the gate is kept
    while a run lasts, so that a killed one does not learn it again. The anchors are the bundled instructions.
    """
    kept = kept_gate(work) if work is not None else None
    made_of = _made_of(backbone, validation, seed)
    known = _read(kept, made_of) if kept is not None else None
    if known is not None:
        return known
    if decoder_layers(backbone.model) is None:
        return None
    found = _learn(backbone, validation, seed, progress)
    if found is not None and kept is not None:
        document = json.dumps({**found.document(), "made_of": made_of})
        write_beside(kept, as_safetensors({"weights": found.weights}, metadata={"format": "pt", "gate": document}))
    return found


def kept_gate(work: Path) -> Path:
    """Where a run keeps its gate until it ends."""
    return work / "gate.safetensors"


def _made_of(backbone: Backbone, validation: tuple[Sequence[Instruction], Sequence[Instruction]], seed: int) -> str:
    """A hash of all that a gate comes from."""
    texts = [row.text for part in validation for row in part]
    for name in LEARNT:
        texts += [row.text for row in anchor_data.bundled_instructions(name)]
    parts = [str(seed), backbone.fingerprint, str(backbone.dtype), str(backbone.tokenizer.chat_template), *texts]
    parts.append(dresses_digest())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(path: Path, made_of: str) -> Gate | None:
    """The gate an earlier start of the same run kept, if it is whole."""
    try:
        with safe_open(str(path), framework="pt") as file:
            document: dict[str, Any] = json.loads(file.metadata()["gate"])
        gate = Gate.of(document, load_file(str(path))["weights"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, GateError):
        return None
    return gate if document.get("made_of") == made_of else None


def _learn(
    backbone: Backbone, validation: tuple[Sequence[Instruction], Sequence[Instruction]], seed: int, progress: bool
) -> Gate | None:
    chat, rng = Chat(backbone.tokenizer), random.Random(seed)
    kinds = list(by_kind())

    def requests(rows: Sequence[Instruction], harmful: bool, share: float) -> list[DressedRequest]:
        """Every one bare, and a share of them also in a dress; kinds are equally likely."""
        made = []
        for row in rows:
            made.append(_worn(chat, row.text, BARE, harmful))
            if rng.random() < share and len(row.text.split()) <= LONGEST:
                made.append(_worn(chat, row.text, rng.choice(by_kind()[rng.choice(kinds)]), harmful))
        return made

    held_out = [row for part in validation for row in part]  # also where somebody's own are among the bundled ones
    rows = {name: anchor_data.without(anchor_data.bundled_instructions(name), held_out) for name in LEARNT}
    learnt = [request for name in LEARNT for request in requests(rows[name], "unsafe" in name, DRESSED)]
    tried = [*requests(validation[0], False, 0.6), *requests(validation[1], True, 0.6)]
    first = sum(len(rows[name]) for name in LEARNT[:2])
    bare = [each for each in learnt if each.kind == BARE.kind][:first]
    replies, tried_replies = (
        _replied(backbone, chat, group[::3], rng) if chat.appended_header else []
        for group in (bare, [each for each in tried if each.kind == BARE.kind])
    )
    layers = layers_read(len(decoder_layers(backbone.model) or ()))
    groups = (learnt, tried, replies, tried_replies)
    with Bar("Reading anchors", sum(map(len, groups)), shown=progress) as bar:
        states = [hidden_states(backbone, group, layers, bar.advance) for group in groups]
    best: tuple[float, Gate] | None = None
    choices = dict.fromkeys([(layers[len(layers) // 2],), layers])
    with Bar("Fitting readings", len(choices), shown=progress) as bar:
        for chosen in choices:
            try:
                gate = _fitted(backbone, chosen, groups, states)
            except GateError:  # states that are not finite, or too few of a kind: nothing to read there
                continue
            finally:
                bar.advance()
            if best is None or gate.metrics["auc"] > best[0]:
                best = gate.metrics["auc"], gate
    return best[1] if best is not None and best[0] >= LEAST_AUC else None


def _replied(
    backbone: Backbone, chat: Chat, requests: Sequence[DressedRequest], rng: random.Random
) -> list[DressedRequest]:
    """`requests` with the start of the model's own greedy reply and a header behind it: what is read again."""
    rows = [request.ids for request in requests]
    shared = shared_start(rows)
    said = greedy(backbone, prefill(backbone, rows[0][:shared]), [row[shared:] for row in rows], max_tokens=REPLY)
    made = []
    for request, reply in zip(requests, said):
        behind = (*reply[: rng.randint(4, REPLY)], *chat.appended_header)
        made.append(replace(request, ids=(*request.ids, *behind), said=len(behind)))
    return made


@torch.no_grad()
def hidden_states(
    backbone: Backbone, requests: Sequence[DressedRequest], layers: Sequence[int], done: Callable[[int], None]
) -> list[States]:
    """The states of every request's last turn, in order. What requests start with alike is run once."""
    found: list[States] = [{} for _ in requests]

    def alike(at: int) -> tuple[str, Ids]:
        return requests[at].dress.name, requests[at].ids[: requests[at].start]

    for _, members in groupby(sorted(range(len(requests)), key=alike), key=alike):
        same = sorted(members, key=lambda at: len(requests[at].ids))
        shared = shared_start([requests[at].ids for at in same]) if len(same) > 1 else 0
        before: dict[int, Tensor] = {}
        prefix = _prefix(backbone, requests[same[0]].ids[:shared], layers, before) if shared > 8 else None
        shared = prefix.length if prefix is not None else 0
        while same:
            size = 1
            while size < min(len(same), ROWS) and (size + 1) * (len(requests[same[size]].ids) - shared) <= TOKENS:
                size += 1
            part, same = same[:size], same[size:]
            rows = [requests[at].ids[shared:] for at in part]
            width = max(map(len, rows))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=backbone.device)
            cache = prefix.cache(backbone, len(rows)) if prefix else DynamicCache(config=backbone.model.config)
            seen = backbone.forward(
                backbone.embed(ids),
                positions=(shared + torch.arange(width, device=ids.device)).expand(len(rows), -1),
                mask=torch.ones(len(rows), shared + width, dtype=torch.long, device=ids.device),
                cache=cache,
                layers=layers,
                only_layers=True,
            ).states
            for place, at in enumerate(part):
                start = requests[at].start
                for layer in layers:
                    own = seen[layer][place, max(0, start - shared) : len(rows[place])]
                    turn = torch.cat([before[layer][0, start:shared], own]) if start < shared else own
                    found[at][layer] = _half(turn)
            done(len(part))
    return found


def _prefix(backbone: Backbone, ids: Ids, layers: Sequence[int], states: dict[int, Tensor]) -> Prefix | None:
    """Keys and values of `ids` as far as `layers` need them; the layers' outputs come into `states`. None where the
    model does not keep those of every token."""
    cache = DynamicCache(config=backbone.model.config)
    embeds = backbone.embed(torch.tensor([ids], device=backbone.device))
    states.update(backbone.forward(embeds, cache=cache, layers=layers, only_layers=True).states)
    kept = keys_and_values(cache, len(ids), max(layers))
    return None if kept is None else Prefix(len(ids), (), kept)


def _half(states: Tensor) -> Tensor:
    """float16 on the CPU; a few residual streams hold more than it can."""
    return states.float().clamp(-60000.0, 60000.0).to("cpu", torch.float16).clone()


def readings(backbone: Backbone, gate: Gate, rows: Sequence[Ids], starts: Sequence[int]) -> list[float]:
    """What `gate` reads of prompts given as ids, each with where its last turn begins."""
    requests = [DressedRequest(tuple(ids), start) for ids, start in zip(rows, starts)]
    return [_of(gate, states) for states in hidden_states(backbone, requests, gate.layers, lambda _: None)]


def _of(gate: Gate, states: States) -> float:
    whole = {layer: states[layer].float() for layer in gate.layers}
    last = {layer: state[-1:] for layer, state in whole.items()}
    return gate.of_prompt(gate.logits("token", whole).tolist(), float(gate.logits("header", last)))


class _Turns(Sequence[Tensor]):
    """The states of every prompt's last turn [tokens, layers * width] float16, put together when asked for: a fit
    holds them once more, as it needs them, and that is enough of a wide model's."""

    def __init__(self, states: Sequence[States], requests: Sequence[DressedRequest], layers: Sequence[int]) -> None:
        self.states, self.requests, self.layers = states, requests, layers

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, at: Any) -> Any:
        row, request = self.states[at], self.requests[at]
        return torch.cat([row[layer][: len(row[layer]) - request.said] for layer in self.layers], -1)


def _fitted(
    backbone: Backbone,
    layers: tuple[int, ...],
    groups: Sequence[Sequence[DressedRequest]],
    states: Sequence[Sequence[States]],
) -> Gate:
    """The three readings of some layers, how they are added up, their thresholds, and how well they tell the validation
    requests apart."""
    learnt, tried, _, tried_replies = (
        torch.tensor([float(each.harmful) for each in group], dtype=torch.float32) for group in groups
    )

    def turns(part: int) -> _Turns:
        return _Turns(states[part], groups[part], layers)

    def ends(part: int) -> list[Tensor]:
        return [torch.cat([row[layer][-1:] for layer in layers], -1) for row in states[part]]

    token = fit_pooled(turns(0), learnt, RIDGE["token"] * len(layers) ** 0.5)
    header = fit_pooled(ends(0), learnt, RIDGE["header"])

    def both(part: int) -> tuple[Tensor, Tensor]:
        return pool(turns(part), *token), pool([row[-1:].clone() for row in turns(part)], *header)

    pooled, at_header = both(1)
    harmless = tried == 0
    shares, bias = _added(pooled, at_header, tried)
    pooled, at_header = shares[0] * pooled + bias, shares[1] * at_header
    # What a prompt without a header lacks is to make no difference at the threshold.
    shift = _limit((pooled + at_header)[harmless]) - _limit(pooled[harmless])
    pooled, at_header = pooled + shift, at_header - shift
    whole = pooled + at_header
    kinds = [request.kind for request in groups[1]]
    prompt = _levels(whole, harmless)
    appended, carried, reply, auc_reply = (token[0] * 0, 0.0), 0.0, None, None
    if groups[2]:
        appended = fit_pooled(
            ends(2), torch.tensor([float(each.harmful) for each in groups[2]], dtype=torch.float32), RIDGE["appended"]
        )
        one, other = both(3)
        before = shares[0] * one + bias + shares[1] * other
        again = pool(ends(3), *appended)
        counted, _ = _added(again, before, tried_replies)
        carried = min(1.0, counted[1] / counted[0])  # a reply must be able to open the gate by itself
        again = again + carried * before
        reply, auc_reply = _levels(again, tried_replies == 0), auc(again, tried_replies)
    metrics = {
        "auc": round(auc(whole, tried), 4),
        "auc_by_dress": {
            kind: round(auc(whole[at], tried[at]), 4)
            for kind in sorted(set(kinds))
            if (at := torch.tensor([each == kind for each in kinds])).any() and len(set(tried[at].tolist())) == 2
        },
        "auc_in_replies": None if auc_reply is None else round(auc_reply, 4),
        "harmless_flagged": round(prompt.share(), 4),
        "harmful_flagged": round(prompt.caught(), 4),
        "curve": [[share, round(prompt.caught(prompt.at(share)), 4)] for share in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)],
        "anchors": len(groups[0]),
    }
    weights = torch.stack([shares[0] * token[0], shares[1] * header[0], appended[0]])
    return Gate(
        layers,
        weights.view(3, len(layers), -1).contiguous(),
        (
            shares[0] * token[1] + bias + float(shift),
            shares[1] * header[1] - float(shift),
            appended[1],
        ),
        prompt,
        reply,
        backbone.model_id,
        backbone.fingerprint,
        metrics,
        carried,
    )


def _added(one: Tensor, other: Tensor, labels: Tensor) -> tuple[tuple[float, float], float]:
    """How two readings add up to log odds of harm: weights, none below 0, and a bias."""
    found, bias = fit_pooled(list(torch.stack([one, other], -1)[:, None]), labels, 1e-3)
    first, second = found.tolist()
    return (max(first, 1e-3), max(second, 0.0)), bias  # the first is what the other is a share of


def _limit(harmless: Tensor) -> Tensor:
    return harmless.quantile(1.0 - SHARE)


def _levels(values: Tensor, harmless: Tensor) -> Levels:
    limit = float(_limit(values[harmless]))
    return Levels(tuple(values[harmless].tolist()), tuple(values[~harmless].tolist()), round(limit, 4))
