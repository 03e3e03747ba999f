"""The model alone is the model as shipped: what its generation_config asks for is in force, or said not to be."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from acd_core.artifacts.pair import PromptPair
from acd_core.errors import ModelError
from acd_core.lm import ContrastiveLM
from tests.core.tiny import family, stock_greedy

NEW = 24
ASKED = [{"role": "user", "content": "answer questions about the lazy dog while the quick brown fox jumps"}]
OTHER = [{"role": "user", "content": "hello"}]


@pytest.fixture
def loose() -> tuple[Any, Any]:
    """A model of our own whose generation_config may be changed: weights shared, the config not."""
    model, tokenizer = family("llama")
    made = copy.copy(model)
    made.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    return made, tokenizer


def plain_reply(model: Any, tokenizer: Any, **settings: Any) -> list[int]:
    with ContrastiveLM.from_model(model, tokenizer, generation_defaults=False) as lm:
        return list(lm.generate(ASKED, max_tokens=NEW, **settings).token_ids)


def config_of(kind: str, said: list[int], eos: int) -> dict[str, Any]:
    """A setting that changes the reply `said`."""
    return {
        "repetition_penalty": {"repetition_penalty": 1.3},
        "suppress_tokens": {"suppress_tokens": [said[0], said[3]]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [said[0]]},
        "bad_words_ids": {"bad_words_ids": [[said[1]], [said[3], said[4]]]},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "sequence_bias": {"sequence_bias": [[[said[0]], -50.0], [[7], 5.0]]},
        "many": {"repetition_penalty": 1.3, "suppress_tokens": [said[0]], "no_repeat_ngram_size": 2, "min_length": 3},
    }[kind]


KINDS = (
    "repetition_penalty", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "no_repeat_ngram_size",
    "sequence_bias", "many",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_alone_is_the_model_as_shipped(kind: str, loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    plain = plain_reply(model, tokenizer)
    for name, value in config_of(kind, plain, tokenizer.eos_token_id).items():
        setattr(model.generation_config, name, value)
    kept = model.generation_config.to_dict()
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        ids = list(lm.chat.layout(ASKED).ids)
        expected = stock_greedy(model, ids, NEW)
        assert expected != plain, "the setting does nothing here"
        alone = lm.generate(ASKED, max_tokens=NEW)
        assert list(alone.token_ids) == expected
        assert [list(each.token_ids) for each in lm.generate([OTHER, ASKED, OTHER], max_tokens=NEW)][1] == expected
        pair = PromptPair.from_texts("be kind", "be rude")
        with ContrastiveLM(lm.backbone, pair, "acd") as acd:
            off = acd.generate(ASKED, max_tokens=NEW, alpha=0.0)
            kept_ids = list(acd.chat.layout(ASKED, "be kind").ids)
            assert list(off.token_ids) == stock_greedy(model, kept_ids, NEW)
    assert plain_reply(model, tokenizer) == plain, "the switch"
    assert model.generation_config.to_dict() == kept, "the caller's config was changed"


def test_min_new_tokens_keeps_a_reply_going(loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    said = plain_reply(model, tokenizer)
    end = next(token for at, token in enumerate(said) if at > 1 and token not in said[:at])
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    ids = None
    for least, longer in ((None, False), (said.index(end) + 4, True)):
        model.generation_config.min_new_tokens = least
        # A model's eos ids are read once: a copy is another model.
        with ContrastiveLM.from_model(copy.copy(model), tokenizer) as lm:
            ids = ids or list(lm.chat.layout(ASKED).ids)
            reply = lm.generate(ASKED, max_tokens=NEW)
            assert list(reply.token_ids) == stock_greedy(model, ids, NEW)
            assert (len(reply.token_ids) > said.index(end)) == longer


def test_a_calls_own_penalty_comes_first_and_the_joined_scores_are_bent(loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    model.generation_config.repetition_penalty = 1.3
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        ids = list(lm.chat.layout(ASKED).ids)
        own = lm.generate(ASKED, max_tokens=NEW, repetition_penalty=1.9)
        assert list(own.token_ids) == stock_greedy(model, ids, NEW, repetition_penalty=1.9)
        pair = PromptPair.from_texts("be kind", "be rude")
        with ContrastiveLM(lm.backbone, pair, alpha=0.4) as acd:
            bent = acd.generate(ASKED, max_tokens=NEW)
            said = acd.generate(ASKED, max_tokens=NEW, repetition_penalty=1.3)
            assert bent.token_ids == said.token_ids
        with ContrastiveLM(lm.backbone, pair, alpha=0.4, generation_defaults=False) as acd:
            assert acd.generate(ASKED, max_tokens=NEW).token_ids != bent.token_ids
            assert acd.generate(ASKED, max_tokens=NEW, repetition_penalty=1.3).token_ids == bent.token_ids


def test_stop_strings_of_the_config_end_a_reply(loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        whole = lm.generate(ASKED, max_tokens=NEW).text
    stop = whole[4:7]
    model.generation_config.stop_strings = [stop]
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        reply = lm.generate(ASKED, max_tokens=NEW)
        assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_sampling_stays_the_callers_and_is_told(loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    plain = plain_reply(model, tokenizer)
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, top_k=20)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        assert list(lm.generate(ASKED, max_tokens=NEW).token_ids) == plain
        told = lm.defaults.describe()
        assert "temperature 0.6" in told["drawing"]
        assert "greedy" in told["drawing"]
        assert told["model's own decoding"] == "plain scores"
        assert not lm.defaults.before + lm.defaults.after


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 4), ("guidance_scale", 1.5), ("forced_eos_token_id", 2), ("penalty_alpha", 0.6)],
)
def test_what_cannot_be_done_is_said_once(
    name: str, value: Any, loose: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = loose
    setattr(model.generation_config, name, value)
    with caplog.at_level(logging.WARNING, logger="acd_core"), ContrastiveLM.from_model(model, tokenizer) as lm:
        with ContrastiveLM(lm.backbone):
            pass
        lines = [record.getMessage() for record in caplog.records if record.name == "acd_core"]
        assert len(lines) == 1
        assert f"{name} {value}" in lines[0]
        assert f"{name} {value}" in lm.defaults.describe()["cannot be done"]


def test_an_impossible_config_is_refused_by_name(loose: tuple[Any, Any]) -> None:
    model, tokenizer = loose
    model.generation_config.bad_words_ids = [[-3]]
    with pytest.raises(ModelError, match="bad_words_ids"):
        ContrastiveLM.from_model(model, tokenizer)
    with ContrastiveLM.from_model(model, tokenizer, generation_defaults=False) as lm:
        assert lm.generate(ASKED, max_tokens=2).token_ids


def test_nothing_is_left_to_choose_from_only_where_a_grammar_says_so(loose: tuple[Any, Any]) -> None:
    """A forced document is whole, even where the config would suppress what it needs."""
    pytest.importorskip("llguidance")
    model, tokenizer = loose
    brace = tokenizer.convert_tokens_to_ids("{")
    model.generation_config.suppress_tokens = [brace]
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        torch.manual_seed(0)
        text = lm.generate(ASKED, max_tokens=60, response_format=wanted).text
        assert text.lstrip().startswith("{")
