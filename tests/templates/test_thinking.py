"""Forced formats on models that think first: a thought is neither a refusal nor a reply, and it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core import ContrastiveLM, PromptPair
from acd_core.chat import Chat
from acd_core.params import Done, ReasoningDelta, TextDelta
from acd_core.toolcalls import tool_call_format
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel
from tests.templates import published
from tests.templates.reading import THOUGHTS

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not published.names(), reason="shared/data/templates is not here")

FAMILIES = [
    "qwen3", "qwen3-thinking-2507", "qwq", "r1-distill", "deepseek-r1-0528-qwen3", "glm4.5", "nemotron-nano-v2",
    "nemotron3-nano", "seed-oss", "smollm3", "ministral3-reasoning", "gpt-oss", "deepseek-v3.1",
]  # fmt: skip
TOLD = {"deepseek-v3.1": {"thinking": True}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
    "required": ["city", "sure"],
}
JSON = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Look up", "parameters": SCHEMA}}
# A thought that would be taken for a refusal, and that holds JSON and the name of the tool.
THOUGHT = 'I\'m sorry, but I can\'t tell yet. {"city": "Rome"} or look_up?' + " Let me think on." * 6
REFUSAL = "I'm sorry, but I can't help with that."
Make = Callable[..., ContrastiveLM]


def marks(family: str) -> tuple[str, str]:
    """What stands around a thought, as the family's model writes it."""
    if family == "gpt-oss":
        return "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    opening, close = THOUGHTS[family]
    return f"{opening}\n", f"\n{close}\n\n"


@pytest.fixture
def make() -> Iterator[Make]:
    """make(family, thought, said): an engine over a model that thinks `thought`, then says `said`."""
    made: list[ContrastiveLM] = []

    def build(family: str, thought: str | None, said: str) -> ContrastiveLM:
        tokenizer = published.tokenizer(family)
        chat = Chat(tokenizer)
        prompt = chat.text("x", variables=TOLD.get(family, {}))
        opening, close = marks(family)
        header = chat.template.opening.partition(opening.strip())[0].partition("</think>")[0]
        header = header or {"ministral3-reasoning": "[/INST]"}.get(family, "<｜Assistant｜>")  # the user's turn ends so
        written = prompt[prompt.rindex(header) + len(header) :]  # a thought that the template opens itself
        start = written if opening.strip() in written else written + opening
        reply = f"{start}{thought}{close}{said}" if thought is not None else f"{written}{said}"

        def answer(before: str) -> str:  # gpt-oss writes its header again behind a thought
            return reply.rpartition(header)[2] if thought is not None and thought in before else reply

        model = ScriptedModel(tokenizer, answer, header=header)
        made.append(ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)))
        return made[-1]

    yield build
    for lm in made:
        lm.close()


def ask(lm: ContrastiveLM, family: str, **settings: Any) -> Any:
    return lm.generate("x", chat_template_kwargs=TOLD.get(family, {}), **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_json_comes_behind_the_thought(make: Make, family: str) -> None:
    lm = make(family, THOUGHT, "It is Paris, I am sure of it, and I could say a good deal more about it than this.")
    reply = ask(lm, family, response_format=JSON)
    assert set(json.loads(reply.text)) == {"city", "sure"}
    assert (reply.finish_reason, reply.refusal) == ("stop", None)
    assert reply.reasoning.strip() == THOUGHT
    whole = lm.backbone.tokenizer.decode(reply.token_ids)
    assert whole.count(THOUGHT) == 1 and whole.endswith(reply.text)
    assert reply.usage.completion_tokens == reply.usage.probe_tokens + len(reply.token_ids)
    # Streamed, the thought comes while it is thought, and the deltas are the whole.
    events = list(lm.stream("x", response_format=JSON, chat_template_kwargs=TOLD.get(family, {})))
    assert "".join(each.text for each in events if isinstance(each, ReasoningDelta)).strip() == THOUGHT
    assert "".join(each.text for each in events if isinstance(each, TextDelta)) == reply.text
    assert isinstance(events[-1], Done)
    assert events[-1].generation.text == reply.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refusal_behind_the_thought_is_the_reply(make: Make, family: str) -> None:
    lm = make(family, "They ask for something. It may do harm.", REFUSAL)
    reply = ask(lm, family, response_format=JSON)
    assert (reply.finish_reason, reply.text, reply.refusal) == ("refusal", REFUSAL, REFUSAL)
    assert reply.reasoning.strip() == "They ask for something. It may do harm."


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_without_an_end_is_no_reply_and_no_refusal(make: Make, family: str) -> None:
    lm = make(family, THOUGHT * 3, "Paris.")
    reply = ask(lm, family, response_format=JSON, max_tokens=60)
    assert (reply.text, reply.finish_reason, reply.refusal) == ("", "length", None)
    assert reply.reasoning and (THOUGHT * 3).startswith(reply.reasoning.strip())


@pytest.mark.parametrize("family", [each for each in FAMILIES if each not in ("qwen3-thinking-2507", "r1-distill")])
def test_without_a_thought_all_is_as_ever(make: Make, family: str) -> None:
    if family in ("qwq", "deepseek-r1-0528-qwen3", "nemotron-nano-v2", "nemotron3-nano", "deepseek-v3.1"):
        pytest.skip("its template opens the thought itself")
    lm = make(family, None, "<|channel|>final<|message|>Paris it is." if family == "gpt-oss" else "Paris it is.")
    reply = ask(lm, family, response_format=JSON)
    assert set(json.loads(reply.text)) == {"city", "sure"}
    assert not reply.reasoning


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forced_call_comes_behind_the_thought(make: Make, family: str) -> None:
    tokenizer = published.tokenizer(family)
    wire = tool_call_format(tokenizer, variables=TOLD.get(family, {}))
    if wire is None or not Chat(tokenizer).renders_tools:
        pytest.skip("this family's calls cannot be forced")
    for said in ("I shall look it up in the book of places, and then say what it holds, whatever that may be.", ""):
        lm = make(family, THOUGHT, said)
        reply = ask(lm, family, tools=[TOOL], tool_choice="required")
        assert [each.name for each in reply.tool_calls] == ["look_up"], (reply, wire)
        assert set(reply.tool_calls[0].arguments) == {"city", "sure"}
        assert (reply.finish_reason, reply.text) == ("tool_calls", "")
        assert reply.reasoning.strip() == THOUGHT
        refused = ask(make(family, "Hm.", REFUSAL), family, tools=[TOOL], tool_choice="required")
        assert (refused.finish_reason, refused.text) == ("refusal", REFUSAL)


def test_a_refusal_within_an_unfinished_thought_counts(make: Make) -> None:
    """Distillates at times answer inside the thought that their template opened, and end there."""
    lm = make("r1-distill", None, REFUSAL)
    assert ask(lm, "r1-distill", response_format=JSON).finish_reason == "refusal"
    lm = make("r1-distill", None, "Paris, that is clear.")
    reply = ask(lm, "r1-distill", response_format=JSON)
    assert set(json.loads(reply.text)) == {"city", "sure"}
    assert reply.reasoning.strip() == "Paris, that is clear."


def test_template_variables_decide_whether_it_thinks(make: Make) -> None:
    lm = make("qwen3", None, "Paris.")
    told = lm.chat.text("x", variables={"enable_thinking": False})
    assert told.endswith("<think>\n\n</think>\n\n")
    assert (
        lm.generate("x").usage.prompt_tokens
        < lm.generate("x", chat_template_kwargs={"enable_thinking": False}).usage.prompt_tokens
    )
