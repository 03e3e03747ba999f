"""The operator's policy through ACDLLM: no call, copy, pickle or description goes around it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from acd_core import ContrastiveLM, ContrastParams, Policy
from acd_core.errors import PolicyError, UsageError
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import gate, open_lm
from tests.langchain.test_policy import LOCKED, WEAKER

HI = "hello"
ASK = [ChatMessage(role="user", content=HI)]


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(0.5)) as found:
        yield found


@pytest.mark.parametrize("weaker", WEAKER, ids=str)
async def test_no_road_weakens_it(lm: ContrastiveLM, weaker: dict[str, Any]) -> None:
    llm = ACDLLM.from_lm(lm, policy=LOCKED, max_tokens=1, alpha=0.5)
    assert llm.chat(ASK).raw["contrast"]["alpha"] == 0.5
    roads = [
        lambda: llm.chat(ASK, **weaker),
        lambda: llm.complete(HI, **weaker),
        lambda: list(llm.stream_chat(ASK, **weaker)),
        lambda: list(llm.stream_complete(HI, **weaker)),
    ]
    if "contrast" not in weaker:
        roads.append(lambda: llm.model_copy(update=weaker).chat(ASK))
        changed = copy.deepcopy(llm)
        for name, value in weaker.items():
            setattr(changed, name, value)
        if "method" not in weaker:
            roads.append(lambda: changed.chat(ASK))
    for road in roads:
        with pytest.raises(PolicyError):
            road()
    for call in (llm.achat(ASK, **weaker), llm.acomplete(HI, **weaker)):
        with pytest.raises(PolicyError):
            await call
    with pytest.raises(PolicyError):
        async for _ in await llm.astream_chat(ASK, **weaker):
            pass


def test_it_is_fixed(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm, policy=LOCKED, max_tokens=1)
    with pytest.raises(UsageError, match="fixed"):
        llm.policy = None
    with pytest.raises(UsageError, match="fixed"):
        llm.model_copy(update={"policy": None})
    with pytest.raises(UsageError, match="policy"):
        llm.chat(ASK, policy=None)
    for other in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(update={"seed": 3})):
        assert other.policy == llm.policy
        with pytest.raises(PolicyError):
            other.chat(ASK, alpha=0.1)


def test_it_goes_with_what_is_saved() -> None:
    llm = ACDLLM(model="reference", pair="reference", policy={"as_served": True}, alpha=0.4)
    for other in (pickle.loads(pickle.dumps(llm)), ACDLLM.from_dict(llm.to_dict())):  # noqa: S301
        assert other.policy == llm.policy
        with pytest.raises(PolicyError, match="alpha"):
            other.complete(HI, alpha=0.1)


def test_begun_replies_raw_text_and_formatted(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm, max_tokens=3, system_prompt="answer about data")
    open_ = ACDLLM.from_lm(lm, max_tokens=3, policy=Policy(begun_replies=True))
    begun = [*ASK, ChatMessage(role="assistant", content="Here is")]
    over = [*ASK, ChatMessage(role="assistant", content="Here is", additional_kwargs={"prefix": False})]
    asked = llm.chat(begun).raw["usage"]["prompt_tokens"]
    assert asked == llm.chat(over).raw["usage"]["prompt_tokens"]
    assert open_.chat(begun).raw["usage"]["prompt_tokens"] < open_.chat(over).raw["usage"]["prompt_tokens"]
    with pytest.raises(PolicyError, match="begun"):
        llm.chat([*ASK, ChatMessage(role="assistant", content="x", additional_kwargs={"prefix": True})])
    for name in ("_formatted", "formatted", "given"):  # the system prompt is the operator's
        with pytest.raises(UsageError, match=name):
            llm.chat(ASK, **{name: True})
    assert llm.complete(HI).raw["usage"]["prompt_tokens"] == llm.chat(ASK).raw["usage"]["prompt_tokens"]


def test_contrast_params_of_a_call(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm, max_tokens=1, alpha=0.5, gate=False)
    told = llm.complete(HI, contrast=ContrastParams(alpha=0.2)).raw["contrast"]
    assert (told["alpha"], told["gate"]) == (0.2, None)
    with pytest.raises(UsageError, match="contrast"):
        llm.complete(HI, contrast=0.2)
