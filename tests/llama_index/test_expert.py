"""ACDLLM with a LoRA expert: safedecoding by its folder; changing the field changes the model behind it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core")

from acd_core.errors import UsageError
from acd_core.model.backbone import Backbone
from acd_integrations.llama_index import ACDLLM
from tests.cli.conftest import save_tiny_model
from tests.core.test_experts import random_expert


def test_an_expert_by_its_folder(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model"))
    backbone = Backbone.load(model, device="cpu", dtype="float32")
    expert = random_expert(backbone, ("q_proj", "v_proj"), size=3.0)
    folder = expert.save(tmp_path / "expert")
    llm = ACDLLM(model=model, expert=folder, device="cpu", dtype="float32", max_tokens=8)
    assert llm.lm.method == "safedecoding"
    reply = llm.complete("hello").text
    assert ACDLLM.from_lm(llm.lm, max_tokens=8).complete("hello").text == reply
    assert llm.model_dump()["expert"] == str(folder)
    assert pickle.dumps(llm)
    llm.expert = None
    assert llm.lm.method == "none"
    with pytest.raises(UsageError, match="expert held in memory"):
        pickle.dumps(ACDLLM(model=model, expert=expert))
