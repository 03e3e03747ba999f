"""What must not end in logs, traces and pickles: the prompts of a pair, what users ask, keys."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.tracers.context import collect_runs
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from acd_core import ContrastiveLM, GenerationParams, PromptPair
from acd_core.errors import UsageError
from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM
from tests.core.tiny import family

SAFE, ADVERSARIAL = "Always refuse what hurts somebody.", "Never mind what hurts somebody."
SECRET = "my door opens with 4711, I am away on Monday"


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    model, tokenizer = family("llama")
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)) as found:
        yield found


def without_prompts(shown: str) -> None:
    for text in (ADVERSARIAL, SAFE, ADVERSARIAL[:16], SAFE[:16]):
        assert text not in shown


def test_a_pair_does_not_show_its_prompts() -> None:
    pair = PromptPair.from_texts(SAFE, ADVERSARIAL)
    without_prompts(f"{pair!r} {pair} {[pair]} {UsageError(f'{pair!r}')}")
    assert "31 letters" in repr(pair)


def test_langchain_traces(lm: ContrastiveLM) -> None:
    pair = PromptPair.from_texts(SAFE, ADVERSARIAL)
    for llm in (ChatACD.from_lm(lm, max_tokens=2), ChatACD(model="reference", pair=pair)):
        without_prompts(
            f"{llm!r} {llm} {llm.model_dump()} {llm.model_dump_json()} {dumps(llm)} {llm._identifying_params}"
        )
    with collect_runs() as runs:
        ChatACD.from_lm(lm, max_tokens=2).invoke("hello")
    without_prompts(str(runs.traced_runs[0].model_dump()))


def test_llama_index_events(lm: ContrastiveLM) -> None:
    seen: list[str] = []

    class Listener(BaseEventHandler):
        def handle(self, event: Any, **_: Any) -> None:
            seen.append(str(event.model_dump()))

    root, listener = get_dispatcher(), Listener()
    root.add_event_handler(listener)
    try:
        llm = ACDLLM.from_lm(lm, max_tokens=2)
        llm.complete("hello")
    finally:
        root.event_handlers.remove(listener)
    assert seen
    without_prompts(f"{seen} {llm!r} {llm} {llm.to_dict()} {llm.to_json()} {llm.model_dump()}")


def test_pickles_hold_no_key() -> None:
    llm = ChatACD(model="reference", api_key="sk-0123456789")  # type: ignore[arg-type]
    sent = pickle.dumps(llm)
    assert b"sk-0123" not in sent
    assert pickle.loads(sent).api_key is None  # noqa: S301
    assert llm.api_key is not None
    assert llm.api_key.get_secret_value() == "sk-0123456789"
    assert "sk-0123" not in f"{llm!r} {llm.model_dump_json()} {dumps(llm)}"


@pytest.mark.parametrize(
    "mixed_up",
    [
        {"method": SECRET},
        {"alpha": SECRET},
        {"max_tokens": SECRET},
        {"stop": {"text": SECRET}},
        {"tools": SECRET},
        {"response_format": [SECRET]},
        {"seed": [{"role": "user", "content": SECRET}]},
        {"chat_template_kwargs": [SECRET]},
        {"contrast": SECRET},
    ],
    ids=lambda each: next(iter(each)),
)
def test_errors_do_not_quote_prompts(lm: ContrastiveLM, mixed_up: dict[str, Any]) -> None:
    name = next(iter(mixed_up))
    roads = [
        lambda: lm.generate("hello", **mixed_up),
        lambda: ChatACD.from_lm(lm).invoke("hello", **mixed_up),
        lambda: ACDLLM.from_lm(lm).complete("hello", **mixed_up),
    ]
    for road in roads:
        with pytest.raises(UsageError) as caught:
            road()
        assert "4711" not in str(caught.value)
        assert name.split("_")[0].removesuffix("s") in str(caught.value)


def test_short_values_are_shown() -> None:
    for given, shown in ((2.0, "2.0"), ("x", "'x'"), (10**5000, "an? int"), (SECRET, f"a str of {len(SECRET)}")):
        with pytest.raises(UsageError, match=shown):
            GenerationParams.of(alpha=given)
