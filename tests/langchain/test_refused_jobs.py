"""What LangChain's jobs catch around one of many calls: a refusal is among it."""

from __future__ import annotations

import json

import pytest
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from acd_core.errors import RefusalError
from tests.langchain.conftest import MakeChat


class Note(BaseModel):
    """What a text says."""

    subject: str


def reader(prompt: str) -> str:
    last = prompt.rsplit("<|im_start|>user", 1)[-1]
    return "I'm sorry, but I can't help with that." if "FORBIDDEN" in last else json.dumps({"subject": "Ann"})


async def test_one_refusal_does_not_end_a_batch_and_a_fallback_takes_over(make_chat: MakeChat) -> None:
    notes = make_chat(reader, lure=None).with_structured_output(Note)
    asked = ["Ann works.", "FORBIDDEN", "Ann again."]
    found = notes.batch(asked, return_exceptions=True)
    assert [found[0], found[2]] == [Note(subject="Ann")] * 2
    assert isinstance(found[1], RefusalError)
    with pytest.raises(ValueError, match="refused"):
        notes.invoke("FORBIDDEN")
    nobody = RunnableLambda(lambda _: Note(subject="nobody"))
    careful = notes.with_fallbacks([nobody], exceptions_to_handle=(ValueError,))
    assert [note.subject for note in careful.batch(asked)] == ["Ann", "nobody", "Ann"]
    assert [note.subject for note in await careful.abatch(asked)] == ["Ann", "nobody", "Ann"]
