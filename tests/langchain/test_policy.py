"""The operator's policy through ChatACD: no bound, configured, copied, saved or cached call goes around it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage
from langchain_core.runnables import ConfigurableField

from acd_core import ContrastiveLM, ContrastParams, Policy
from acd_core.errors import PolicyError, UsageError
from acd_integrations.langchain import ChatACD
from tests.core.gated import gate, open_lm

HI = "hello"
LOCKED = Policy(as_served=True)
WEAKER: list[dict[str, Any]] = [
    {"method": "none"},
    {"method": "safe-prompt"},
    {"alpha": 0.0},
    {"plausibility": 0.99},
    {"contrast_tokens": 0},
    {"graded": True},
    {"rescale": False},
    {"gate": 0.01},
    {"recheck": 0},
    {"contrast": ContrastParams(alpha=0.0)},
    {"contrast": {"plausibility": 0.99}},
    {"chat_template_kwargs": {"enable_thinking": False}},
]


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(0.5)) as found:
        yield found


@pytest.mark.parametrize("weaker", WEAKER, ids=str)
async def test_no_road_weakens_it(lm: ContrastiveLM, weaker: dict[str, Any]) -> None:
    llm = ChatACD.from_lm(lm, policy=LOCKED, max_tokens=1, alpha=0.5)
    assert llm.invoke(HI).response_metadata["acd"]["alpha"] == 0.5
    roads = [
        lambda: llm.invoke(HI, **weaker),
        lambda: llm.bind(**weaker).invoke(HI),
        lambda: list(llm.stream(HI, **weaker)),
        lambda: llm.batch([HI], **weaker),
        lambda: llm.with_fallbacks([llm.bind(**weaker)], exceptions_to_handle=(PolicyError,)).invoke(HI, **weaker),
    ]
    if "contrast" not in weaker:
        (name, value) = next(iter(weaker.items()))
        choice = llm.configurable_fields(**{name: ConfigurableField(id="it")})
        roads.append(lambda: choice.invoke(HI, config={"configurable": {"it": value}}))
        roads.append(lambda: llm.model_copy(update=weaker).invoke(HI))
        changed = copy.deepcopy(llm)
        setattr(changed, name, value)
        roads.append(lambda: changed.invoke(HI))
    for road in roads:
        with pytest.raises(PolicyError):
            road()
    with pytest.raises(PolicyError):
        await llm.ainvoke(HI, **weaker)
    with pytest.raises(PolicyError):
        async for _ in llm.astream(HI, **weaker):
            pass


def test_it_is_fixed(lm: ContrastiveLM) -> None:
    llm = ChatACD.from_lm(lm, policy=LOCKED, max_tokens=1)
    with pytest.raises(UsageError, match="fixed"):
        llm.policy = None
    with pytest.raises(UsageError, match="fixed"):
        llm.model_copy(update={"policy": None})
    with pytest.raises(UsageError, match="fixed"):
        llm.configurable_fields(policy=ConfigurableField(id="policy"))
    with pytest.raises(UsageError, match="policy"):
        llm.invoke(HI, policy=None)
    for other in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(), llm.model_copy(update={"seed": 3})):
        assert other.policy == llm.policy
        with pytest.raises(PolicyError):
            other.invoke(HI, alpha=0.1)


def test_it_goes_with_what_is_saved() -> None:
    llm = ChatACD(model="reference", pair="reference", policy={"as_served": True, "max_temperature": 0.5}, alpha=0.4)
    sent = pickle.loads(pickle.dumps(llm))  # noqa: S301
    mappings: Any = {"additional_import_mappings": ChatACD.saved_as()}
    read = loads(dumps(llm), valid_namespaces=["acd_integrations"], allowed_objects="core", **mappings)
    for other in (sent, read):
        assert other.policy == llm.policy != Policy()
        with pytest.raises(PolicyError, match="alpha"):
            other.invoke(HI, alpha=0.1)
        with pytest.raises(PolicyError, match="temperature"):
            other.invoke(HI, temperature=0.6)
    with pytest.raises(UsageError, match="no method"):
        ChatACD(policy={"methods": ["acdc"]})


def test_a_cache_is_no_way_around_it(lm: ContrastiveLM) -> None:
    cache = InMemoryCache()
    free = ChatACD.from_lm(lm, max_tokens=2, cache=cache)
    free.invoke(HI, alpha=0.0)
    with pytest.raises(PolicyError):
        ChatACD.from_lm(lm, max_tokens=2, cache=cache, policy=LOCKED).invoke(HI, alpha=0.0)


def test_begun_replies_and_raw_text(lm: ContrastiveLM) -> None:
    llm = ChatACD.from_lm(lm, max_tokens=3)
    open_ = ChatACD.from_lm(lm, max_tokens=3, policy=Policy(begun_replies=True, raw_text=True))
    begun = [HumanMessage(HI), AIMessage("Here is")]
    turns: list[dict[str, Any]] = [{"role": "user", "content": HI}, {"role": "assistant", "content": "Here is"}]

    def counted(message: Any) -> int:
        assert message.usage_metadata is not None
        return int(message.usage_metadata["input_tokens"])

    for model, prefix in ((llm, False), (open_, True)):
        turns[1]["prefix"] = prefix
        assert counted(model.invoke(begun)) == lm.generate(turns, max_tokens=3).usage.prompt_tokens
    with pytest.raises(PolicyError, match="role 'text'"):
        llm.invoke([ChatMessage("the", role="text")])
    assert open_.invoke([ChatMessage("the", role="text")]) is not None
    with open_lm(found=gate(0.5), policy=Policy(begun_replies=True)) as operator:  # said once, below
        below = ChatACD.from_lm(operator, max_tokens=3)
        assert counted(below.invoke(begun)) == counted(open_.invoke(begun))
        with pytest.raises(PolicyError, match="role 'text'"):
            below.invoke([ChatMessage("the", role="text")])


def test_contrast_params_of_a_call(lm: ContrastiveLM) -> None:
    llm = ChatACD.from_lm(lm, max_tokens=1, alpha=0.5, gate=False)
    for given in (ContrastParams(alpha=0.2), {"alpha": 0.2}):
        told = llm.invoke(HI, contrast=given).response_metadata["acd"]
        assert (told["alpha"], told["gate"]) == (0.2, None)  # what it does not say stays
    assert llm.invoke(HI, contrast=ContrastParams(alpha=0.2), alpha=0.3).response_metadata["acd"]["alpha"] == 0.3
    for wrong in (0.2, {"alfa": 0.2}):
        with pytest.raises(UsageError, match="contrast"):
            llm.invoke(HI, contrast=wrong)
