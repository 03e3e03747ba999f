"""Any mix of concurrent requests gives what the same requests give alone. Hypothesis drives the engine round by round:
who arrives when, with which method, strength, pair, length and seed, who is cancelled, and whose settings raise."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from acd_core import ContrastiveLM, PromptPair
from acd_core.engine import EngineOptions
from acd_core.engine.request import Reply
from acd_core.methods import sampling
from acd_core.reply.pieces import Piece, SessionItem
from acd_core.reply.session import Session
from tests.core.tiny import family

PAIRS = [
    PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data"),
    PromptPair.from_texts("answer questions about user data and be safe", "quick brown systems"),
]
PROMPTS = [f"the quick brown fox {'jumps over a lazy dog ' * (n % 4)}while data {n}" for n in range(24)]
RAISING_SEED = 1313
SAMPLING = [{"temperature": 0.9}, {"temperature": 1.3, "top_p": 0.8}, {"temperature": 0.7, "top_k": 5}]


@dataclass(frozen=True)
class Asked:
    """One request of a mix: what is asked (hashable, so that its reply alone is computed once) and what befalls it."""

    prompt: int
    pair: int
    settings: tuple[tuple[str, Any], ...]
    arrives: int = field(compare=False)
    cancelled_at: int | None = field(compare=False)
    raises: bool = field(compare=False)

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.settings)


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    method = draw(st.sampled_from(["acd", "acd", "sp", "none", "rose", "instructive-null", "safe-prompt"]))
    chosen: dict[str, Any] = {"method": method, "max_tokens": draw(st.integers(1, 18)), "seed": 7}
    if draw(st.booleans()):
        chosen["alpha"] = draw(st.sampled_from([0.0, 0.2, 0.5, 0.7]))
    if draw(st.integers(0, 3)) == 0:
        chosen["contrast_tokens"] = draw(st.sampled_from([0, 1, 4]))
    if draw(st.integers(0, 2)) == 0:
        chosen |= draw(st.sampled_from(SAMPLING))
    if draw(st.integers(0, 4)) == 0:
        chosen["repetition_penalty"] = 1.3
    if draw(st.integers(0, 4)) == 0:
        chosen["plausibility"] = 0.1
    raises = draw(st.integers(0, 7)) == 0
    if raises:
        chosen |= {"temperature": 0.9, "seed": RAISING_SEED}
    return Asked(
        draw(st.integers(0, len(PROMPTS) - 1)),
        draw(st.integers(0, 1)),
        tuple(sorted(chosen.items())),
        draw(st.integers(0, 14)),
        draw(st.one_of(st.none(), st.none(), st.integers(0, 20))),
        raises,
    )


@pytest.fixture
def raising_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sampling.Sampler.draw

    def draw(self: Any, warped: torch.Tensor) -> torch.Tensor:
        if self.seed == RAISING_SEED:
            raise ValueError("a processor of this request raised")
        return plain(self, warped)

    monkeypatch.setattr(sampling.Sampler, "draw", draw)


_alone: dict[tuple[str, Asked], tuple[int, ...]] = {}


def alone(name: str, asked: Asked) -> tuple[int, ...]:
    """The reply of one request in an engine of its own."""
    key = (name, asked)
    if key not in _alone:
        with ContrastiveLM.from_model(*family(name), PAIRS[asked.pair]) as lm:
            _alone[key] = lm.generate(PROMPTS[asked.prompt], **asked.params).token_ids
    return _alone[key]


def run_mix(name: str, mix: list[Asked], options: EngineOptions) -> tuple[list[SessionItem | None], Any]:
    """The last item of every request, with the engine driven by hand so that arrivals fall where they are drawn."""
    lms = [ContrastiveLM.from_model(*family(name), pair, options=options) for pair in PAIRS]
    engine = lms[0].engine
    assert engine is lms[1].engine
    engine._thread = threading.current_thread()  # nobody else may serve
    last: list[SessionItem | None] = [None] * len(mix)
    sessions: list[Session | None] = [None] * len(mix)

    def sink(number: int) -> Any:
        def put(tagged: tuple[int, SessionItem]) -> None:
            if not isinstance(tagged[1], Piece):
                assert last[number] is None, "two last words"
                last[number] = tagged[1]

        return put

    with torch.inference_mode():
        round_ = 0
        while round_ <= 20 or engine._all():
            for number, asked in enumerate(mix):
                if asked.arrives == round_:
                    lm = lms[asked.pair]
                    plan = lm._plan(PROMPTS[asked.prompt], lm._asked(None, dict(asked.params)))
                    session = sessions[number] = Session(plan, sink(number))
                    engine.submit(session.start())
                current = sessions[number]
                if asked.cancelled_at is not None and round_ >= asked.cancelled_at and current is not None:
                    assert current.current is not None
                    engine.cancel(current.current)
            if engine._all():
                engine._round()
            round_ += 1
            assert round_ < 2000, "the engine makes no progress"
    assert engine.active_rows == 0, "rows were leaked"
    engine._thread = None
    for lm in lms:
        lm.close()
    return last, engine


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_any_mix_is_each_alone(name: str, raising_draws: None) -> None:
    tokens: set[int] = set()
    most = [0]

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=[Phase.generate],
    )
    @given(
        mix=st.lists(requests(), min_size=2, max_size=9),
        rows=st.sampled_from([2, 5, 64]),
        chunk=st.sampled_from([6, 64, 1024]),
        prefix=st.sampled_from([0, 2**24]),
        decode=st.sampled_from(["eager", "static"]),
    )
    def check(mix: list[Asked], rows: int, chunk: int, prefix: int, decode: Any) -> None:
        options = EngineOptions(max_rows=rows, prefill_tokens=chunk, prefix_bytes=prefix, decode=decode)
        last, engine = run_mix(name, mix, options)
        for asked, word in zip(mix, last):
            if isinstance(word, Reply):
                assert not (asked.raises and len(word.token_ids) > 0)
                assert word.token_ids == alone(name, asked)
                tokens.update(word.token_ids)
            else:
                assert isinstance(word, Exception)
                assert asked.raises or asked.cancelled_at is not None
        most[0] = max(most[0], engine.counters.most_rows)
        event(f"{sum(isinstance(word, Reply) for word in last)} of {len(mix)} ended by themselves")

    check()
    assert len(tokens) >= 20, "the models echo: the identity would be vacuous"
    assert most[0] >= 4, "nothing ran together"
