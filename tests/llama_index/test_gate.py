"""The gate through ACDLLM: settings of the object and of a call, the operator's floor, what replies tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage

from acd_core import ContrastiveLM
from acd_core.errors import UsageError
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import NEVER, gate, open_lm

HI = "hello"
ASK = [ChatMessage(role="user", content=HI)]


@pytest.fixture
def closed() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(NEVER)) as lm:
        yield lm


def said(response: Any) -> Any:
    """What the reply says of its gate, as JSON would have it."""
    return json.loads(json.dumps(response.raw["contrast"]["gate"], allow_nan=False))


def test_every_road_tells_what_the_gate_did(closed: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(closed, max_tokens=8, recheck=3)
    told = said(llm.chat(ASK))
    assert told == {"opened": False, "opened_at": None, "reading": told["reading"], "threshold": NEVER, "readings": 3}

    async def others() -> list[Any]:
        found = [await llm.achat(ASK), await llm.acomplete(HI)]
        found.append([each async for each in await llm.astream_chat(ASK)][-1])
        found.append([each async for each in await llm.astream_complete(HI)][-1])
        return found

    roads = [llm.complete(HI), list(llm.stream_chat(ASK))[-1], list(llm.stream_complete(HI))[-1]]
    for road in [*roads, *asyncio.run(others())]:
        assert said(road) == {**told, "reading": pytest.approx(told["reading"], abs=1e-3)}


def test_a_call_may_say_otherwise(closed: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(closed, max_tokens=6)
    alone, contrasted = closed.generate(HI, method="none", max_tokens=6), closed.generate(HI, gate=False, max_tokens=6)
    assert llm.complete(HI).text == alone.text != contrasted.text
    assert llm.complete(HI, gate=False).text == contrasted.text
    assert said(llm.complete(HI, gate=False)) is None
    assert said(llm.chat(ASK, gate=1.0))["opened_at"] == 0
    assert said(llm.complete(HI, recheck=2))["readings"] == 3
    assert said(ACDLLM.from_lm(closed, gate=False, max_tokens=1).complete(HI)) is None
    llm.gate = False  # another setting, the same model
    assert said(llm.complete(HI)) is None
    assert llm.lm is closed
    with pytest.raises(UsageError, match="gate"):
        ACDLLM.from_lm(closed, gate=2.0)


def test_the_floor_holds_for_calls() -> None:
    with open_lm(found=gate(NEVER), gate_floor=0.34) as lm:
        llm = ACDLLM.from_lm(lm, max_tokens=1)
        assert llm.gate_floor == 0.34
        for less, name in (({"gate": 0.1}, "floor"), ({"recheck": 0}, "recheck"), ({"gate_floor": 0.1}, "gate_floor")):
            with pytest.raises(UsageError, match=name):
                llm.complete(HI, **less)
        with pytest.raises(UsageError, match="gate_floor"):
            ACDLLM.from_lm(lm, gate_floor=0.1)
    with pytest.raises(UsageError, match="gate_floor"):
        ACDLLM(model="m", gate_floor=2.0)


def test_a_floor_given_here_reaches_the_model(tmp_path: Path) -> None:
    with open_lm(found=gate(NEVER)) as lm:
        lm.backbone.model.save_pretrained(tmp_path)
        lm.backbone.tokenizer.save_pretrained(tmp_path)
        settings = {"model": str(tmp_path), "pair": lm.pair, "device": "cpu", "dtype": "float32", "max_tokens": 1}
    llm = ACDLLM(**settings, gate_floor=0.34, recheck=64)
    with pytest.raises(UsageError, match="floor"):
        llm.complete(HI, gate=0.1)
    assert llm.lm.gate_rules.recheck == 64
    assert said(llm.complete(HI))["threshold"] != NEVER  # the pair's own opens for fewer than the floor
    floored = llm.lm
    llm.gate_floor = None
    assert said(llm.complete(HI))["threshold"] == NEVER
    assert llm.lm is not floored
    floored.close()
    llm.lm.close()


def test_settings_are_told_and_kept() -> None:
    settings = {"gate": 0.02, "gate_floor": 0.01, "recheck": 8, "graded": True}
    llm = ACDLLM(model="m", pair="p", **settings)
    told, kept = llm.to_payload(), ACDLLM.from_dict(llm.to_dict())
    assert {name: told[name] for name in settings} == settings
    assert {name: getattr(kept, name) for name in settings} == settings
