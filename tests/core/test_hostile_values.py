"""Values that cost more than they look: many when written out, held by errors, letters taken for blocks."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import sys
import weakref
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from acd_core import ContrastiveLM
from acd_core.errors import UsageError
from acd_core.grammar.cache import OncePerKey
from acd_core.grammar.compiler import Grammar
from acd_core.grammar.trial_process import _NICENESS
from acd_core.params import GenerationParams, written_out
from acd_integrations.langchain.messages import conversation
from acd_integrations.shared.characters import whole_texts
from tests.core.tiny import family


def doubled(levels: int = 60) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "object", "properties": {"a": value, "b": value}}
    return value


def one_by_one(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + sum(map(one_by_one, value)) if isinstance(value, (list, tuple)) else 1


def test_values_are_counted_as_they_would_be_written() -> None:
    draws = random.Random(3)
    for _ in range(200):
        known: list[Any] = [1, "a", [], {}]
        for _ in range(12):
            parts = [draws.choice(known) for _ in range(draws.randint(0, 3))]
            known.append(draws.choice([parts, tuple(parts), dict(enumerate(parts))]))
        assert written_out(known[-1]) == one_by_one(known[-1])
    assert written_out(doubled()) > 2**60


@pytest.mark.parametrize("what", ["tools", "response_format", "chat_template_kwargs"])
def test_settings_that_double_are_refused(what: str) -> None:
    function = {"type": "function", "function": {"name": "f", "parameters": doubled()}}
    schema = {"type": "json_schema", "json_schema": {"name": "f", "schema": doubled()}}
    given: Any = {"tools": [function], "response_format": schema, "chat_template_kwargs": {"a": doubled()}}[what]
    with pytest.raises(UsageError, match="when written out"):
        GenerationParams.of(**{what: given})


def test_messages_that_double_are_refused() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": doubled()}}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with ContrastiveLM.from_model(*family("llama")) as lm:
        for messages in (turns, [{"role": "user", "content": [{"type": "text", "text": "hi", "more": doubled()}]}]):
            with pytest.raises(UsageError, match="when written out"):
                lm.generate(messages, max_tokens=2)


def test_texts_are_mended_wherever_they_stand_and_shared_values_once() -> None:
    half = "a\ud83d"
    shared = [half]
    assert whole_texts({"x": shared, "y": (shared, {half: shared})}) == {
        "x": ["a\ufffd"],
        "y": (["a\ufffd"], {"a\ufffd": ["a\ufffd"]}),
    }
    assert written_out(whole_texts(doubled())) == written_out(doubled())
    endless: list[Any] = [half]
    endless.append(endless)
    assert whole_texts(endless)[0] == "a\ufffd"
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    whole_texts(deep)


def test_a_long_text_is_converted_in_as_many_steps_as_a_short_one() -> None:
    def calls(text: str) -> int:
        count = 0

        def note(*_: Any) -> None:
            nonlocal count
            count += 1

        message = [HumanMessage(text)]
        conversation(message)
        sys.setprofile(note)
        try:
            found = conversation(message)
        finally:
            sys.setprofile(None)
        assert found[0]["content"] == text
        return count

    assert calls("a" * 100_000) == calls("a")


def test_an_error_that_is_kept_holds_nothing_of_the_request_that_met_it() -> None:
    class Heavy:
        pass

    known: OncePerKey[int] = OncePerKey(lambda _: 1, most=8, room=100)
    held: list[weakref.ref[Heavy]] = []

    def request() -> None:
        heavy = Heavy()
        held.append(weakref.ref(heavy))

        def make() -> int:
            raise UsageError(f"wrong with {type(heavy).__name__}", hint="mend it")

        known.get("key", make)

    for _ in range(2):
        with pytest.raises(UsageError, match=r"wrong with Heavy\n  -> mend it"):
            request()
    gc.collect()
    assert [each() for each in held] == [None, None]


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="needs priorities")
def test_trials_leave_the_processor_to_others() -> None:
    tokenizer = copy.deepcopy(family("llama")[1])
    grammar = Grammar(tokenizer, len(tokenizer), [0])
    trials = grammar._trials
    try:
        grammar.for_schema({"type": "integer", "multipleOf": 99_991})
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, trials._idle[0]._child.pid) == min(own + _NICENESS, 19)
    finally:
        trials.close()


@pytest.mark.parametrize("added", [1, 9, 40])
def test_a_format_is_forced_though_the_tokenizer_has_more_tokens_than_the_model(added: int) -> None:
    model, tokenizer = family("llama")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([f"zebra{number}" for number in range(added)])
    rows = model.get_output_embeddings().weight.shape[0]
    schema = {"type": "object", "properties": {"fox": {"type": "boolean"}}, "required": ["fox"]}
    asked = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        reply = lm.generate("hello", max_tokens=60, response_format=asked)
        assert isinstance(json.loads(reply.text)["fox"], bool)
        assert max(reply.token_ids) < rows
