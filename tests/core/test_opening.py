"""Opening and closing models at once: nobody waits for another model, nobody is left with a closed engine."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from acd_core import ContrastiveLM
from acd_core.errors import ACDError
from acd_core.reply import sharing
from tests.core.tiny import family


def test_a_slow_model_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()
    model, tokenizer = family("llama", 3)
    other, other_tokenizer = family("qwen2", 4)
    real = sharing.Chat

    def slow(given: Any) -> Any:
        if given is tokenizer:
            started.set()
            assert go.wait(60)
        return real(given)

    monkeypatch.setattr(sharing, "Chat", slow)
    found: list[ContrastiveLM] = []
    thread = threading.Thread(target=lambda: found.append(ContrastiveLM.from_model(model, tokenizer)))
    thread.start()
    assert started.wait(60)
    with ContrastiveLM.from_model(other, other_tokenizer) as quick:
        assert quick.generate("hello", max_tokens=1).token_ids
    go.set()
    thread.join(60)
    with found[0] as lm:
        assert lm.generate("hello", max_tokens=1).token_ids


def test_opening_while_the_last_user_closes() -> None:
    """Each opening gives an engine that answers, however many close beside it."""
    model, tokenizer = family("llama", 5)
    wrong: list[BaseException] = []

    def user() -> None:
        try:
            for _ in range(15):
                with ContrastiveLM.from_model(model, tokenizer) as lm:
                    assert lm.generate("hello", max_tokens=1).token_ids
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=user) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_closing_twice_and_from_two_threads() -> None:
    model, tokenizer = family("llama", 6)
    lm, other = ContrastiveLM.from_model(model, tokenizer), ContrastiveLM.from_model(model, tokenizer)
    threads = [threading.Thread(target=lm.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert other.generate("hello", max_tokens=1).token_ids
    other.close()
    assert other.engine.closed
    with pytest.raises(ACDError, match="closed"):
        other.generate("hello")
