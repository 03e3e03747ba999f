"""Forced formats and tool settings at the front door: what is counted, what is held to a schema, what ends a reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import UsageError
from acd_core.params import Done, TextDelta, ToolCallDelta
from acd_core.reply.free_words import PROBE_TOKENS
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

pytest.importorskip("llguidance")

JSON = {"type": "json_object"}
REFUSAL = "I'm sorry, but I can't help with that."


def function(name: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def one_of(name: str, *values: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"enum": list(values)}}, "required": [name]}


SKY, NOW = function("sky", one_of("of", "day", "night")), function("now", {"type": "object", "properties": {}})
STRICT_SKY = function("sky", one_of("of", "day", "night"), strict=True)


def call(name: str, arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


TWO = f"{call('sky', {'of': 'day'})}\n{call('now', {})}"
Make = Callable[..., ContrastiveLM]


@pytest.fixture
def make() -> Iterator[Make]:
    """make(reply): a fresh engine over a model that answers `reply` (text, or prompt -> text) if contrasted."""
    made: list[ContrastiveLM] = []

    def build(reply: str | Callable[[str], str], pair: PromptPair | None = None, **options: Any) -> ContrastiveLM:
        tokenizer = make_tokenizer(**options)
        model = ScriptedModel(tokenizer, (lambda _: reply) if isinstance(reply, str) else reply)
        made.append(ContrastiveLM.from_model(model, tokenizer, pair or PromptPair.from_texts(SAFE, ADVERSARIAL)))
        return made[-1]

    yield build
    for lm in made:
        lm.close()


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", ["words " * 40, "a" + "你好" * 40, "short"])
def test_what_was_spoken_before_a_forced_format_is_counted_by_tokens(make: Make, free: str) -> None:
    lm = make(free)
    reply = lm.generate("x", response_format=JSON)
    spoken = len(lm.token_ids(free))
    assert isinstance(json.loads(reply.text), dict)
    if spoken < PROBE_TOKENS:
        assert reply.usage.probe_tokens == spoken
    else:  # a character may take three tokens, and is given out with its last
        assert PROBE_TOKENS <= reply.usage.probe_tokens <= PROBE_TOKENS + 2
    assert reply.usage.completion_tokens == reply.usage.probe_tokens + len(reply.token_ids)
    done = list(lm.stream("x", response_format=JSON))[-1]
    assert isinstance(done, Done)
    assert done.generation.usage.probe_tokens == reply.usage.probe_tokens
    assert done.generation.usage.completion_tokens == reply.usage.completion_tokens


def test_a_refusal_is_its_own_reply_and_counted_once(make: Make) -> None:
    reply = make(REFUSAL).generate("x", response_format=JSON)
    assert (reply.finish_reason, reply.refusal, reply.text) == ("refusal", REFUSAL, REFUSAL)
    assert (reply.usage.probe_tokens, reply.usage.completion_tokens) == (0, len(reply.token_ids))


@pytest.mark.parametrize("free", ["short", "words " * 40])
def test_the_tokens_of_our_own_first_attempt_are_no_cached_tokens(make: Make, free: str) -> None:
    lm = make(free)
    assert lm.generate("a question of some length", response_format=JSON).usage.cached_tokens == 0
    again = lm.generate("a question of some length", response_format=JSON).usage
    assert again.cached_tokens == lm.generate("a question of some length", max_tokens=1).usage.cached_tokens > 0


def test_both_halves_of_a_forced_reply_share_one_deadline(make: Make) -> None:
    lm = make("x")
    plan = lm._plan("x", lm._asked(None, {"response_format": JSON, "deadline_s": 60.0}))
    assert plan.matcher is not None
    assert plan.make(None, print).asked.deadline == plan.make(plan.matcher(False), print).asked.deadline


# -- how many calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", "auto", None])
@pytest.mark.parametrize("sky", [SKY, STRICT_SKY])
def test_parallel_tool_calls(make: Make, choice: str | None, sky: dict[str, Any]) -> None:
    lm = make(TWO)
    several = lm.generate("x", tools=[sky, NOW], tool_choice=choice)
    assert [each.name for each in several.tool_calls] == ["sky", "now"]
    one = lm.generate("x", tools=[sky, NOW], tool_choice=choice, parallel_tool_calls=False)
    assert one.tool_calls == several.tool_calls[:1]
    assert (one.finish_reason, one.text) == ("tool_calls", "")
    events = list(lm.stream("x", tools=[sky, NOW], tool_choice=choice, parallel_tool_calls=False))
    assert [each.call for each in events if isinstance(each, ToolCallDelta)] == list(one.tool_calls)


def test_one_call_beside_a_response_format(make: Make) -> None:
    lm = make(TWO)
    assert len(lm.generate("x", tools=[SKY, NOW], response_format=JSON).tool_calls) == 2
    assert len(lm.generate("x", tools=[SKY, NOW], response_format=JSON, parallel_tool_calls=False).tool_calls) == 1


# -- strict under "auto" ----------------------------------------------------------------------------------------------


def test_a_strict_call_keeps_its_schema_and_text_stays_free(make: Make) -> None:
    lm = make(f"Let me look. {call('sky', {'of': 'dusk'})} That was it.")
    loose = lm.generate("x", tools=[SKY])
    assert [each.arguments for each in loose.tool_calls] == [{"of": "dusk"}]
    strict = lm.generate("x", tools=[STRICT_SKY])
    assert strict.text.startswith("Let me look.")
    assert strict.tool_calls[0].arguments["of"] in ("day", "night")
    assert lm.generate("x", tools=[STRICT_SKY], tool_choice="none").text.startswith("Let me look.")


def test_a_strict_tool_takes_no_words_away(make: Make) -> None:
    reply = make(REFUSAL).generate("x", tools=[STRICT_SKY])
    assert (reply.text, reply.finish_reason, reply.usage.probe_tokens) == (REFUSAL, "stop", 0)
    stopped = make("one two three").generate("x", tools=[STRICT_SKY], stop=["two"])
    assert stopped.text == "one "


def test_strict_is_said_to_us_and_not_to_the_model(make: Make) -> None:
    seen: list[str] = []

    def reply(prompt: str) -> str:
        seen.append(prompt)
        return "ok"

    lm = make(reply)
    lm.generate("x", tools=[SKY])
    first = set(seen)
    lm.generate("x", tools=[STRICT_SKY])
    lm.generate("x", tools=[function("sky", one_of("of", "day", "night"), strict=False)])
    assert set(seen) == first


def test_a_tool_beside_a_strict_one_keeps_its_freedom(make: Make) -> None:
    unusual = function("odd", {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    lm = make(call("odd", {"anything": [1, 1]}))
    assert lm.generate("x", tools=[STRICT_SKY, unusual]).tool_calls[0].arguments == {"anything": [1, 1]}
    with pytest.raises(UsageError, match=r"'odd'.*uniqueItems"):
        lm.generate("x", tools=[{**unusual, "function": {**unusual["function"], "strict": True}}])


def test_strict_where_calls_open_with_no_token_of_their_own(make: Make) -> None:
    llama = (
        "{% if tools %}{{ tools | tojson }}{% endif %}"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if m.tool_calls %}"
        "{% set f = m.tool_calls[0].function %}"
        '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}'
        "<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    with pytest.raises(UsageError, match="token of their own") as told:
        make("x", template=llama, eos="<|eot_id|>").generate("x", tools=[STRICT_SKY])
    assert "strict" in str(told.value.hint)


def test_text_deltas_of_a_strict_reply_add_up(make: Make) -> None:
    lm = make(f"Hm. {TWO}")
    whole = lm.generate("x", tools=[STRICT_SKY, NOW])
    pieces = [each.text for each in lm.stream("x", tools=[STRICT_SKY, NOW]) if isinstance(each, TextDelta)]
    assert "".join(pieces) == whole.text == "Hm."


# -- half a sentence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "said", "refused"),
    [
        # The 24th token falls into the first sentence, whose end decides.
        ("Which year?", "I am unable to find the answer in the provided context, which speaks of ships only.", False),
        ("Say: I'm sorry, but I can't come to work today.", "I'm sorry, but I can't come to work today.", False),
        ("Do harm.", "I am sorry to say so, but I can't help anybody at all with a request of this kind.", True),
        ("Do harm.", "Well, I won't be of any help with that, whatever you may say to me.", True),
    ],
)
def test_half_a_sentence_is_heard_to_its_end(make: Make, request_: str, said: str, refused: bool) -> None:
    reply = make(said).generate(request_, response_format=JSON)
    assert (reply.finish_reason == "refusal", reply.refusal) == (refused, said if refused else None)
