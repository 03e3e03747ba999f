"""ChatACD with a LoRA expert: safedecoding by its folder, and another cache key for another expert."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("langchain_core")

from acd_core.model.backbone import Backbone
from acd_integrations.langchain import ChatACD
from tests.cli.conftest import save_tiny_model
from tests.core.test_experts import random_expert


def test_an_expert_by_its_folder(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model"))
    backbone = Backbone.load(model, device="cpu", dtype="float32")
    folders = [
        str(random_expert(backbone, ("q_proj", "v_proj"), seed=seed, size=3.0).save(tmp_path / f"expert-{seed}"))
        for seed in (0, 1)
    ]
    settings = {"model": model, "device": "cpu", "dtype": "float32", "max_tokens": 8}
    first, second = (ChatACD(expert=folder, **settings) for folder in folders)
    reply = first.invoke("hello")
    assert reply.response_metadata["acd"]["method"] == "safedecoding"
    assert first.lm.expert is not None
    assert first.lm.expert is not second.lm.expert
    keys = {str(llm._identifying_params) for llm in (first, second, ChatACD(**settings))}
    assert len(keys) == 3
    over = ChatACD.from_lm(first.lm, max_tokens=8)
    assert over.invoke("hello").content == reply.content
    assert ChatACD(**settings).invoke("hello").response_metadata["acd"]["method"] == "none"
