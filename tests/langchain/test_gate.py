"""The gate through ChatACD: settings of the object and of a call, the operator's floor, metadata, cache keys."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import ConfigurableField

from acd_core import ContrastiveLM
from acd_core.artifacts.gate import Levels
from acd_core.errors import GateError, UsageError
from acd_core.params import ContrastReport, GateReport
from acd_integrations.langchain import ChatACD
from acd_integrations.shared.report import reported
from tests.core.gated import ALWAYS, NEVER, gate, open_lm

HI = "hello"


@pytest.fixture
def closed() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(NEVER)) as lm:
        yield lm


def said(message: AIMessage) -> Any:
    """What the message says of its gate, as JSON would have it."""
    return json.loads(json.dumps(message.response_metadata["acd"]["gate"], allow_nan=False))


async def test_every_road_tells_what_the_gate_did(closed: ContrastiveLM) -> None:
    llm = ChatACD.from_lm(closed, max_tokens=8, recheck=3)
    told = said(llm.invoke(HI))
    assert told == {"opened": False, "opened_at": None, "reading": told["reading"], "threshold": NEVER, "readings": 3}
    assert isinstance(told["reading"], float)
    roads = [said(await llm.ainvoke(HI))]
    roads.append(said(list(llm.stream(HI))[-1]))
    whole: Any = AIMessageChunk("")
    async for piece in llm.astream(HI):
        whole += piece
    roads.append(said(whole))
    for road in roads:
        assert road == {**told, "reading": pytest.approx(told["reading"], abs=1e-3)}


def test_a_call_may_say_otherwise(closed: ContrastiveLM) -> None:
    llm = ChatACD.from_lm(closed, max_tokens=6)
    alone, contrasted = closed.generate(HI, method="none", max_tokens=6), closed.generate(HI, gate=False, max_tokens=6)
    assert alone.text != contrasted.text
    assert llm.invoke(HI).content == alone.text
    for reply in (llm.invoke(HI, gate=False), llm.bind(gate=False).invoke(HI)):
        assert reply.content == contrasted.text
        assert said(reply) is None
    opened = llm.invoke(HI, gate=1.0)  # for every request
    assert opened.content == contrasted.text
    assert said(opened) == {**said(opened), "opened": True, "opened_at": 0, "threshold": "-inf", "readings": 1}
    assert said(llm.invoke(HI, recheck=2))["readings"] == 3
    choice = llm.configurable_fields(gate=ConfigurableField(id="gate"))
    assert said(choice.invoke(HI, config={"configurable": {"gate": False}})) is None
    assert said(ChatACD.from_lm(closed, gate=False).invoke(HI, max_tokens=1)) is None
    assert said(ChatACD.from_lm(closed, gate=False).invoke(HI, max_tokens=1, gate=True)) is not None
    with pytest.raises(UsageError, match="gate"):
        llm.invoke(HI, gate=2.0)


def test_graded_reaches_the_contrast() -> None:
    with open_lm(found=replace(gate(0.0), prompt=Levels((-1e3,), (1e3,), -1e3))) as lm:
        graded = ChatACD.from_lm(lm, graded=True).invoke(HI, max_tokens=2).response_metadata["acd"]["alpha"]
        assert graded == pytest.approx(lm.generate(HI, max_tokens=2, graded=True).report.alpha)
        assert graded != ChatACD.from_lm(lm).invoke(HI, max_tokens=2).response_metadata["acd"]["alpha"]


def test_the_floor_holds_for_calls_and_cannot_be_changed_under_them() -> None:
    with open_lm(found=gate(NEVER), gate_floor=0.34) as lm:
        llm = ChatACD.from_lm(lm, max_tokens=1)
        assert llm.gate_floor == 0.34
        for less, name in (({"gate": 0.1}, "floor"), ({"recheck": 0}, "recheck"), ({"gate_floor": 0.1}, "gate_floor")):
            with pytest.raises(UsageError, match=name):
                llm.invoke(HI, **less)
        with pytest.raises(UsageError, match="gate_floor"):
            ChatACD.from_lm(lm, gate_floor=None).invoke(HI)
        assert said(llm.invoke(HI, gate=False)) is None
    with pytest.raises(UsageError, match="gate_floor"):
        ChatACD(gate_floor=2.0)
    assert ChatACD(recheck=8)._spec() == ChatACD()._spec()  # then it goes with each call, and the model is shared
    floored = ChatACD(gate_floor=0.1, recheck=8)._spec()
    assert (floored.gate_floor, floored.recheck) == (0.1, 8)


def test_a_floor_has_a_model_of_its_own_with_the_weights_shared(tmp_path: Path) -> None:
    with open_lm(found=gate(NEVER)) as lm:
        lm.backbone.model.save_pretrained(tmp_path)
        lm.backbone.tokenizer.save_pretrained(tmp_path)
        pair = lm.pair
    free = ChatACD(model=str(tmp_path), pair=pair, device="cpu", dtype="float32", max_tokens=1)
    floored = free.model_copy(update={"gate_floor": 0.34, "recheck": 64})
    assert free.model_copy(update={"gate": False, "recheck": 8}).lm is free.lm
    assert floored.lm is not free.lm
    assert floored.lm.backbone is free.lm.backbone
    assert (floored.lm.gate_rules.floor, floored.lm.gate_rules.recheck) == (0.34, 64)
    assert said(floored.invoke(HI))["threshold"] != NEVER  # the pair's own opens for fewer than the floor
    assert said(free.invoke(HI))["threshold"] == NEVER
    with pytest.raises(UsageError, match="floor"):
        floored.invoke(HI, gate=0.1)
    with pytest.raises(GateError):
        ChatACD(model=str(tmp_path), gate=True, method="rose", device="cpu", dtype="float32").invoke(HI)
    free.lm.close()
    floored.lm.close()


def test_what_the_gate_is_set_to_is_part_of_the_cache_key(closed: ContrastiveLM) -> None:
    settings: list[dict[str, Any]] = [{}, {"gate": False}, {"gate": True}, {"gate": 1.0}, {"recheck": 4}]
    settings.append({"graded": True})
    models = [ChatACD.from_lm(closed, **each) for each in settings]
    with open_lm(found=gate(ALWAYS)) as other, ContrastiveLM(closed.backbone, closed.pair, recheck=8) as read_more:
        models += [ChatACD.from_lm(other), ChatACD.from_lm(read_more), ChatACD(pair="p"), ChatACD(pair="p", gate=0.5)]
        models.append(ChatACD(pair="p", gate_floor=0.5))
        assert len({str(sorted(llm._identifying_params.items())) for llm in models}) == len(models)
    llm = ChatACD.from_lm(closed, cache=InMemoryCache(), max_tokens=6)
    assert llm.invoke(HI).content != llm.invoke(HI, gate=False).content
    kept = pickle.loads(pickle.dumps(ChatACD(pair="p", gate=0.02, gate_floor=0.01, recheck=8, graded=True)))  # noqa: S301
    assert (kept.gate, kept.gate_floor, kept.recheck, kept.graded) == (0.02, 0.01, 8, True)
    assert "gate=0.02" in repr(kept)


def test_what_is_no_number_is_told_as_text() -> None:
    report = ContrastReport(gate=GateReport(0, float("nan"), float("-inf"), 1))
    assert reported(report)["gate"]["reading"] == "nan"
    assert reported(report)["gate"]["threshold"] == "-inf"
    assert reported(ContrastReport(gate=GateReport(0, None, 0.5, 0)))["gate"]["reading"] is None
    assert reported(ContrastReport())["gate"] is None
