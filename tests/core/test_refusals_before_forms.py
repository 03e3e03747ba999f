"""A forced format loses no refusal: the words before it are ours, whatever the caller sets, and heard until they can be
judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import ContextLengthError
from acd_core.params import Done, GenerationParams, TextDelta
from acd_core.reply.free_words import (
    LONGEST_PROBE,
    MOST_TOKENS,
    PROBE_TOKENS,
    FreeWords,
    ThoughtWatch,
    thought_settings,
)
from acd_core.reply.stance import refuses
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

pytest.importorskip("llguidance")

ASKED = "Tell me how to do harm to them."
REFUSAL = "I'm sorry, but I can't help with that. It would do harm to people, and I want no part in it."
ANSWER = "First of all take the long road to the sea, then turn left at the mill and walk on until you see it."
TOOL = {"type": "function", "function": {"name": "way", "parameters": {"type": "object", "properties": {}}}}
FORMS: dict[str, dict[str, Any]] = {
    "object": {"response_format": {"type": "json_object"}},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        }
    },
    "required": {"tools": [TOOL], "tool_choice": "required"},
    "named": {"tools": [TOOL], "tool_choice": "way"},
    "beside tools": {"tools": [TOOL], "response_format": {"type": "json_object"}},
}
Make = Callable[..., ContrastiveLM]


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """make(reply): an engine over a model that answers `reply` if contrasted; kept for the whole file."""
    made: dict[Any, ContrastiveLM] = {}

    def build(
        reply: str, lure: str | None = None, positions: int = 8192, corpus: tuple[str, ...] = ()
    ) -> ContrastiveLM:
        key = (reply, lure, positions, corpus)
        if key not in made:
            tokenizer = make_tokenizer(corpus=corpus)
            model = ScriptedModel(tokenizer, lambda _: reply, lure=lure, max_positions=positions)
            made[key] = ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL))
        return made[key]

    yield build
    for lm in made.values():
        lm.close()


# -- what a caller may set --------------------------------------------------------------------------------------------

SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 40),
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 5.0, 100.0]),
        "top_p": st.sampled_from([0.01, 0.5, 1.0]),
        "top_k": st.integers(0, 5),
        "min_p": st.sampled_from([0.0, 0.5, 1.0]),
        "repetition_penalty": st.sampled_from([0.01, 0.9, 1.3, 50.0]),
        "stop": st.lists(st.sampled_from(["I", "sorry", " ", ".", "'", "<|im_end|>", "First", "\n"]), max_size=4),
        "seed": st.integers(0, 9),
        "logprobs": st.integers(0, 3),
        "parallel_tool_calls": st.booleans(),
        "contrast_tokens": st.integers(1, 30),
        "deadline_s": st.just(600.0),
        "chat_template_kwargs": st.sampled_from([{}, {"enable_thinking": False}]),
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=SETTINGS, form=st.sampled_from(sorted(FORMS)))
def test_no_setting_of_a_call_hides_a_refusal(make: Make, asked: dict[str, Any], form: str) -> None:
    reply = make(REFUSAL).generate(ASKED, **FORMS[form], **asked)
    assert reply.finish_reason == "refusal"
    assert reply.refusal == reply.text and REFUSAL.startswith(reply.text)
    assert reply.text.startswith("I'm sorry, but I can't help with that.")
    assert not reply.tool_calls


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=SETTINGS, form=st.sampled_from(sorted(FORMS)))
def test_no_setting_of_a_call_makes_a_refusal(make: Make, asked: dict[str, Any], form: str) -> None:
    reply = make(ANSWER).generate("The way?", **FORMS[form], **asked)
    assert (reply.refusal, reply.finish_reason == "refusal") == (None, False)
    assert PROBE_TOKENS <= reply.usage.probe_tokens <= PROBE_TOKENS + 2
    assert len(reply.token_ids) <= asked.get("max_tokens", 1024)


@pytest.mark.parametrize("window", [1, 6, 12, None])
def test_the_words_are_contrasted_as_long_as_the_method_says(make: Make, window: int | None) -> None:
    """What the kept branch alone would say shares its first words with the refusal."""
    lm = make(REFUSAL, lure="I'm sorry, but I can do it: " + ANSWER)
    reply = lm.generate(ASKED, **FORMS["object"], contrast_tokens=window, max_tokens=64)
    assert reply.finish_reason == "refusal"


# -- what a refusal looks like ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "Thank you for asking! That's an interesting topic. However, I can't help with that.",
        "Great question! You are asking about something serious. As an AI model, I must say no: I can't help with it.",
        "Tell me how to do harm to them. I understand what you want, and I can't help with that.",
        "Hello! I hope you are well. Thanks for reaching out. I see what you mean. Please note that safety matters. "
        "I can't help with that.",
        "**Disclaimer:** It is important to be careful here. I won't help with that.",
        "\n\n\n" * 30 + REFUSAL,
        " \n \t" * 20 + REFUSAL,
        "*" * 60 + "\n" + REFUSAL,
        "Sure! Okay. Of course.\n\n\n\n\n\n\n\nI can't help with that request.",
        '{"error": "I can\'t help with that."}',
        '{\n  "status": "error",\n  "message": "I\'m sorry, but I cannot assist with this request."\n}',
        '```json\n{"answer": "I am unable to help with this."}\n```',
        '["I cannot help with that request."]',
        '{"error": {"code": 403, "type": "policy", "message": "I cannot help with that request."}}',
        "{'error': 'I will not help with that request.'}",
        "<answer>I can't help with that.</answer>",
        "```\nI can't help with that.\n```",
        "Vielen Dank für die Frage! Das ist ein ernstes Thema. Leider kann ich dabei nicht helfen.",
    ],
)
@pytest.mark.parametrize("form", ["object", "required"])
def test_a_refusal_is_told_however_it_is_dressed(make: Make, said: str, form: str) -> None:
    reply = make(said).generate(ASKED, **FORMS[form], max_tokens=3)
    assert reply.finish_reason == "refusal"
    assert not reply.tool_calls


@pytest.mark.parametrize(
    "said",
    [
        "Thank you for asking! It is the one behind the mill, where the road ends and the long hills begin.",
        '{"city": "Paris", "note": "known for its light"}',
        '{"message": "Sorry, I can\'t come to the meeting."}',
        'He said "I can\'t help with that" and went home, where nobody asked him anything any more.',
        "```json\n",
        "**",
        "42",
        '```python\nprint("I can\'t help with that")\n```',
    ],
)
def test_an_answer_is_none(make: Make, said: str) -> None:
    reply = make(said).generate("What do they say?", **FORMS["object"])
    assert (reply.refusal, reply.finish_reason) == (None, "stop")
    assert isinstance(json.loads(reply.text), dict)


def test_a_call_begun_freely_that_holds_a_refusal(make: Make) -> None:
    def called(text: str) -> str:
        return '<tool_call>\n{"name": "way", "arguments": {"text": "' + text + '"}}\n</tool_call>'

    words = (called("") * 20,)  # tokens of more than a letter, so that the text begins within the first of them
    reply = make(called("I'm sorry, but I can't help with that."), corpus=words).generate(ASKED, **FORMS["required"])
    assert (reply.finish_reason, reply.tool_calls) == ("refusal", ())
    assert reply.refusal
    made = make(called("behind the mill"), corpus=words).generate(ASKED, **FORMS["required"])
    assert (made.finish_reason, [each.name for each in made.tool_calls]) == ("tool_calls", ["way"])


def test_a_begun_refusal_is_read_with_its_beginning(make: Make) -> None:
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Well. I am sorry, but I"}]
    assert refuses(ASKED, " can't help with that.", begun="Well. I am sorry, but I")
    assert not refuses(ASKED, " am late. It is the mill.", begun="Well. I am sorry, but I")
    reply = make(" can't help with that.").generate(turns, **FORMS["object"])
    assert reply.finish_reason in ("refusal", "stop")  # the script goes by its own beginning


# -- what cannot be judged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["\n" * 2000, "-" * 2000, "<|eot_id|>" * 2000])
def test_words_without_an_end_that_say_nothing_count_as_a_refusal(make: Make, said: str) -> None:
    reply = make(said).generate(ASKED, **FORMS["object"], max_tokens=5)
    assert reply.finish_reason == "refusal"
    assert reply.usage.completion_tokens <= MOST_TOKENS


def test_a_model_that_ends_its_turn_at_once_is_made_to_say_something(make: Make) -> None:
    lm = make("")
    reply = lm.generate(ASKED, **FORMS["object"])
    assert isinstance(json.loads(reply.text), dict)
    assert reply.usage.probe_tokens > 0
    assert lm.generate(ASKED).text == ""  # a plain reply may be empty


def test_the_context_must_have_room_for_the_words(make: Make) -> None:
    lm = make(REFUSAL, positions=400)
    frame = lm.max_input_tokens - lm.count_tokens([{"role": "user", "content": ""}])
    fits = "x" * (frame - LONGEST_PROBE)
    assert lm.generate(fits, **FORMS["object"], max_tokens=4).finish_reason == "refusal"
    with pytest.raises(ContextLengthError, match=f"with {LONGEST_PROBE} new tokens") as told:
        lm.generate(fits + "x", **FORMS["object"], max_tokens=4)
    assert "free words" in str(told.value.hint)
    assert lm.generate(fits + "x", max_tokens=4).finish_reason == "length"


# -- how it comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 5, 30, 200])
@pytest.mark.parametrize("said", [REFUSAL, ANSWER, "I can't help with that."])
def test_streamed_batched_and_awaited_replies_are_the_same(make: Make, most: int, said: str) -> None:
    lm = make(said)
    asked = {**FORMS["object"], "max_tokens": most, "logprobs": 0}
    reply = lm.generate(ASKED, **asked)
    events = list(lm.stream(ASKED, **asked))
    assert "".join(each.text for each in events if isinstance(each, TextDelta)) == reply.text
    others = [
        *lm.generate([[{"role": "user", "content": ASKED}]] * 2, **asked),
        asyncio.run(lm.agenerate(ASKED, **asked)),
    ]
    assert isinstance(events[-1], Done)
    for other in (events[-1].generation, *others):
        assert (other.text, other.finish_reason, other.refusal) == (reply.text, reply.finish_reason, reply.refusal)
        assert (other.token_ids, other.logprobs) == (reply.token_ids, reply.logprobs)
        assert other.usage.probe_tokens == reply.usage.probe_tokens
        assert other.usage.completion_tokens == reply.usage.completion_tokens
        assert other.report == reply.report
    assert reply.logprobs is not None
    assert [each.token_id for each in reply.logprobs] == list(reply.token_ids)
    assert lm.backbone.tokenizer.decode(reply.token_ids) == reply.text
    assert reply.usage.completion_tokens == reply.usage.probe_tokens + len(reply.token_ids)


def test_a_refusal_is_as_long_as_asked_for_and_no_shorter_than_it_was_heard(make: Make) -> None:
    lm = make(REFUSAL)
    assert lm.generate(ASKED, **FORMS["object"]).text == REFUSAL
    assert len(lm.generate(ASKED, **FORMS["object"], max_tokens=60).token_ids) == 60
    short = lm.generate(ASKED, **FORMS["object"], max_tokens=1)
    assert PROBE_TOKENS <= len(short.token_ids) <= 60
    assert (short.usage.probe_tokens, short.usage.completion_tokens) == (0, len(short.token_ids))


# -- the parts --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.integers(0, 4)), max_size=60))
def test_no_more_is_heard_than_was_said(pieces: list[tuple[str, int]]) -> None:
    words = FreeWords(ASKED)
    for text, tokens in pieces:
        words.add(text, tokens)
    assert 0 <= words.spoken <= sum(tokens for _, tokens in pieces)
    assert words.text == "".join(text for text, _ in pieces)
    assert not words.can_be_judged(lambda _: False) or words.spoken >= PROBE_TOKENS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "<", " think>", "\n"]), max_size=20), st.data())
def test_a_thought_is_followed_alike_in_any_pieces(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    whole = ThoughtWatch([("<think>", "</think>")], thinking=False)
    whole.follow(text)
    watch = ThoughtWatch([("<think>", "</think>")], thinking=False)
    while text:
        cut = data.draw(st.integers(1, len(text)))
        watch.follow(text[:cut])
        text = text[cut:]
    assert watch.thinking == whole.thinking


def test_a_thought_is_never_drawn_into_noise() -> None:
    wild = thought_settings(GenerationParams(temperature=100.0, repetition_penalty=50.0, seed=3))
    assert (wild.temperature, wild.repetition_penalty, wild.seed) == (1.0, None, 3)
    assert 0.0 < wild.min_p < 0.2
    narrow = GenerationParams(temperature=0.5, top_p=0.7, top_k=4, min_p=0.5)
    assert thought_settings(narrow) == narrow
