"""Forced formats on models that think first: a thought is neither a refusal nor a reply, and it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core import ContrastiveLM, PromptPair
from acd_core.chat import Chat
from acd_core.engine import Reply
from acd_core.engine.request import Gating
from acd_core.engine.text import TextPiece
from acd_core.params import Done, GenerationParams, ReasoningDelta, TextDelta, ToolCallDelta
from acd_core.reply.pieces import Piece
from acd_core.reply.session import Session
from acd_core.toolcalls import response_template_for, thought_marks, tool_call_format
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel
from tests.templates import published
from tests.templates.reading import THOUGHTS

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)

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

    def build(family: str, thought: str | None, said: str, close: str | None = None) -> ContrastiveLM:
        tokenizer = published.tokenizer(family)
        chat = Chat(tokenizer)
        prompt = chat.text("x", variables=TOLD.get(family, {}))
        opening, usual = marks(family)
        close = usual if close is None else close
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


def own_call(family: str) -> str:
    """A call as the family's model writes it behind a thought."""
    wire = tool_call_format(published.tokenizer(family), variables=TOLD.get(family, {}))
    assert wire is not None
    head = wire.head
    for _, close in thought_marks(response_template_for(published.tokenizer(family))):
        head = head.rpartition(close)[2]
    return f'{head.lstrip(chr(10))}look_up{wire.middle}{{"city": "Paris", "sure": true}}{wire.tail}'


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forced", ["required", "look_up", "schema"])
def test_the_models_own_call_behind_the_thought_is_made_once(make: Make, family: str, forced: str) -> None:
    tokenizer = published.tokenizer(family)
    if tool_call_format(tokenizer) is None or not Chat(tokenizer).renders_tools:
        pytest.skip("this family's calls cannot be forced")
    lm = make(family, THOUGHT, own_call(family), "<|end|><|start|>assistant" if family == "gpt-oss" else None)
    asked = {"response_format": JSON} if forced == "schema" else {"tool_choice": forced}
    reply = ask(lm, family, tools=[TOOL], **asked)
    assert [(each.name, each.arguments) for each in reply.tool_calls] == [("look_up", {"city": "Paris", "sure": True})]
    assert (reply.text, reply.invalid_tool_calls, reply.finish_reason) == ("", (), "tool_calls")
    assert reply.reasoning.strip() == THOUGHT
    assert lm.backbone.tokenizer.decode(reply.token_ids).count("look_up") == 2  # the thought names it as well


@pytest.mark.parametrize("family", ["qwen3", "glm4.5", "smollm3", "nemotron3-nano", "deepseek-v3.1"])
def test_behind_a_thought_closed_by_the_template_no_free_word_is_kept(make: Make, family: str) -> None:
    told = {"thinking": False} if family == "deepseek-v3.1" else {"enable_thinking": False}
    tokenizer = published.tokenizer(family)
    chat = Chat(tokenizer)
    header = chat.template.opening.partition("<think>")[0].partition("</think>")[0]
    prompt = chat.text("x", variables=told)
    written = prompt[prompt.rindex(header) + len(header) :]
    assert "</think>" in written
    model = ScriptedModel(
        tokenizer, lambda _: f"{written}It is Paris, I am sure of it, and I could say more than this.", header=header
    )
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)) as lm:
        reply = lm.generate("x", response_format=JSON, chat_template_kwargs=told)
        assert lm.backbone.tokenizer.decode(reply.token_ids) == reply.text
        assert set(json.loads(reply.text)) == {"city", "sure"}
        assert reply.usage.probe_tokens > 0


@pytest.mark.parametrize("stop", ["sorry", "I", "\n\n", "."])
def test_a_stop_text_ends_no_free_words(make: Make, stop: str) -> None:
    reply = make("qwen3", "Hm.\n\nStill.", REFUSAL).generate("x", response_format=JSON, stop=[stop])
    assert (reply.finish_reason, reply.text) == ("refusal", REFUSAL)
    reply = make("qwen3", "Hm.\n\nStill.", "It is Paris.").generate("x", response_format=JSON, stop=[stop])
    assert reply.reasoning.strip() == "Hm.\n\nStill."
    assert set(json.loads(reply.text)) == {"city", "sure"}


@pytest.mark.parametrize("family", ["qwen3", "r1-distill", "gpt-oss", "glm4.5"])
@pytest.mark.parametrize(
    "said", [REFUSAL, "It is Paris, I am sure of it, and I could say a good deal more about it than this."]
)
def test_no_sampling_turns_thoughts_or_words_into_noise(make: Make, family: str, said: str) -> None:
    lm = make(family, "They ask for something. It may do harm.", said)
    plain = ask(lm, family, response_format=JSON)
    for wild in ({"temperature": 100.0, "seed": 1}, {"temperature": 1.0}, {"repetition_penalty": 50.0}, {"min_p": 1.0}):
        reply = ask(lm, family, response_format=JSON, **wild)
        assert reply.reasoning == plain.reasoning
        assert (reply.refusal, reply.usage.probe_tokens) == (plain.refusal, plain.usage.probe_tokens)


@pytest.mark.parametrize("family", ["qwen3", "r1-distill", "gpt-oss", "glm4.5"])
def test_the_words_behind_a_thought_are_not_of_its_tokens(make: Make, family: str) -> None:
    """max_tokens bounds the thought and the document; whatever room they leave, the words are heard."""
    thought, words = "They ask for something.", "It is Paris, and I could say a good deal more about it than just this."
    refusing, answering = make(family, thought, REFUSAL), make(family, thought, words)
    whole = ask(answering, family, response_format=JSON, max_tokens=500)
    assert whole.finish_reason == "stop"
    kept = len(whole.token_ids) - len(answering.token_ids(whole.text))
    for room in (1, 2, 5, *range(kept - 3, kept + 8)):
        refused = ask(refusing, family, response_format=JSON, max_tokens=room)
        answered = ask(answering, family, response_format=JSON, max_tokens=room)
        assert refused.finish_reason in (("refusal",) if room > kept else ("refusal", "length"))
        assert (answered.finish_reason, answered.refusal) == ("length", None)
        assert len(answered.token_ids) <= room
        assert answered.usage.completion_tokens == answered.usage.probe_tokens + len(answered.token_ids)
        events = list(answering.stream("x", response_format=JSON, max_tokens=room))
        assert "".join(each.text for each in events if isinstance(each, ReasoningDelta)) == (answered.reasoning or "")
        assert isinstance(events[-1], Done)
        assert events[-1].generation == answered
        assert whole.text.startswith(answered.text)
        if refused.finish_reason == "length":
            assert refused.text == ""


def test_one_logprob_a_token_also_behind_an_unfinished_thought(make: Make) -> None:
    reply = make("r1-distill", None, "Paris, that is clear.").generate("x", response_format=JSON, logprobs=0)
    assert [each.token_id for each in reply.logprobs] == list(reply.token_ids)
    assert reply.usage.completion_tokens == len(reply.token_ids) + reply.usage.probe_tokens


def test_a_thought_that_leaves_no_room_is_a_reply_cut_off(make: Make) -> None:
    lm = make("r1-distill", None, "Paris, that is clear.")
    spoken = len(lm.token_ids("Paris, that is clear."))
    for room in range(spoken + 1, spoken + 14):
        reply = lm.generate("x", response_format=JSON, max_tokens=room)
        assert reply.finish_reason == "length"
        assert reply.reasoning.strip() == "Paris, that is clear."


def test_a_refusal_makes_no_calls(make: Make) -> None:
    said = f"{REFUSAL} {own_call('qwen3')}"
    lm = make("qwen3", "Hm.", said)
    events = list(lm.stream("x", tools=[TOOL], tool_choice="required"))
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.generation.finish_reason, done.generation.tool_calls) == ("refusal", ())
    assert not [each for each in events if isinstance(each, ToolCallDelta)]
    assert "".join(each.text for each in events if isinstance(each, TextDelta)) == done.generation.text


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


@pytest.mark.parametrize("forced", [False, True])
def test_a_gate_that_opens_within_a_thought_loses_no_reply(make: Make, forced: bool) -> None:
    """The engine closes the turn there and puts the assistant's header behind it; the answer is read afresh."""
    lm = make("qwen3", None, "x")
    asked = GenerationParams.of(response_format=JSON if forced else None)
    session = Session(lm._plan("x", lm._asked(asked, {})), lambda _: None)
    request = session.start()
    events: list[Any] = []
    said = (
        ("<think>\nThey want a", False),
        (" way\n\n", True),
        ("I'm sorry, but", False),
        (" I can't help with that.", False),
    )
    for text, turns in said:
        piece = Piece.of(TextPiece(text, turns), request)
        events += session.take((0, piece))[0]
    more, following, over = session.take((0, Reply((1, 2, 3), "stop", 0, 0, 0.0, None)))
    events += more
    assert following is None and over
    generation = events[-1].generation
    assert "".join(each.text for each in events if isinstance(each, TextDelta)) == generation.text == REFUSAL
    assert "".join(each.text for each in events if isinstance(each, ReasoningDelta)) == generation.reasoning
    assert generation.reasoning == "They want a way\n"
    assert generation.finish_reason == ("refusal" if forced else "stop")


def test_what_a_gate_read_is_that_of_the_moment(make: Make) -> None:
    """The engine goes on while the caller is slow; what it reads by then must not decide."""
    lm = make("qwen3", "Hm.", "It is Paris.")
    request = lm._plan("x", lm._asked(None, {})).make(None, lambda _: None)
    branch = request.kept
    request.gating = Gating(None, (branch,), 0.5, 0.5, (), 32)  # type: ignore[arg-type]
    piece = Piece.of(TextPiece(""), request)
    request.gating.opened_at = 96
    assert piece.gating is not None and piece.gating.opened_at is None
