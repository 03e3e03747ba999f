"""What ends a reply: eos ids of the files, the token that the template writes after a reply, and stop texts that are or
hold special tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenizers import AddedToken

from acd_core.engine import TextStream
from acd_core.lm import ContrastiveLM
from acd_core.model.backbone import Backbone
from acd_core.model.turn_ends import turn_ends
from acd_core.toolcalls import special_tokens
from tests.core.tiny import TEMPLATES, family
from tests.core.tiny import tokenizer as tiny_tokenizer

NEW = 24
ASKED = [{"role": "user", "content": "tell me about the fox"}]
TOOLS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
    "</tool_call>{% endfor %}{{ m.content }}{{ '<|call|>' if m.tool_calls else '<|end|>' }}{% endfor %}"
)
FINAL = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}{% endfor %}"
)


def with_template(template: str, eos: str, special: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> Any:
    made = tiny_tokenizer("chatml")
    made.add_tokens([AddedToken(each, special=True, normalized=False) for each in special], special_tokens=True)
    made.add_tokens([AddedToken(each, special=False, normalized=False) for each in added])
    made.eos_token = eos
    made.chat_template = template
    return made


def ends_of(tokenizer: Any) -> tuple[set[str], set[str]]:
    found = turn_ends(tokenizer, frozenset([tokenizer.eos_token_id]))
    return set(found.stated.values()), set(found.written.values())


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("chatml", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("gemma", "<end_of_turn>"),
        ("phi", "<|end|>"),
        ("mistral", "</s>"),
        ("llama2", "</s>"),
    ],
)
def test_the_token_after_a_reply_ends_a_turn(template: str, end: str) -> None:
    """A fine-tune that kept its base's eos; where the eos is the template's own there is nothing to add."""
    assert ends_of(with_template(TEMPLATES[template], "<pad>"))[1] == (set() if end == "</s>" else {end})
    assert ends_of(with_template(TEMPLATES[template], end)) == ({end}, set())


def test_an_end_inside_a_conversation_is_not_the_end_of_a_reply() -> None:
    """gpt-oss: `<|end|>` closes a message, and the model goes on; `<|return|>` closes the reply."""
    tokenizer = with_template(FINAL, "<pad>", ("<|return|>",))
    assert ends_of(tokenizer) == ({"<pad>"}, {"<|return|>"})


def test_a_call_ends_the_reply_where_it_has_an_end_of_its_own() -> None:
    tokenizer = with_template(TOOLS, "<|end|>", ("<|call|>",), ("<tool_call>", "</tool_call>"))
    assert ends_of(tokenizer) == ({"<|end|>"}, {"<|call|>"})
    closing = TOOLS.replace("{{ '<|call|>' if m.tool_calls else '<|end|>' }}", "<|end|>")
    assert ends_of(with_template(closing, "<|end|>", (), ("</tool_call>",))) == ({"<|end|>"}, set())
    bare = TOOLS.replace("'<|call|>'", "''")
    assert ends_of(with_template(bare, "<|end|>", (), ("</tool_call>",))) == ({"<|end|>"}, set()), "a mark of the call"


def test_the_next_header_ends_a_reply_that_nothing_closes() -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    assert ends_of(with_template(template, "</s>"))[1] == {"<|user|>"}


def test_what_cannot_be_told_is_said() -> None:
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }} ### done\n{% endfor %}"
    assert "### done" in turn_ends(with_template(text, "</s>"), frozenset([2])).describe()
    raising = "{{ raise_exception('no') }}"
    assert "shows no reply's end" in turn_ends(with_template(raising, "</s>"), frozenset([2])).describe()


# -- in replies --------------------------------------------------------------------------------------------------------


def forced(ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine chooses `ids` one after the other, whatever the model says."""
    from acd_core.engine import rounds

    def choose(requests: Any, *_: Any) -> list[int]:
        return [ids[len(request.generated)] for request in requests]

    monkeypatch.setattr(rounds, "choose", choose)


def llama_with(eos: str) -> tuple[Any, Any]:
    model, _ = family("llama")
    made = copy.copy(model)
    tokenizer = with_template(TEMPLATES["chatml"], eos)
    made.generation_config = copy.deepcopy(model.generation_config)
    made.config = copy.deepcopy(model.config)
    made.generation_config.eos_token_id = made.config.eos_token_id = tokenizer.eos_token_id
    return made, tokenizer


def test_a_chatml_fine_tune_with_another_eos_ends_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = llama_with("</s>")
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    before = copy.deepcopy(model.generation_config.to_dict()), tokenizer.eos_token
    hello = tokenizer.encode("hello", add_special_tokens=False)
    forced([*hello, end, *hello, eos], monkeypatch)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        assert lm.backbone.eos_ids == {end, eos}
        reply = lm.generate(ASKED, max_tokens=NEW)
        assert (reply.text, reply.finish_reason, list(reply.token_ids)) == ("hello", "stop", hello)
        assert "<|im_end|>" in Backbone.describe(lm.backbone)["ends a turn"]
    assert (model.generation_config.to_dict(), tokenizer.eos_token) == before, "the caller's own were changed"


@pytest.mark.parametrize(
    ("said", "stop", "text"),
    [
        ("hello<|eot_id|>world", "<|eot_id|>", "hello"),
        ("hello\n<|user|>world", "\n<|user|>", "hello"),
        ("hello<|eot_id|>\n\nworld", "<|eot_id|>\n", "hello"),
        ("hello<|user|>world", "lo<|user|>wo", "hel"),
        ("hello<|user|><|end|>world", "<|user|><|end|>", "hello"),
        ("he<|user|>llo world", "hello", ""),
        ("hello END", "END", "hello "),
        ("hello\n<|im_end|>", "\n<|im_end|>", "hello"),
        ("hello<|user|>world<|im_end|>", "<|end|>", "helloworld"),
    ],
)
def test_a_stop_text_may_be_or_hold_a_special_token(
    said: str, stop: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = llama_with("<|im_end|>")
    ids = tokenizer.encode(said + "<|im_end|>" * 2, add_special_tokens=False)
    forced(ids, monkeypatch)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        reply = lm.generate(ASKED, max_tokens=NEW, stop=[stop])
        assert (reply.text, reply.finish_reason) == (text, "stop")
        streamed = [getattr(event, "text", "") for event in lm.stream(ASKED, max_tokens=NEW, stop=[stop])]
        assert "".join(streamed) == text
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        unstopped = lm.generate(ASKED, max_tokens=len(ids) - 2).text
        assert "<|" not in unstopped


def test_a_stop_texts_first_half_is_held_back_across_a_hidden_token() -> None:
    tokenizer = tiny_tokenizer("chatml")
    stream = TextStream(tokenizer, ("x<|user|>y",), frozenset(special_tokens(tokenizer)))
    x, user, y, z = (tokenizer.convert_tokens_to_ids(each) for each in ("x", "<|user|>", "y", "z"))
    assert [stream.push(token) for token in (x, user, z)] == ["", "", "xz"]
    assert [stream.push(token) for token in (x, user, y)] == ["", "", ""]
    assert (stream.stopped_by, stream.finish()) == ("x<|user|>y", "")
