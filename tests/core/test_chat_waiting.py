"""Nobody waits for somebody else's conversation; what cannot fit by far is refused before it is rendered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from acd_core.chat import SOFT, Chat
from acd_core.errors import ContextLengthError
from tests.core.tiny import SPECIAL, tokenizer

HELLO = [{"role": "user", "content": "hello"}]


def test_a_template_that_does_not_end_stops_nobody() -> None:
    chat, other = Chat(tokenizer("chatml")), Chat(tokenizer("llama3"))
    wanted, render = chat.layout(HELLO, SOFT), chat.tokenizer.apply_chat_template
    begun, go_on = threading.Event(), threading.Event()

    def slowly(messages: list[dict[str, str]], **options: object) -> object:
        if any("slow" in each["content"] for each in messages):
            begun.set()
            assert go_on.wait(120)
        return render(messages, **options)

    chat.tokenizer.apply_chat_template = slowly
    with ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(chat.layout, "slow")
        try:
            assert begun.wait(60)
            # The same chat, another one, and one that is made meanwhile: none of them waits.
            assert threads.submit(chat.layout, HELLO, SOFT).result(60) == wanted
            assert threads.submit(other.layout, HELLO).result(60)
            made = threads.submit(Chat, tokenizer("phi")).result(60)
            assert threads.submit(lambda: made.appended_header).result(60)
        finally:
            go_on.set()
        assert "slow" in chat.tokenizer.decode(stuck.result(60).ids)


def test_what_a_chat_learns_of_its_template_is_learnt_without_a_lock() -> None:
    """Until Python 3.12 `cached_property` takes one lock for all instances: found by two chats asking each other."""
    first, second = Chat(tokenizer("chatml")), Chat(tokenizer("llama3"))
    asked = first.template._apply_template

    def asking(*args: object) -> str:
        with ThreadPoolExecutor(1) as other:
            assert other.submit(lambda: second.template.opening).result(60)
        return str(asked(*args))

    first.template._apply_template = asking  # type: ignore[method-assign, assignment]
    assert first.template.opening == "<|im_start|>assistant\n"


def test_many_threads_get_what_one_gets() -> None:
    chat = Chat(tokenizer("chatml"))
    texts = [f"{'word ' * count}{mark} and {mark[1:]} é" for count in (0, 3, 50, 400) for mark in SPECIAL]
    alone = [chat.layout(text, "be safe").ids + chat.encode_text(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda text: chat.layout(text, "be safe").ids + chat.encode_text(text), texts * 3))
    assert together == alone * 3


def test_truncation_and_padding_of_the_owner_reach_no_prompt() -> None:
    made = tokenizer("chatml")
    wanted = Chat(made).layout("hello world").ids
    made.backend_tokenizer.enable_truncation(4)
    made.backend_tokenizer.enable_padding(length=200)
    assert Chat(made).layout("hello world").ids == wanted
    assert made.backend_tokenizer.truncation["max_length"] == 4


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_what_cannot_fit_by_far_is_refused(role: str) -> None:
    chat = Chat(tokenizer("chatml"))
    turns = [{"role": role, "content": "hello é " * 100_000}, *HELLO]
    with pytest.raises(ContextLengthError, match="800005 characters"):
        chat.check_length(turns, 512)


def test_no_more_is_encoded_than_it_takes() -> None:
    chat, taken = Chat(tokenizer("chatml")), 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield "hello world " * 1000

    assert chat.template.encoder.exceeds(texts(), 3000)
    assert taken < 10


def test_what_fits_is_never_refused() -> None:
    made = tokenizer("chatml")
    chat = Chat(made)
    text = "hello world the quick " * 10_000
    for turns in (
        [{"role": "user", "content": text}],
        [{"role": "user", "content": text + " " * 1_000_000}],  # a template may trim it
        [{"role": "assistant", "content": "x" * 1_000_000}, {"role": "user", "content": "hi"}],  # it may leave it out
    ):
        chat.check_length(turns, len(chat.encode_text(text)))
