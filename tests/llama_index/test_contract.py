"""The contract of LlamaIndex LLMs, held by ACDLLM over a scripted model under contrast."""

from __future__ import annotations

import pytest

from tests.llama_index.contract import CHECKS, Subject
from tests.llama_index.subjects import scripted_subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return scripted_subject()


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, subject: Subject) -> None:
    CHECKS[check](subject)
