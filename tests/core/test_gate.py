"""The gate: a closed one is the model alone, an open one the method."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import Gate, Levels
from acd_core.engine import EngineOptions
from acd_core.model.hidden_states import reading_layers
from acd_core.params import Done, TextDelta
from tests.core.gated import ALWAYS, BEGUN, NEVER, NEW, PROMPTS, TURNS, gate, open_lm, reading_of
from tests.core.tiny import family
from tests.core.waiting import quiet


def middle() -> float:
    """A threshold that opens for half of PROMPTS, in the widest gap near there so that rounding moves none across."""
    ordered = sorted(reading_of(prompt) for prompt in PROMPTS)
    gaps = [(ordered[at + 1] - ordered[at], at) for at in range(5, 10)]
    at = max(gaps)[1]
    return (ordered[at] + ordered[at + 1]) / 2


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "mixtral"])
@pytest.mark.parametrize(
    "conversation", ["hello world", TURNS, "the quick brown fox " * 30], ids=["short", "turns", "long"]
)
def test_a_reading_is_made_of_the_layers_outputs_at_the_last_turn_and_the_header(name: str, conversation: Any) -> None:
    model, _ = family(name)
    found = gate(NEVER, layers=(1, 2))
    with open_lm(name, found, options=EngineOptions(prefill_tokens=8)) as lm:  # in many chunks
        said = lm.generate(conversation, max_tokens=1).report.gate
        ids = lm.chat.layout(conversation).ids
        start = lm.chat.turn_start(conversation, (), ids)
        assert 0 < start < len(ids)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    read = [sum(states[layer][0] @ found.weights[head, at] for at, layer in enumerate(found.layers)) for head in (0, 1)]
    tokens, header = (read[0] + 0.1)[start:], float(read[1][-1]) + 0.2
    expected = float(tokens.topk(3).values.mean()) + header
    assert said is not None
    assert said.reading == pytest.approx(expected, abs=5e-3)
    assert said.threshold == NEVER
    assert not said.opened


@pytest.mark.parametrize(
    "conversation", [PROMPTS[0], PROMPTS[3], TURNS, BEGUN], ids=["short", "long", "turns", "begun"]
)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 5}], ids=["greedy", "sampled"])
def test_a_closed_gate_is_the_model_alone(conversation: Any, sampling: dict[str, Any]) -> None:
    # Without a prefix store both are computed in the same shapes, so that even the last bit must agree.
    with open_lm(found=gate(NEVER), options=EngineOptions(prefix_bytes=0)) as lm:
        asked = {"max_tokens": NEW, "logprobs": 3, "recheck": 4, **sampling}
        gated = lm.generate(conversation, **asked)
        asked.pop("recheck")
        alone = lm.generate(conversation, method="none", **asked)
        assert gated.report.gate is not None
        begun = conversation is BEGUN
        assert gated.report.gate.readings == 1 + begun + (NEW - 1) // 4
        for name in ("text", "token_ids", "finish_reason", "logprobs"):
            assert getattr(gated, name) == getattr(alone, name), name
        assert gated.usage == alone.usage
        assert gated.report.contrasted_tokens == 0
    with open_lm(found=gate(NEVER)) as lm:
        for _ in range(2):  # the second time from the prefix store
            gated, alone = (lm.generate(conversation, method=name, **asked) for name in ("acd", "none"))
            assert gated.token_ids == alone.token_ids
        assert gated.usage == alone.usage
        assert gated.usage.cached_tokens > 0


@pytest.mark.parametrize("method", ["acd", "sp", "rose", "adacd", "self-reminder", "in-context-defense"])
def test_an_open_gate_is_the_method(method: str) -> None:
    with open_lm(found=gate(ALWAYS)) as lm:
        for conversation in (PROMPTS[1], TURNS):
            gated = lm.generate(conversation, method=method, max_tokens=NEW)
            ungated = lm.generate(conversation, method=method, max_tokens=NEW, gate=False)
            assert gated.token_ids == ungated.token_ids
            assert gated.report.gate is not None
            assert gated.report.gate.opened_at == 0
            assert gated.report.mean_divergence == pytest.approx(ungated.report.mean_divergence, abs=1e-4)
            assert replace(gated.report, gate=None, mean_divergence=0.0) == replace(ungated.report, mean_divergence=0.0)


def test_what_cannot_be_read_opens_the_gate_and_says_so() -> None:
    with open_lm(found=gate(NEVER, None)) as lm:  # the template has no header to append
        said = lm.generate(BEGUN, max_tokens=4).report
        assert said.gate is not None
        assert (said.gate.opened_at, said.gate.reading, said.gate.readings) == (0, None, 1)
        assert said.contrasted_tokens == 4


def test_hidden_states_that_are_no_numbers_open_the_gate_and_say_so() -> None:
    model, tokenizer = family("qwen2", seed=11)
    width = model.get_input_embeddings().weight.shape[1]
    pair = PromptPair(torch.randn(4, width) * 0.2, torch.randn(5, width) * 0.2, gate=gate(NEVER, layers=(1,)))
    with ContrastiveLM.from_model(model, tokenizer, pair) as lm:
        plain = Gate.logits
        try:
            Gate.logits = lambda self, *asked: plain(self, *asked) * float("nan")  # type: ignore[method-assign]
            said = lm.generate("hello", max_tokens=3).report
        finally:
            Gate.logits = plain  # type: ignore[method-assign]
    assert said.gate is not None
    assert said.gate.opened_at == 0
    assert said.gate.reading != said.gate.reading
    assert said.contrasted_tokens == 3


def test_an_overflow_opens_the_gate_too() -> None:
    found = gate(NEVER)
    states = {layer: torch.full((1, 48), 1.0) for layer in found.layers}
    states[2][0, 5] = -math.inf
    assert torch.isnan(found.logits("header", states)).all()
    assert math.isnan(Gate.of_prompt([1.0, math.nan, 2.0], 0.0))
    assert math.isnan(Gate.of_prompt([1.0], math.nan))


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
def test_memory_that_runs_out_at_a_reading_leaves_no_begun_reply_unread(
    monkeypatch: pytest.MonkeyPatch, header: bool
) -> None:
    from acd_core.engine.step import Stepper

    plain, calls = Stepper._check, []

    def short(self: Stepper, rows: Any) -> None:
        if not calls and lm.engine.active_rows == 2:  # the begun reply has joined the other
            calls.append(len(rows))
            raise torch.OutOfMemoryError("out of memory")
        plain(self, rows)

    with open_lm(found=gate(NEVER, ALWAYS if header else None)) as lm:
        other = iter(lm.stream(PROMPTS[0], max_tokens=300, recheck=0))
        next(other)  # it is running: a request alone would fail instead of starting again
        monkeypatch.setattr(Stepper, "_check", short)
        reply = lm.generate(BEGUN, max_tokens=6, recheck=0)
        assert lm.engine.counters.out_of_memory == 1
        assert isinstance(list(other)[-1], Done)
        said = reply.report.gate
        assert said is not None
        assert said.opened_at == 0


def test_usage_of_an_opened_gate_counts_what_was_sent() -> None:
    with open_lm(found=gate(ALWAYS)) as lm:
        for method in ("acd", "rose", "adacd"):
            for _ in range(2):
                said = lm.generate(PROMPTS[3], method=method, max_tokens=3)
                assert 0 <= said.usage.cached_tokens < said.usage.prompt_tokens
                assert said.usage.prompt_tokens == len(lm.chat.layout(PROMPTS[3]))


def test_neighbouring_user_messages_are_one_turn() -> None:
    two = [{"role": "user", "content": "the lazy dog"}, {"role": "user", "content": "answer"}]
    with open_lm(found=gate(NEVER)) as lm:
        ids = lm.chat.layout(two).ids
        start = lm.chat.turn_start(two, (), ids)
        assert lm.chat.tokenizer.decode(ids[start:]).startswith("the lazy dog")
        text = [{"role": "text", "content": "hello world"}]
        assert lm.chat.turn_start(text, (), lm.chat.layout(text).ids) >= 1


def test_graded_contrast_grows_with_the_reading() -> None:
    found = gate(-10.0)
    assert found.grade(-10.0, -10.0) == 0.0
    assert found.grade(3.0, -10.0) == 1.0
    assert found.grade(-3.5, -10.0) == pytest.approx(0.5)
    assert found.grade(float("nan"), 0.0) == 1.0
    assert found.grade(1.0, -math.inf) == 1.0
    reading = reading_of(PROMPTS[0])
    near = replace(found, prompt=Levels((reading - 2.0,), (reading + 1.0,), reading - 1.0))
    with open_lm(found=near) as lm:
        said = lm.generate(PROMPTS[0], max_tokens=4, graded=True)
        assert said.report.alpha == pytest.approx(0.2, abs=1e-3)
        assert said.token_ids == lm.generate(PROMPTS[0], max_tokens=4, gate=False, alpha=said.report.alpha).token_ids


def test_mixes_of_gated_requests_equal_the_same_requests_alone() -> None:
    """Half of the gates open at the prompt, some in the reply; 500 requests in ragged waves, all methods."""
    limit = middle()
    again = 0.0
    rng = random.Random(0)
    methods = ["acd", "acd", "none", "sp", "rose", "safe-prompt", "adacd"]
    with open_lm(found=gate(limit, again)) as lm:
        alone: dict[Any, Any] = {}

        def solo(key: Any) -> Any:
            if key not in alone:
                prompt, settings = key
                alone[key] = lm.generate(PROMPTS[prompt], **dict(settings))
            return alone[key]

        opened = set()
        for _ in range(20):
            wave = []
            for _ in range(25):
                settings: dict[str, Any] = {
                    "method": rng.choice(methods), "max_tokens": rng.randint(1, 14), "logprobs": 1,
                    "recheck": rng.choice([0, 3, 5]), "temperature": rng.choice([0.0, 0.8]), "seed": rng.randint(0, 2),
                }  # fmt: skip
                wave.append((rng.randrange(len(PROMPTS)), tuple(sorted(settings.items()))))

            async def together(wave: list[Any] = wave) -> list[Any]:
                return await asyncio.gather(*(lm.agenerate(PROMPTS[prompt], **dict(rest)) for prompt, rest in wave))

            for key, reply in zip(wave, asyncio.run(together())):
                expected = solo(key)
                assert reply.token_ids == expected.token_ids
                for mine, theirs in zip(reply.logprobs, expected.logprobs):
                    assert mine.logprob == pytest.approx(theirs.logprob, abs=2e-3)
                if reply.report.gate is not None:
                    opened.add(reply.report.gate.opened_at)
                    assert reply.report.gate.opened_at == expected.report.gate.opened_at
        assert {None, 0} < opened, "gates of all fates should be in the mix"
        quiet(lm)


def test_streams_of_gated_requests_say_the_same() -> None:
    with open_lm(found=gate(middle(), 2.0 * middle())) as lm:
        for prompt in PROMPTS[:6]:
            events = list(lm.stream(prompt, max_tokens=NEW, recheck=5))
            whole = lm.generate(prompt, max_tokens=NEW, recheck=5)
            assert isinstance(events[-1], Done)
            assert "".join(each.text for each in events if isinstance(each, TextDelta)) == whole.text
            said, expected = events[-1].generation.report.gate, whole.report.gate
            assert said is not None
            assert expected is not None
            assert (said.opened_at, said.readings) == (expected.opened_at, expected.readings)


@pytest.mark.parametrize(
    ("prompt", "reply"), [(NEVER, NEVER), (ALWAYS, NEVER), (NEVER, ALWAYS)], ids=["closed", "open", "in the reply"]
)
def test_log_likelihoods_follow_the_gate(prompt: float, reply: float) -> None:
    with open_lm(found=gate(prompt, reply)) as lm:
        said = lm.generate(PROMPTS[1], max_tokens=NEW, logprobs=0, recheck=6)
        assert said.logprobs is not None
        scored = lm.loglikelihood(PROMPTS[1], said.token_ids, recheck=6)
        assert scored.token_ids == said.token_ids
        for mine, theirs in zip(scored.logprobs, said.logprobs):
            assert mine == pytest.approx(theirs.logprob, abs=2e-3)
        assert scored.is_greedy
        two = lm.loglikelihoods([(PROMPTS[1], said.token_ids[:3]), (PROMPTS[1], said.token_ids)], recheck=6)
        assert [len(each.logprobs) for each in two] == [3, len(said.token_ids)]


def test_a_forced_format_keeps_its_gate() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    for limit in (ALWAYS, NEVER):
        with open_lm(found=gate(limit)) as lm:
            said = lm.generate("hello", response_format=form, max_tokens=40)
            assert said.report.gate is not None
            assert said.report.gate.opened is (limit == ALWAYS)
            if said.refusal is None:
                assert json.loads(said.text)["a"] in ("x", "y")


# --- settings, files, mismatches ---


def test_reading_layers_leaves_no_trace() -> None:
    model, _ = family("llama")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(ids).logits  # transformers' own hooks, for output_hidden_states, are there from now on
        hooks = [len(layer._forward_hooks) for layer in model.model.layers]
        seen: dict[int, torch.Tensor] = {}
        with reading_layers(model, (2,), lambda layer, out: seen.update({layer: out}), stop=True):
            model(ids)
            raise AssertionError("the forward should have ended behind layer 2")
        assert list(seen) == [2]
        assert torch.equal(model(ids).logits, before)
    assert [len(layer._forward_hooks) for layer in model.model.layers] == hooks


def test_what_was_read_of_a_prefix_is_not_read_again() -> None:
    """Readings are kept beside keys and values, so that a long turn is not computed anew for them; what another method
    left there unread is."""
    first = "the quick brown fox jumps over a lazy dog " * 6
    steps = [{"role": "user", "content": first}]
    with open_lm(found=gate(NEVER)) as lm:
        lm.generate(steps, max_tokens=4)
        agent = [*steps, {"role": "assistant", "content": "safe"}, {"role": "user", "content": "hello"}]
        again = lm.generate(steps, max_tokens=4)
        assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
        with open_lm(found=gate(NEVER)) as fresh:
            quiet(fresh)
            fresh.engine.prefixes.clear()
            assert again.report.gate is not None
            alone = fresh.generate(steps, max_tokens=4).report.gate
            assert alone is not None
            assert again.report.gate.reading == pytest.approx(alone.reading, abs=2e-3)
        quiet(lm)
        lm.engine.prefixes.clear()
        lm.generate(steps, method="none", max_tokens=4)
        quiet(lm)
        unread = lm.generate(steps, max_tokens=4)
        assert unread.usage.cached_tokens < 20
        assert unread.report.gate is not None
        assert unread.report.gate.reading == pytest.approx(again.report.gate.reading, abs=2e-3)
        assert lm.generate(agent, max_tokens=4).report.gate is not None
