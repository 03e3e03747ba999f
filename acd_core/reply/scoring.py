"""How likely a given continuation is under the joined distribution: one teacher-forced forward over all branches.

What a benchmark of log-likelihoods (MMLU, TruthfulQA, perplexity) needs and no server gives. The branches are those the
planner makes for a reply, and the engine's own rules join them, so every method means here what it means there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple, TypeVar, Union

import torch
from transformers import DynamicCache

from acd_core.chat import Chat, Conversation
from acd_core.engine import Branch, Request
from acd_core.engine.branch import embedded
from acd_core.engine.choosing import constrain, join
from acd_core.engine.faults import check_request, embedding_rows, no_token_error
from acd_core.engine.request import Gating
from acd_core.errors import PolicyError, UsageError
from acd_core.methods.sampling import Sampler
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import by_rows
from acd_core.params import GenerationParams
from acd_core.reply.planning import Planner
from acd_core.reply.policy import Policy

FORWARD_TOKENS = 8192
"""Positions of one forward, padding included; a longer single request still goes alone."""
LOGIT_BYTES = 256 * 2**20
"""Room for the float32 logits of one forward."""

Continuation = Union[str, Sequence[int]]
Found = TypeVar("Found")


class LogLikelihood(NamedTuple):
    """`logprob`: natural logarithm, summed over the continuation's tokens. `is_greedy`: every token is the one that
    greedy decoding would pick after those before it, under the penalty in force and what the model's generation_config
    asks for. `logprobs`: one number a token of `token_ids`, before either, as in `Generation.logprobs`."""

    logprob: float
    is_greedy: bool
    logprobs: tuple[float, ...]
    token_ids: tuple[int, ...]


class _Scores(NamedTuple):
    """scores: [tokens, vocab] before each token of a continuation. picks: [tokens] ids that greedy decoding takes."""

    scores: torch.Tensor
    picks: torch.Tensor


@dataclass(frozen=True)
class _Case:
    """One continuation to be scored after the prompts of `request`, which is never submitted."""

    request: Request
    ids: tuple[int, ...]
    said: tuple[int, ...] = ()  # of the same reply before `ids`: its gate opened after them

    @property
    def joins(self) -> bool:
        """Whether this is the rest of the case before it."""
        return bool(self.said)

    @property
    def branches(self) -> list[Branch]:
        # Rows that no position needs (alpha 0, no contrasted token) are not computed.
        return list(self.request.branches[: self.step(0).rows_needed])

    def step(self, at: int) -> Request:
        """The request as the engine has it when it chooses the token `at` of `ids`."""
        return replace(self.request, generated=[*self.said, *self.ids[:at]])

    @property
    def width(self) -> int:
        return max(len(branch.ids) for branch in self.branches) + len(self.ids) - 1

    @property
    def start(self) -> int:
        """The earliest position whose logits are needed."""
        return min(len(branch.ids) for branch in self.branches) - 1


class Scorer:
    """Scores continuations with one backbone. Reads the model only: it may run beside the engine, on any thread."""

    def __init__(self, backbone: Backbone, chat: Chat, planner: Planner) -> None:
        self._backbone = backbone
        self._chat = chat
        self._planner = planner

    def score(
        self,
        pairs: Sequence[tuple[Conversation, Continuation]],
        settings: GenerationParams,
        default_method: str,
        policies: Sequence[Policy] = (),
    ) -> Iterator[LogLikelihood]:
        """One result a (conversation, continuation) pair, in order.

        A continuation is a text (encoded as plain text, as a user's would be) or token ids. alpha, plausibility,
        contrast_tokens, rescale and the method enter; sampling settings (temperature, top-k, penalty, ...) and what the
        model's generation_config bends do not, as they do not in `Generation.logprobs`. The penalty and that config
        decide `is_greedy`, though. Under plausibility a dropped token has the log-probability -inf.
        Raises UsageError for an empty continuation, an unknown token or a forced format, ContextLengthError for one
        that does not fit.
        """
        for parts in self._parts(pairs, (settings, default_method, policies), _likelihood):
            yield LogLikelihood(
                sum(part.logprob for part in parts),
                all(part.is_greedy for part in parts),
                tuple(each for part in parts for each in part.logprobs),
                tuple(each for part in parts for each in part.token_ids),
            )

    def distributions(
        self,
        pairs: Sequence[tuple[Conversation, Continuation]],
        settings: GenerationParams,
        default_method: str,
        policies: Sequence[Policy] = (),
    ) -> Iterator[torch.Tensor]:
        """float32 [tokens, vocabulary] a pair, in order: log-probabilities before each token of the continuation.

        As `score` in all else. No more than a few are held at a time.
        """
        for parts in self._parts(pairs, (settings, default_method, policies), _distribution):
            yield torch.cat(parts)

    def _parts(
        self,
        pairs: Sequence[tuple[Conversation, Continuation]],
        asked: tuple[GenerationParams, str, Sequence[Policy]],
        read: Callable[[_Case, _Scores], Found],
    ) -> Iterator[list[Found]]:
        """What `read` makes of each continuation: one part, or two where its gate opens in the middle."""
        settings, _, policies = asked
        if not all(policy.logprobs for policy in policies):
            raise PolicyError("The operator's policy allows no log-probabilities, so no log-likelihoods either.")
        if settings.response_format is not None or settings.tool_choice not in (None, "auto", "none"):
            raise UsageError(
                "A log-likelihood under a forced format is not defined here.",
                hint="Leave response_format out, and tool_choice at 'auto' or 'none'.",
            )
        cases = (case for turns, continuation in pairs for case in self._cases(turns, continuation, *asked))
        parts: list[Found] = []
        for case, found in self._scored(cases, read):
            if parts and not case.joins:
                yield parts
                parts = []
            parts.append(found)
        if parts:
            yield parts

    def _scored(self, cases: Iterator[_Case], read: Callable[[_Case, _Scores], Found]) -> Iterator[tuple[_Case, Found]]:
        group: list[_Case] = []

        def run(group: list[_Case]) -> Iterator[tuple[_Case, Found]]:
            return zip(group, self._run(group, read))

        for _, neighbours in groupby(cases, key=lambda case: [(branch.ids, branch.under) for branch in case.branches]):
            same = list(neighbours)
            if len(same) > 1 and self._fits(same, shared=True):
                yield from run(group)
                group = []
                yield from zip(same, self._run_shared(same, read))
                continue
            for case in same:
                if group and not self._fits([*group, case]):
                    yield from run(group)
                    group = []
                group.append(case)
        yield from run(group)

    def _cases(
        self,
        conversation: Conversation,
        continuation: Continuation,
        settings: GenerationParams,
        default_method: str,
        policies: Sequence[Policy],
    ) -> Iterator[_Case]:
        """The continuation as one case, or as two where the gate opens in the middle of it."""
        ids = self._chat.encode_text(continuation) if isinstance(continuation, str) else tuple(continuation)
        if not ids:
            raise UsageError("The continuation is empty.", hint="Give at least one token to score.")
        rows = embedding_rows(self._backbone)
        wrong = next((each for each in ids if not 0 <= each < min(rows, self._backbone.vocab_size)), None)
        if wrong is not None:
            raise UsageError(f"There is no token {wrong} (the model has {self._backbone.vocab_size}).")
        chosen = {"max_tokens": len(ids), "stop": (), "deadline_s": None}
        plan = self._planner.plan(conversation, settings.model_copy(update=chosen), default_method, policies)
        request = plan.make(None, _silent)
        check_request(request, self._backbone, rows)
        at = self._opens_at(request, ids)
        if at != 0:
            yield _Case(replace(request, gating=None), ids[:at])
        if at is not None:
            request.generated = list(ids[:at])
            request.open_gate()  # the branches hold what was said from now on
            yield _Case(request, ids[at:], said=ids[:at])

    @torch.inference_mode()
    def _opens_at(self, request: Request, ids: Sequence[int]) -> int | None:
        """After how many tokens of the reply `ids` the request's gate opens, as it would in the engine; None: never."""
        gating = request.gating
        if gating is None:
            return None
        prompt = request.kept.ids
        states = self._states(gating, prompt)
        turn = gating.gate.logits("token", {layer: out[gating.start :] for layer, out in states.items()}).tolist()
        header = float(gating.gate.logits("header", {layer: out[-1] for layer, out in states.items()}))
        gating.record(gating.gate.of_prompt(turn, None if gating.appended else header), 0, appended=False)
        room = self._backbone.context_length - len(prompt) - len(gating.header)
        for said in range(len(ids)):
            if not (gating.must_read(said) or (said == 0 and gating.begun_reply_unread)):
                continue
            if said > room or not gating.header:
                if said == 0:
                    gating.record(None, 0, appended=True)
                break
            states = self._states(gating, (*prompt, *ids[:said], *gating.header))
            last = {layer: out[-1] for layer, out in states.items()}
            gating.record(float(gating.gate.logits("appended", last)), said, appended=True)
        return gating.opened_at

    def _states(self, gating: Gating, ids: Sequence[int]) -> dict[int, torch.Tensor]:
        """layer -> [tokens, width] of a row of real tokens, for the layers that the gate reads."""
        embeds = self._backbone.embed(torch.tensor([list(ids)], device=self._backbone.device))
        found = self._backbone.forward(embeds.to(self._backbone.dtype), layers=gating.gate.layers, only_layers=True)
        return {layer: states[0] for layer, states in found.states.items()}

    def _fits(self, cases: Sequence[_Case], *, shared: bool = False) -> bool:
        rows = sum(len(case.branches) for case in cases)
        width = max(case.width for case in cases)
        kept = max(len(case.ids) for case in cases) if shared else width - min(case.start for case in cases)
        return rows * width <= FORWARD_TOKENS and rows * kept * self._backbone.vocab_size * 4 <= LOGIT_BYTES

    @torch.inference_mode()
    def _run(self, cases: Sequence[_Case], read: Callable[[_Case, _Scores], Found]) -> list[Found]:
        """One forward. Rows are filled up at their ends, which under a causal mask no real token sees."""
        if not cases:
            return []
        device, dtype = self._backbone.device, self._backbone.dtype
        rows = [(case, branch) for case in cases for branch in case.branches]
        width = max(case.width for case in cases)
        start = min(case.start for case in cases)
        embeds = torch.zeros((len(rows), width, self._backbone.embedding_width), dtype=dtype, device=device)
        for row, (case, branch) in enumerate(rows):
            found = self._embed(branch, case.ids[:-1])
            embeds[row, : found.shape[0]] = found
        under = by_rows([branch.interventions for _, branch in rows])
        places = self._places(0, width, len(rows))
        logits = self._backbone.forward(embeds, positions=places, last=width - start, interventions=under).logits
        results, row = [], 0
        for case in cases:
            spans = []
            for branch in case.branches:
                first = len(branch.ids) - 1 - start
                spans.append(logits[row, first : first + len(case.ids)])
                row += 1
            results.append(read(case, _decided(case, spans)))
        return results

    @torch.inference_mode()
    def _run_shared(self, cases: Sequence[_Case], read: Callable[[_Case, _Scores], Found]) -> list[Found]:
        """Continuations of one conversation: its prompts are computed once, as choices of one question need it."""
        device, dtype, count = self._backbone.device, self._backbone.dtype, len(cases)
        width = max(len(case.ids) for case in cases)
        spans: list[list[torch.Tensor]] = [[] for _ in cases]
        for branch in cases[0].branches:
            prompt = self._embed(branch, ())[None]
            before = prompt.shape[1] - 1
            cache = DynamicCache(config=self._backbone.model.config)
            self._backbone.forward(
                prompt[:, :before],
                positions=self._places(0, before, 1),
                cache=cache,
                last=1,
                interventions=by_rows([branch.interventions]),
            )
            cache.batch_repeat_interleave(count)
            rows = torch.zeros((count, width, self._backbone.embedding_width), dtype=dtype, device=device)
            rows[:, 0] = prompt[0, before]
            for row, case in enumerate(cases):
                if len(case.ids) > 1:
                    said = torch.tensor(case.ids[:-1], device=device)
                    rows[row, 1 : len(case.ids)] = self._backbone.embed(said).to(dtype)
            logits = self._backbone.forward(
                rows,
                positions=self._places(before, width, count),
                cache=cache,
                interventions=by_rows([branch.interventions] * count),
            ).logits
            for row, case in enumerate(cases):
                spans[row].append(logits[row, : len(case.ids)])
        return [read(case, _decided(case, span)) for case, span in zip(cases, spans)]

    def _places(self, start: int, count: int, rows: int) -> torch.Tensor:
        return torch.arange(start, start + count, device=self._backbone.device).expand(rows, count)

    def _embed(self, branch: Branch, said: Sequence[int]) -> torch.Tensor:
        """[tokens, width] of the branch's prompt and what was said after it."""
        return embedded(self._backbone, branch.followed_by(said))


def _decided(case: _Case, spans: Sequence[torch.Tensor]) -> _Scores:
    """What the method makes of the branches' logits, all [tokens, vocab], before each token of the continuation."""
    steps = [case.step(at) for at in range(len(case.ids))]
    kept = spans[0].float()
    others = [[span[at] for span in spans[1:]] if step.contrasting else [] for at, step in enumerate(steps)]
    joined = join(steps, kept, others)
    finite = torch.stack(list(joined)).amax(-1).isfinite()
    if not bool(finite.all()):
        at = int(finite.logical_not().nonzero()[0])
        raise no_token_error(steps[at], kept[at], others[at], joined[at], None)
    bent = torch.stack([constrain(*each) for each in zip(steps, joined, kept)])
    picks = bent.argmax(dim=-1)
    if not case.request.sampler.changes_scores:
        return _Scores(bent, picks)
    unbent = Sampler(GenerationParams(), kept.device)
    plain = torch.stack([constrain(replace(step, sampler=unbent), *each) for step, *each in zip(steps, joined, kept)])
    # Under plausibility a token has to be likely beside the best one: of all, or of those that the config leaves.
    allowed = ~(plain.isneginf() & bent.isneginf())
    return _Scores(torch.stack(list(joined)).masked_fill(~allowed, -torch.inf), picks)


def _likelihood(case: _Case, found: _Scores) -> LogLikelihood:
    ids = torch.tensor(case.ids, device=found.scores.device)
    logs = found.scores.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0].double()
    return LogLikelihood(
        logprob=float(logs.sum()),
        is_greedy=bool((found.picks == ids).all()),
        logprobs=tuple(logs.tolist()),
        token_ids=case.ids,
    )


def _distribution(_: _Case, found: _Scores) -> torch.Tensor:
    return found.scores.float().log_softmax(dim=-1).cpu()


def _silent(_: object) -> None:
    """Nothing is ever submitted, so nothing is said."""
