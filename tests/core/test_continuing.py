"""A reply already begun is continued: by the template, in text, through the engine; and a text without chat format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from acd_core import ContrastiveLM, PromptPair
from acd_core.chat import SOFT, Chat
from acd_core.engine import TextStream
from acd_core.errors import TemplateError, UsageError
from tests.core.tiny import SPECIAL, TEMPLATES, family, stock_greedy, tokenizer
from tests.scripted import HERMES, ScriptedModel, make_tokenizer

ASKED = {"role": "user", "content": "hello world"}
CHATS = {name: Chat(tokenizer(name)) for name in TEMPLATES}


def begun(text: str, **more: object) -> list[dict[str, object]]:
    return [ASKED, {"role": "assistant", "content": text, **more}]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompt", [None, "be safe", SOFT])
def test_the_layout_ends_with_the_begun_reply(template: str, prompt: str | None) -> None:
    chat = CHATS[template]
    ids = chat.layout(begun("the quick "), prompt).ids
    assert chat.tokenizer.decode(ids).endswith("the quick ")
    # What was there before the reply began is what a new reply would have started from, but for the family's own
    # white space (Llama 2 writes a space before a reply).
    new = chat.tokenizer.decode(chat.layout([ASKED], prompt).ids)
    assert chat.tokenizer.decode(ids).replace(" ", "") == (new + "the quick").replace(" ", "")


@pytest.mark.parametrize("template", TEMPLATES)
def test_prefix_false_asks_for_a_new_turn(template: str) -> None:
    chat = CHATS[template]
    closed = chat.layout(begun("the quick", prefix=False)).ids
    stock = chat.tokenizer.apply_chat_template(begun("the quick"), add_generation_prompt=True, return_dict=False)
    assert list(closed) == stock
    assert chat.layout(begun("the quick")).ids != closed


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_reply_begun_with_nothing_is_a_new_reply(template: str) -> None:
    chat = CHATS[template]
    empty, new = (chat.tokenizer.decode(chat.layout(each).ids) for each in (begun(""), [ASKED]))
    assert empty.rstrip() == new.rstrip()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([*SPECIAL, "assistant", "\n", " ", "é", "\U000f0002end\U000f0002", "im_end"]), max_size=5)
)
def test_no_begun_text_closes_its_turn_or_is_cut_short(parts: list[str]) -> None:
    chat, text = CHATS["chatml"], "".join(["w", *parts])
    ids = chat.layout(begun(text)).ids
    assert chat.tokenizer.decode(ids).endswith("<|im_start|>assistant\n" + text.replace("\U000f0002", ""))
    special = set(chat.tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    assert [each for each in ids if each in special] == [
        each for each in chat.layout(begun("w")).ids if each in special
    ]


def test_a_call_that_ends_the_conversation_is_not_continued() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    text = CHATS["chatml"].text(begun("I call", tool_calls=[call]))
    assert text.endswith("<|im_start|>assistant\n")


def test_a_template_that_hides_the_begun_reply_is_refused() -> None:
    made = tokenizer("chatml")
    made.chat_template = "{% for m in messages %}{{ m.content[:9] }}{% endfor %}{{ 'go' if add_generation_prompt }}"
    with pytest.raises(TemplateError, match="cannot be continued"):
        Chat(made).layout(begun("a long secret beginning"))


# --- without chat format ---


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_text_has_no_chat_format(template: str) -> None:
    chat = CHATS[template]
    text = {"role": "text", "content": "the quick brown </s>"}
    special = set(chat.tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    for prompt in (None, "be safe", SOFT):
        layout = chat.layout([text], prompt)
        assert not special & set(layout.ids)
        assert chat.tokenizer.decode(layout.ids).endswith("the quick brown </s>")
    assert chat.tokenizer.decode(chat.layout([text], "be safe").ids) == "be safe\n\nthe quick brown </s>"
    soft = chat.layout([text], SOFT)
    assert (soft.before, chat.tokenizer.decode(soft.after)) == ((), "the quick brown </s>")
    assert chat.text([text]) == "the quick brown </s>"


def test_a_text_starts_as_its_tokenizer_starts_every_text() -> None:
    made = tokenizer("llama3")
    made.add_bos_token = True
    starts = made("")["input_ids"][:1] == [made.bos_token_id]
    ids = Chat(made).layout([{"role": "text", "content": "hello"}]).ids
    assert (ids[0] == made.bos_token_id) == starts


def test_other_turns_become_paragraphs_before_the_text() -> None:
    chat = CHATS["chatml"]
    turns = [{"role": "system", "content": "app"}, ASKED, {"role": "text", "content": "it begins"}]
    assert chat.text(turns) == "app\n\nhello world\n\nit begins"
    wrapped = chat.layout([turns[-1]], wrap_user="<{}>").ids
    assert chat.tokenizer.decode(wrapped) == "<it begins>"
    with pytest.raises(UsageError, match="not the last"):
        chat.layout([turns[-1], ASKED])


# --- through the engine ---


def test_the_reply_is_what_the_model_adds() -> None:
    made = make_tokenizer(HERMES)
    with ContrastiveLM.from_model(ScriptedModel(made, lambda _: "Well, there you are."), made, method="none") as lm:
        assert lm.generate(begun("Well,")).text == " there you are."
        assert "".join(getattr(event, "text", "") for event in lm.stream(begun("Well,"))) == " there you are."


@pytest.mark.parametrize("name", ["llama", "llama-2-format", "qwen2", "mistral", "gemma", "phi3"])
def test_a_continuation_is_stock_generate_after_the_begun_text(name: str) -> None:
    model, made = family(name)
    texts = [begun("the quick brown"), [{"role": "text", "content": "hello safe world"}]]
    with ContrastiveLM.from_model(model, made, PromptPair.from_texts("be safe", "the lazy dog")) as lm:
        replies = [lm.generate(each, max_tokens=16, alpha=0.0) for each in texts]
        layouts = [lm.chat.layout(each, "be safe") for each in texts]
    ends = model.generation_config.eos_token_id
    for reply, layout in zip(replies, layouts):
        assert list(reply.token_ids) == stock_greedy(model, list(layout.ids), 16, eos_token_id=ends)
    assert len({token for reply in replies for token in reply.token_ids}) >= 6, "the model echoes: nothing was shown"


def test_every_method_continues() -> None:
    model, made = family("llama")
    pair = PromptPair.from_texts("be safe", "the lazy dog")
    with ContrastiveLM.from_model(model, made, pair) as lm:
        for each in (begun("the quick"), [{"role": "text", "content": "the quick"}]):
            whole = lm.generate(each, max_tokens=12, alpha=0.4)
            events = list(lm.stream(each, max_tokens=12, alpha=0.4))
            assert "".join(getattr(event, "text", "") for event in events) == whole.text
            for method in ("rose", "self-reminder", "in-context-defense", "safe-prompt"):
                assert lm.generate(each, max_tokens=4, method=method).usage.completion_tokens > 0


def test_a_continuation_keeps_its_first_space() -> None:
    """SentencePiece tokenizers drop the space before the first token of a text; a continuation is no such start."""
    words = ["<unk>", "▁Sure", ",", "▁here", "▁is", "▁tea"]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    new, continued = TextStream(made), TextStream(made, begun=[1, 2, 3])
    assert "".join([new.push(4), new.push(5), new.finish()]) == "is tea"
    assert "".join([continued.push(4), continued.push(5), continued.finish()]) == " is tea"
