"""One choice of tokens: streams' logits joined, masked, bent and drawn from, for all requests of a forward at once."""

from __future__ import annotations

import functools
import math
from collections.abc import MutableMapping, Sequence

import torch

from acd_core.engine import faults
from acd_core.engine.request import Request
from acd_core.errors import EngineError, one_line
from acd_core.methods import rules
from acd_core.methods.sampling import warp
from acd_core.params import TokenLogprob


def choose(
    requests: Sequence[Request],
    kept: torch.Tensor,
    others: Sequence[Sequence[torch.Tensor]],
    rows: Sequence[Sequence[int]] | None = None,
) -> list[int | Exception]:
    """The next token of every request, or the error that its own settings raised, or its own logits.

    kept: [requests, vocab] logits of the kept rows. others: logits [vocab] of the other streams' rows, none where
    there is no contrast. rows: the places of all in the cache, for messages. Whether the best score is finite travels
    with the token, as -1.
    Order: contrast in float32, grammar, repetition penalty and the model's own processors, plausibility, temperature,
    top-k, top-p, min-p, draw.
    """
    failed: dict[int, Exception] = {}
    joined = join(requests, kept.float(), others, failed)
    scores = list(joined)
    picks: list[torch.Tensor | Exception | None] = [failed.get(index) for index in range(len(requests))]
    groups: dict[tuple[float, int, float, float], list[int]] = {}
    for index, request in enumerate(requests):
        if index in failed:
            continue
        try:
            scores[index] = constrain(request, joined[index], kept[index])
        except Exception as error:
            picks[index] = error
            continue
        if request.matcher is not None or request.sampler.may_forbid:  # a mask may hide what is not finite
            worst = joined[index].amax()
            scores[index] = torch.where(worst.isfinite(), scores[index], worst)
        groups.setdefault(request.sampler.signature, []).append(index)
    for members in groups.values():
        for index, pick in zip(members, _picked([requests[each] for each in members], [scores[i] for i in members])):
            picks[index] = pick
    tokens = _hand_out(picks)
    for index, (request, score, token) in enumerate(zip(requests, joined, tokens)):
        try:
            if token == -1:
                tokens[index] = faults.no_token_error(
                    request, kept[index], others[index], score, None if rows is None else rows[index]
                )
            elif request.asked.logprobs is not None and isinstance(token, int):
                _record_logprobs(request, score, token)
        except Exception as error:
            tokens[index] = error
    return tokens


def _picked(requests: Sequence[Request], scores: Sequence[torch.Tensor]) -> list[torch.Tensor | Exception]:
    """The token of each of `requests`, whose settings are the same, from its scores [vocab]; -1 for scores whose best
    is not finite. Those are drawn from as if all tokens were alike: on a GPU a draw from NaN ends the process."""
    try:
        warped = warp(torch.stack(list(scores)), requests[0].sampler.signature)
        greedy = requests[0].sampler.greedy
        best = warped.argmax(dim=-1)  # NaN counts as the largest
        sound = warped.gather(-1, best[:, None])[:, 0].isfinite()
        if greedy:
            return list(best.masked_fill(~sound, -1))
        warped = warped.where(sound[:, None], 0.0)
    except Exception as error:
        return [error] * len(requests)
    picks: list[torch.Tensor | Exception] = []
    for request, row, fine in zip(requests, warped, sound):
        try:
            picks.append(request.sampler.draw(row).where(fine, -1))
        except Exception as error:
            picks.append(error)
    return picks


def join(
    requests: Sequence[Request],
    kept: torch.Tensor,
    others: Sequence[Sequence[torch.Tensor]],
    failed: MutableMapping[int, Exception] | None = None,
) -> list[torch.Tensor]:
    """The joined score [vocab] of every request, with its divergence noted.

    kept: [requests, vocab] float32. others: logits [vocab] of the other streams; none: the kept one as it is. failed:
    takes the error of a method's own rule or strength by the request's place; None: it is raised.
    """
    scores: list[torch.Tensor] = list(kept)
    groups: dict[rules.Rule, list[int]] = {}
    for index, rows in enumerate(others):
        if rows:
            groups.setdefault(requests[index].asked.rule, []).append(index)
    waiting = list(groups.items())
    while waiting:
        rule, members = waiting.pop()
        try:
            joined, distance = _joined(rule, requests, members, kept, others)
        except Exception as error:
            if failed is None:
                raise
            if len(members) > 1:  # whose rule or strength it is will be seen
                waiting += [(rule, [index]) for index in members]
            else:
                failed[members[0]] = _own_error(requests[members[0]], error)
            continue
        for place, index in enumerate(members):
            request = requests[index]
            scores[index] = joined[place]
            request.contrasted += 1
            request.divergences.append(distance[place])  # summed at the end: no kernel for it per token and request
    return scores


def _joined(
    rule: rules.Rule,
    requests: Sequence[Request],
    members: Sequence[int],
    kept: torch.Tensor,
    others: Sequence[Sequence[torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores [members, vocab] of requests of one rule, and how far their streams are apart [members]."""
    first = kept[list(members)]
    if all(len(others[index]) == 1 for index in members):
        second = torch.stack([others[index][0] for index in members]).float()
    else:
        second = torch.stack([rules.mixed(others[index], requests[index].asked.weights) for index in members])
    settings = tuple((requests[index].alpha, requests[index].asked.rescale) for index in members)
    alpha, rescale = _strengths(settings, kept.device)
    own = {
        place: _of_this_token(requests[index], kept[index], others[index])
        for place, index in enumerate(members)
        if requests[index].asked.strength is not None
    }
    if own:
        alpha = torch.stack([own.get(place, alpha[place, 0]) for place in range(len(members))])[:, None]
    joined = rule(first, second, alpha, rescale)
    if own:
        joined = torch.where(alpha == 0.0, first, joined)
    # What the kept row rules out stays out: -inf minus -inf is NaN.
    joined.masked_fill_(first == -torch.inf, -torch.inf)
    return joined, rules.divergence(first, second)


def _of_this_token(request: Request, kept: torch.Tensor, others: Sequence[torch.Tensor]) -> torch.Tensor:
    """alpha (scalar, float32) of the next token, where the method makes it anew for each."""
    strength, gating = request.asked.strength, request.gating
    assert strength is not None
    reading = gating.reading if gating is not None else None
    rows = [each.float() for each in others]
    alpha = strength.at(rules.Moment(request.alpha, tuple(request.generated), kept, rows, reading))
    if not isinstance(alpha, torch.Tensor) and not math.isfinite(alpha):
        raise ValueError(f"{alpha} is no strength")
    found = torch.as_tensor(alpha, dtype=torch.float32, device=kept.device).reshape(())
    return found.clamp(strength.least, strength.most)


def _own_error(request: Request, error: Exception) -> EngineError:
    """The error of a request whose method's own rule or strength raised `error`."""
    found = EngineError(
        f"The rule or the strength of the method {request.asked.method!r} failed after {len(request.generated)} "
        f"tokens: {type(error).__name__}: {one_line(error, 160)}",
        hint="It is the method's own: see acd_core.methods.table.add_method.",
    )
    found.__cause__ = error
    return found


@functools.lru_cache(maxsize=256)
def _strengths(settings: tuple[tuple[float, bool], ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and rescale [n, 1] on the device: the same at every step, so that no step copies them there."""
    alpha = torch.tensor([[strength] for strength, _ in settings], dtype=torch.float32, device=device)
    return alpha, torch.tensor([[rescale] for _, rescale in settings], device=device)


def constrain(request: Request, score: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Grammar, what the model's own decoding asks for, and plausibility on one score [vocab]."""
    masked, held = _held(request, score)
    narrows = request.matcher is not None or request.sampler.may_forbid
    if request.asked.rule.narrows and request.contrasting and narrows:
        alone, alone_held = _held(request, kept.float())
        masked = torch.where(torch.isneginf(masked).all(), alone, masked)
        held = torch.where(torch.isneginf(held).all(), alone_held, held)
    if request.sampler.may_forbid and request.matcher is not None:
        # A document that the grammar demands comes before what the model's config would rather not see.
        held = torch.where(torch.isneginf(held).all(), masked, held)
    if request.asked.plausibility > 0.0 and request.contrasting:
        allowed = kept.float().masked_fill(torch.isneginf(held), -torch.inf)[None]
        head = rules.plausible(
            allowed, torch.tensor([[request.asked.plausibility]], dtype=torch.float32, device=held.device)
        )[0]
        held = held.masked_fill(~head, -torch.inf)
    return held


def _held(request: Request, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """score [vocab] under the grammar, and under the repetition penalty and the model's own processors as well."""
    masked = score if request.matcher is None else request.matcher.mask(score)
    if not request.sampler.changes_scores:
        return masked, masked
    prompt, begun = request.kept.visible, request.moved_tokens or 0
    return masked, request.sampler.adjusted(masked[None], prompt, request.generated, begun)[0]


def _record_logprobs(request: Request, score: torch.Tensor, token: int) -> None:
    """Keep the chosen token's log-probability and the best others, under `score` [vocab]."""
    asked = request.asked.logprobs
    assert asked is not None
    logs = score.log_softmax(dim=-1)
    best: tuple[tuple[int, float], ...] = ()
    if asked:
        values, ids = logs.topk(min(asked, logs.shape[-1]))
        best = tuple(zip(ids.tolist(), values.tolist()))
    request.token_logprobs.append(TokenLogprob(token, float(logs[token]), best))


def _hand_out(picks: Sequence[torch.Tensor | Exception | None]) -> list[int | Exception]:
    """All chosen ids with one copy off the device."""
    chosen = [pick for pick in picks if isinstance(pick, torch.Tensor)]
    ids = iter(torch.stack(chosen).tolist() if chosen else [])
    return [next(ids) if isinstance(pick, torch.Tensor) else pick for pick in picks]  # type: ignore[misc]
