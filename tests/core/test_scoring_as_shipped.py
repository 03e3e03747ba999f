"""Log-likelihoods of a model whose generation_config bends its decoding: they say how likely, and what greedy would."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
from transformers import GenerationConfig

from acd_core import ContrastiveLM, PromptPair
from tests.core.gated import ALWAYS, NEVER, PROMPTS, gate, open_lm
from tests.core.tiny import family

ASKED = [{"role": "user", "content": "answer questions about the lazy dog while the quick brown fox jumps"}]
PLAIN_TEXTS = ("the fox the fox the fox", "lazy lazy lazy dog", "hello world")
NEW = 24


def opened(settings: dict[str, Any], *, defaults: bool = True) -> ContrastiveLM:
    """A tiny llama with a config of its own, under a pair of texts."""
    model, tokenizer = family("llama")
    made = copy.copy(model)
    made.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0, **settings)
    pair = PromptPair.from_texts("be kind", "be rude", alpha=0.4)
    return ContrastiveLM.from_model(made, tokenizer, pair, generation_defaults=defaults)


KINDS = (
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "no_repeat_ngram_size", "repetition_penalty",
    "sequence_bias", "many",
)  # fmt: skip


@functools.cache
def bent() -> dict[str, dict[str, Any]]:
    """Configs each of which changes the greedy reply."""
    with opened({}) as lm:
        said = lm.generate(ASKED, max_tokens=NEW, method="none").token_ids
    return {
        "suppress_tokens": {"suppress_tokens": [said[0], said[3]]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [said[0]]},
        "bad_words_ids": {"bad_words_ids": [[said[1]], [said[3], said[4]]]},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
        "repetition_penalty": {"repetition_penalty": 1.4},
        "sequence_bias": {"sequence_bias": [[[said[0]], -50.0], [[40], 5.0]]},
        "many": {"repetition_penalty": 1.3, "suppress_tokens": [said[0]], "no_repeat_ngram_size": 2, "min_length": 3},
    }


METHODS: list[dict[str, Any]] = [
    {"method": "none"},
    {"method": "acd"},
    {"method": "acd", "contrast_tokens": 3},
    {"method": "acd", "repetition_penalty": 1.7},
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_own_reply_is_greedy_and_as_likely_as_it_says(kind: str) -> None:
    with opened(bent()[kind]) as lm:
        for chosen in METHODS:
            reply = lm.generate(ASKED, max_tokens=NEW, logprobs=0, **chosen)
            found = lm.loglikelihood(ASKED, reply.token_ids, **chosen)
            assert reply.logprobs is not None
            assert found.logprobs == pytest.approx([each.logprob for each in reply.logprobs], abs=2e-4)
            assert math.isfinite(found.logprob)
            assert found.is_greedy
            assert len(set(reply.token_ids)) >= 4
            other = (reply.token_ids[0] + 1) % lm.backbone.vocab_size
            assert not lm.loglikelihood(ASKED, [other, *reply.token_ids[1:]], **chosen).is_greedy


@pytest.mark.parametrize("kind", KINDS)
def test_how_likely_a_text_is_does_not_depend_on_the_config(kind: str) -> None:
    settings = bent()[kind]
    pairs = [(ASKED, text) for text in PLAIN_TEXTS]
    with opened(settings) as lm, opened({}) as plain:
        for chosen in ({"method": "none"}, {"method": "acd"}, {"method": "acd", "rescale": False}):
            mine, theirs = (each.loglikelihoods(pairs, **chosen) for each in (lm, plain))  # type: ignore[arg-type]
            for one, other in zip(mine, theirs):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        (one,), (other,) = (list(each.distributions(pairs[:1])) for each in (lm, plain))
        assert one.flatten().tolist() == pytest.approx(other.flatten().tolist(), abs=1e-4)


def test_what_the_config_rules_out_is_not_greedy_and_still_likely() -> None:
    with opened({}) as plain:
        first = plain.generate(ASKED, max_tokens=1, method="none").token_ids[0]
    for defaults in (True, False):
        with opened({"suppress_tokens": [first]}, defaults=defaults) as lm:
            found = lm.loglikelihood(ASKED, [first], method="none")
            assert found.is_greedy is not defaults
            assert found.logprob > -20


@pytest.mark.parametrize("kind", KINDS)
def test_under_plausibility_the_engines_own_reply_stays_possible(kind: str) -> None:
    """Its head is measured from the best token that the config leaves, which may be far below the best of all."""
    with opened(bent()[kind]) as lm:
        reply = lm.generate(ASKED, max_tokens=NEW, method="acd", plausibility=0.9)
        found = lm.loglikelihood(ASKED, reply.token_ids, method="acd", plausibility=0.9)
        assert found.is_greedy
        assert math.isfinite(found.logprob)
        unlikely = min(range(300), key=lambda token: lm.loglikelihood(ASKED, [token], method="acd").logprob)
        assert lm.loglikelihood(ASKED, [unlikely], method="acd", plausibility=0.9).logprob == -math.inf


@pytest.mark.parametrize("prompt", [ALWAYS, NEVER])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_gate_that_opens_in_the_middle_does_not_forget_what_was_said(prompt: float, penalty: float) -> None:
    chosen: dict[str, Any] = {"recheck": 6, "repetition_penalty": penalty}
    with open_lm(found=gate(prompt, ALWAYS)) as lm:
        reply = lm.generate(PROMPTS[1], max_tokens=20, logprobs=0, **chosen)
        assert reply.report.gate is not None
        assert reply.report.gate.opened_at == (0 if prompt == ALWAYS else 6)
        found = lm.loglikelihood(PROMPTS[1], reply.token_ids, **chosen)
        assert reply.logprobs is not None
        assert found.logprobs == pytest.approx([each.logprob for each in reply.logprobs], abs=2e-3)
        assert found.is_greedy
