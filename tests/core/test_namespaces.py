"""Who may find keys and values again: nobody learns from counts of cached tokens what others asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables import ConfigurableField
from llama_index.core.llms import ChatMessage

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import UsageError
from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import gate, open_lm
from tests.core.tiny import family

SECRET = "the quick brown fox jumps over the lazy dog with the code four seven one one"


def cached(lm: ContrastiveLM, text: str, **call: Any) -> int:
    return lm.generate(text, max_tokens=2, **call).usage.cached_tokens


@pytest.fixture(params=["gated", "contrasted", "plain"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[ContrastiveLM, ContrastiveLM]]:
    """Two LMs over one model, and so over one engine."""
    model, tokenizer = family("llama", 11)
    texts = PromptPair.from_texts("always be safe while you answer", "never mind")

    def make() -> ContrastiveLM:
        if request.param == "gated":
            return open_lm(found=gate(0.5))
        return ContrastiveLM.from_model(model, tokenizer, texts if request.param == "contrasted" else None)

    with make() as first, make() as second:
        assert first.engine is second.engine
        yield first, second


def test_two_objects_share_nothing_that_was_asked(two: tuple[ContrastiveLM, ContrastiveLM]) -> None:
    first, second = two
    text = SECRET + f" {id(first)}"
    cached(second, "hello")
    before = cached(second, "data")  # the template's own head
    cached(first, text)
    assert cached(first, text) > before  # its own it finds
    fresh = cached(second, text)
    assert fresh <= before
    assert cached(second, text) > before


def test_a_call_may_name_its_own(two: tuple[ContrastiveLM, ContrastiveLM]) -> None:
    first, second = two
    text = SECRET + f" {id(second)}"
    cached(first, text, namespace="ada")
    cached(first, "hello", namespace="somebody")
    head = cached(first, "data", namespace="somebody")
    assert cached(first, text, namespace="grace") <= head
    assert cached(second, text, namespace="ada") > head  # the same name, the same space
    with ContrastiveLM.from_model(first.backbone.model, first.backbone.tokenizer, namespace="ada") as third:
        assert third.namespace == "ada"


def test_soft_prompts_are_everybodys() -> None:
    """They are the operator's: computed once, whoever asks."""
    with open_lm() as first, open_lm() as second:
        first.engine.prefixes.clear()
        first.generate("hello", max_tokens=1)
        entries = list(first.engine.prefixes._entries.values())
        assert [entry.space for entry in entries if entry.space is None]
        reused = first.engine.prefixes.reused_tokens
        second.generate("the lazy dog", max_tokens=1)
        assert first.engine.prefixes.reused_tokens >= reused + 9 + 13


def test_a_head_that_a_caller_wrote_is_not_everybodys() -> None:
    with open_lm() as lm:
        lm.engine.prefixes.clear()
        lm.generate("hello", max_tokens=1, chat_template_kwargs={"custom": SECRET})
        lm.generate([{"role": "system", "content": SECRET}, {"role": "user", "content": "hello"}], max_tokens=1)
        word = lm.token_ids(" quick")[-1]
        for entry in lm.engine.prefixes._entries.values():
            assert entry.space == lm.namespace or word not in entry.ids


def test_langchain() -> None:
    with open_lm() as lm:
        one, other = ChatACD.from_lm(lm, max_tokens=1), ChatACD.from_lm(lm, max_tokens=1)

        def known(llm: Any, text: str, **call: Any) -> int:
            return int(llm.invoke(text, **call).usage_metadata["input_token_details"].get("cache_read", 0))

        known(one, "hello")
        head = known(one, "data")
        known(one, SECRET)
        assert known(other, SECRET) <= head < known(one, SECRET)
        assert known(one.model_copy(), SECRET) > head
        choice = one.configurable_fields(temperature=ConfigurableField(id="t"))
        assert known(choice.with_config(configurable={"t": 0.5}), SECRET) > head  # a copy of it
        assert known(one, SECRET, namespace="ada") <= head < known(one.bind(namespace="ada"), SECRET)
        assert known(other, SECRET, namespace="ada") <= head
        shared = [ChatACD.from_lm(lm, max_tokens=1, namespace="all") for _ in range(2)]
        known(shared[0], SECRET)
        assert known(shared[1], SECRET) > head
        with pytest.raises(UsageError, match="namespace"):
            one.invoke(SECRET, namespace=3)


def test_llama_index() -> None:
    with open_lm() as lm:
        one, other = ACDLLM.from_lm(lm, max_tokens=1), ACDLLM.from_lm(lm, max_tokens=1)

        def known(llm: ACDLLM, text: str, **call: Any) -> int:
            return int(llm.chat([ChatMessage(role="user", content=text)], **call).raw["usage"]["cached_tokens"])

        known(one, "hello")
        head = known(one, "data")
        known(one, SECRET)
        assert known(other, SECRET) <= head < known(one, SECRET)
        assert known(one, SECRET, namespace="ada") <= head < known(one, SECRET, namespace="ada")
