"""Variables of the model's chat template, from the constructor and from a call, by every road, in both hosts."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import ConfigurableField

from acd_core.errors import UsageError
from acd_integrations.langchain import ChatACD
from tests.langchain.conftest import MakeChat
from tests.scripted import HERMES

TEMPLATE = HERMES.replace(
    "{%- for m in messages %}",
    "[think={{ enable_thinking | default('unset') }} effort={{ reasoning_effort | default('unset') }}]"
    "{%- for m in messages %}",
    1,
)


def reply(prompt: str) -> str:
    """What the model read of the variables."""
    return prompt[prompt.rindex("[think=") : prompt.index("]", prompt.rindex("[think=")) + 1]


@pytest.fixture
def make(make_chat: MakeChat) -> Any:
    return lambda **settings: make_chat(reply, template=TEMPLATE, **settings)


async def test_by_every_road(make: Any) -> None:
    llm: ChatACD = make()
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    wanted = "[think=False effort=unset]"
    assert llm.invoke("hi").content == "[think=unset effort=unset]"
    said = [
        llm.invoke("hi", **off).content,
        llm.bind(**off).invoke("hi").content,
        make(**off).invoke("hi").content,
        (await llm.ainvoke("hi", **off)).content,
        "".join(str(piece.content) for piece in llm.stream("hi", **off)),
        "".join([str(piece.content) async for piece in llm.astream("hi", **off)]),
        llm.batch(["hi"], **off)[0].content,
        llm.model_copy(update=off).invoke("hi").content,
        llm.configurable_fields(chat_template_kwargs=ConfigurableField(id="v"))
        .invoke("hi", config={"configurable": {"v": off["chat_template_kwargs"]}})
        .content,
    ]
    assert said == [wanted] * len(said)


def test_a_call_goes_over_the_object_key_by_key(make: Any) -> None:
    llm = make(chat_template_kwargs={"enable_thinking": True, "reasoning_effort": "low"})
    assert llm.invoke("hi").content == "[think=True effort=low]"
    assert llm.invoke("hi", chat_template_kwargs={"enable_thinking": False}).content == "[think=False effort=low]"
    assert llm.invoke("hi", chat_template_kwargs={"reasoning_effort": "high"}).content == "[think=True effort=high]"
    for nothing in (None, {}):
        assert llm.invoke("hi", chat_template_kwargs=nothing).content == "[think=True effort=low]"
    assert llm.chat_template_kwargs == {"enable_thinking": True, "reasoning_effort": "low"}


def test_what_cannot_be_a_variable(make: Any) -> None:
    llm = make()
    with pytest.raises(UsageError, match="chat_template_kwargs"):
        llm.invoke("hi", chat_template_kwargs={"messages": []})
    with pytest.raises(UsageError, match="chat_template_kwargs"):
        llm.invoke("hi", chat_template_kwargs="off")
    with pytest.raises(UsageError, match="chat_template_kwargs"):
        ChatACD(chat_template_kwargs={"tools": []})
    with pytest.raises(UsageError, match="chat_template_kwargs"):
        ChatACD(chat_template_kwargs=3)
    lone = llm.invoke("hi", chat_template_kwargs={"reasoning_effort": "a\ud83db"})
    assert lone.content == "[think=unset effort=a\ufffdb]"


def test_a_cached_answer_is_not_given_for_other_variables(make: Any) -> None:
    llm = make(cache=InMemoryCache())
    assert llm.invoke("hi").content == "[think=unset effort=unset]"
    changed = llm.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    assert changed.invoke("hi").content == "[think=False effort=unset]"
    assert llm.invoke("hi", chat_template_kwargs={"enable_thinking": True}).content == "[think=True effort=unset]"


def test_llama_index_alike(make: Any) -> None:
    llama_index = pytest.importorskip("acd_integrations.llama_index")
    from llama_index.core.llms import ChatMessage

    lm, asked = make().lm, [ChatMessage(role="user", content="hi")]
    llm = llama_index.ACDLLM.from_lm(lm, chat_template_kwargs={"enable_thinking": True, "reasoning_effort": "low"})
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert llm.chat(asked).message.content == "[think=True effort=low]"
    wanted = "[think=False effort=low]"
    assert llm.chat(asked, **off).message.content == wanted
    assert list(llm.stream_chat(asked, **off))[-1].message.content == wanted
    assert llm.complete("hi", **off).text == wanted
    assert list(llm.stream_complete("hi", **off))[-1].text == wanted
    assert llm.chat_with_tools([], user_msg="hi", **off).message.content == wanted
    plain = llama_index.ACDLLM.from_lm(lm)
    assert plain.chat(asked).message.content == "[think=unset effort=unset]"
    for wrong in ({"messages": []}, "off"):
        with pytest.raises(UsageError, match="chat_template_kwargs"):
            plain.chat(asked, chat_template_kwargs=wrong)
    kept = llama_index.ACDLLM(model="reference", **off)
    assert llama_index.ACDLLM.from_dict(kept.to_dict()).chat_template_kwargs == {"enable_thinking": False}
