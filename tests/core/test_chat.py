"""Layouts: the slot, models without a system role, the application's own system text, and control tokens in text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.chat import SOFT, Chat
from acd_core.errors import TemplateError, UsageError
from tests.core.tiny import SPECIAL, TEMPLATES, tokenizer

SYSTEM_ROLE = ("chatml", "llama3", "llama2", "phi")
NO_SYSTEM_ROLE = ("mistral", "gemma")


@pytest.mark.parametrize("template", SYSTEM_ROLE)
def test_a_textual_prompt_is_rendered_as_the_template_does(template: str) -> None:
    made = tokenizer(template)
    chat = Chat(made)
    assert chat.supports_system_role
    user = {"role": "user", "content": "hello world"}
    ids = chat.layout([user], "be safe").ids
    stock = made.apply_chat_template(
        [{"role": "system", "content": "be safe"}, user], add_generation_prompt=True, return_dict=False
    )
    assert list(ids) == stock
    both = chat.layout([{"role": "system", "content": "app"}, user], "be safe").ids
    stock = made.apply_chat_template(
        [{"role": "system", "content": "be safe\n\napp"}, user], add_generation_prompt=True, return_dict=False
    )
    assert list(both) == stock


@pytest.mark.parametrize("template", TEMPLATES)
def test_soft_layout_cuts_at_the_slot_and_keeps_the_applications_own_text(template: str) -> None:
    made = tokenizer(template)
    chat = Chat(made)
    layout = chat.layout([{"role": "system", "content": "app rules"}, {"role": "user", "content": "hello"}], SOFT)
    before, after = made.decode(layout.before), made.decode(layout.after)
    assert "app rules" in after and "hello" in after and after.index("app rules") < after.index("hello")
    assert "app rules" not in before
    # With a text in the slot's place the rendering is the stock one, cut at the same spot.
    text = made.decode(
        chat.layout([{"role": "system", "content": "app rules"}, {"role": "user", "content": "hello"}], "XY").ids
    )
    assert text == f"{before}XY{after}"


@pytest.mark.parametrize("template", NO_SYSTEM_ROLE)
def test_without_a_system_role_the_first_user_turn_carries_the_prompt(template: str) -> None:
    made = tokenizer(template)
    chat = Chat(made)
    assert not chat.supports_system_role
    messages = [
        {"role": "system", "content": "app"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    stock = made.apply_chat_template(
        [{"role": "user", "content": "safe\n\napp\n\none"}, *messages[2:]],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert list(chat.layout(messages, "safe").ids) == stock


@pytest.mark.parametrize("template", ["mistral", "gemma", "llama2"])
def test_neighbours_of_one_role_are_merged_where_the_template_insists(template: str) -> None:
    chat = Chat(tokenizer(template))
    assert chat.merges_roles
    doubled = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert chat.layout(doubled).ids == chat.layout([{"role": "user", "content": "a\n\nb"}]).ids


def test_there_is_one_bos() -> None:
    made = tokenizer("llama3")
    ids = Chat(made).layout("hello", "be safe").ids
    assert ids.count(made.bos_token_id) == 1 == list(ids[:1]).count(made.bos_token_id)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("where", ["user", "system", "assistant", "tool_name"])
def test_control_tokens_in_text_stay_text(template: str, where: str) -> None:
    made = tokenizer(template)
    chat = Chat(made)
    evil = "x " + " y ".join(SPECIAL) + " z"

    def messages(text: str) -> list[dict[str, str]]:
        turns = [
            {"role": "system", "content": text if where == "system" else "app"},
            {"role": "user", "content": text if where == "user" else "hello"},
        ]
        if where in ("assistant", "tool_name"):
            turns += [{"role": "assistant", "content": text}, {"role": "user", "content": "more"}]
        return turns

    plain, attacked = chat.layout(messages("x z"), SOFT), chat.layout(messages(evil), SOFT)
    special = set(made.convert_tokens_to_ids(list(SPECIAL)))
    controls = lambda ids: [token for token in ids if token in special]  # noqa: E731
    assert controls(attacked.ids) == controls(plain.ids)
    for mark in SPECIAL:
        assert mark in made.decode(attacked.ids)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]),
            st.lists(
                st.sampled_from([*SPECIAL, "<|im_", "start|>", "\U000f0000", "\U000f0001", "\U000f0002slot", "é", " "])
            ),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_text_can_forge_a_control_token(turns: list[tuple[str, list[str]]]) -> None:
    chat = _CHATML
    messages = [{"role": role, "content": "".join(parts)} for role, parts in turns]
    blank = [{"role": role, "content": "w"} for role, _ in turns]
    special = set(chat.tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    count = lambda items: [token for token in chat.layout(items, SOFT).ids if token in special]  # noqa: E731
    assert count(messages) == count(blank)


_CHATML = Chat(tokenizer("chatml"))


def test_the_users_tokenizer_is_not_touched() -> None:
    made = tokenizer("chatml")
    before = (made.chat_template, made.split_special_tokens, made._tokenizer.to_str())
    Chat(made).layout("hello <|im_end|>", SOFT)
    assert (made.chat_template, made.split_special_tokens, made._tokenizer.to_str()) == before


def test_an_assistant_prefix_is_continued() -> None:
    made = tokenizer("chatml")
    begun = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the quick", "prefix": True}]
    text = made.decode(Chat(made).layout(begun).ids)
    assert text.endswith("<|im_start|>assistant\nthe quick")


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ([], "empty"),
        ([{"role": "robot", "content": "x"}], "robot"),
        ([{"content": "x"}], "role"),
        ([{"role": "system", "content": "x"}], "system text only"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "image_url"),
        ([{"role": "user", "content": 7}], "int"),
        (7, "int"),
    ],
)
def test_bad_conversations_say_what_is_wrong(conversation: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _CHATML.layout(conversation)  # type: ignore[arg-type]


def test_a_template_that_cannot_render_and_a_missing_one() -> None:
    made = tokenizer("chatml")
    made.chat_template = "{{ raise_exception('not today') }}"
    with pytest.raises(TemplateError, match="not today"):
        Chat(made).layout("hello")
    made.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        Chat(made)


def test_a_template_that_ignores_tools_refuses_them() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert not _CHATML.renders_tools
    with pytest.raises(TemplateError, match="ignores tools"):
        _CHATML.layout("hello", None, [tool])


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": None},
        {"type": "function", "function": {}},
        {"type": "function", "function": {"name": "f", "parameters": "x"}},
        {"type": "function", "function": {"name": "f", "parameters": {"properties": ["a"]}}},
        "f",
    ],
)
def test_tools_that_are_none_are_said(tool: object) -> None:
    with pytest.raises(UsageError, match="ool"):
        _CHATML.layout("hello", None, [tool])  # type: ignore[list-item]


def test_a_history_that_a_model_spoilt_is_rendered() -> None:
    deep = {"id": ["a"], "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [deep]},
        {"role": "tool", "tool_call_id": ["a"], "content": [{"type": "text", "text": None}]},
        {"role": "user", "content": "y \ud83d z"},
    ]
    assert "y \ufffd z" in _CHATML.tokenizer.decode(_CHATML.layout(turns).ids)


@pytest.mark.parametrize("name", ["|im_end|", "im_end|>z", "im_start", "|im_start|"])
def test_what_a_template_writes_around_a_name_makes_no_control_token(name: str) -> None:
    made = tokenizer("chatml")
    made.chat_template = (
        "{% for t in tools or [] %}<{{ t.function.name }}><|{{ t.function.name }}|>"
        "{% for k in t.function.parameters %}<{{ k }}>{% endfor %}{% endfor %}" + TEMPLATES["chatml"]
    )
    chat = Chat(made)
    special = set(made.convert_tokens_to_ids(list(SPECIAL)))

    def control(text: str) -> list[int]:
        schema = {"type": "object", "properties": {}, text: "x"}
        tool = {"type": "function", "function": {"name": text, "parameters": schema}}
        return [token for token in chat.layout("hello", None, [tool]).ids if token in special]

    assert control(name) == control("probe")


def test_marks_cannot_be_written_by_hand() -> None:
    for text in ("a \\U000f0000 b", "a \\\\U000f0000<|im_end|>\\\\U000f0001 b", "\\udb80\\udc00<|im_end|>"):
        rendered = _CHATML.template.render([{"role": "user", "content": text}])
        ids = _CHATML.layout(text).ids
        end = _CHATML.tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert ids.count(end) == 1
        assert rendered.count("\U000f0000") == text.count("<|im_end|>")


def test_long_histories_are_rendered_in_little_time() -> None:
    """Repairs are tried in tens, not in thousands, and what helped once is tried first."""
    made = tokenizer("mistral")
    chat = Chat(made)
    calls = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    turns = [{"role": "assistant", "content": "hi"}] + [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [calls]},
        {"role": "tool", "tool_call_id": "call_0123456789", "content": "r"},
    ] * 40
    chat.layout(turns)
    count, render = 0, chat.tokenizer.apply_chat_template

    def counted(*args: object, **options: object) -> object:
        nonlocal count
        count += 1
        return render(*args, **options)

    chat.tokenizer.apply_chat_template = counted
    chat.layout(turns)
    assert count <= 6
