"""A folder with a PEFT adapter is a model: its base under the adapter, as transformers itself loads it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from acd_core.artifacts.pair import PromptPair
from acd_core.errors import MissingExtraError, ModelError, PairMismatchError
from acd_core.lm import ContrastiveLM
from acd_core.model import on_disk
from acd_core.model.backbone import Backbone
from acd_core.reply.facts import read_facts
from acd_core.spec import LMSpec
from acd_integrations.langchain import profile as profiles
from tests.core.tiny import family, stock_greedy

peft = pytest.importorskip("peft")
NEW = 10
ASKED = [{"role": "user", "content": "tell me about the quick brown fox"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the base, the adapter)"""
    root = tmp_path_factory.mktemp("adapters")
    model, tokenizer = family("llama")
    base, adapter = root / "base", root / "lora"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    fresh = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(fresh, config).save_pretrained(adapter)
    return base, adapter


def copied(adapter: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(adapter, to)
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return to


def test_it_speaks_as_transformers_has_it(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    stock = AutoModelForCausalLM.from_pretrained(adapter).eval()
    with ContrastiveLM.from_pretrained(str(adapter), dtype="float32") as lm:
        ids = list(lm.chat.layout(ASKED).ids)
        expected = stock_greedy(stock, ids, NEW)
        assert list(lm.generate(ASKED, max_tokens=NEW).token_ids) == expected
        assert expected != stock_greedy(family("llama")[0], ids, NEW)
        assert "lora over" in lm.backbone.describe()["adapter"]
        with ContrastiveLM.from_pretrained(str(base), dtype="float32") as plain:
            assert list(plain.generate(ASKED, max_tokens=NEW).token_ids) != expected, "the base is its own"
            assert plain.backbone.fingerprint != lm.backbone.fingerprint
            pair = PromptPair.from_tensors(
                torch.randn(3, lm.backbone.embedding_width), torch.randn(3, lm.backbone.embedding_width),
                backbone=plain.backbone,
            )  # fmt: skip
            with pytest.raises(PairMismatchError):
                ContrastiveLM(lm.backbone, pair)


def test_its_fingerprint_is_that_of_base_and_adapter(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    own = Backbone.load(str(adapter), dtype="float32").fingerprint
    twin = copied(adapter, tmp_path / "twin", base_model_name_or_path="../base-elsewhere")
    shutil.copytree(base, tmp_path / "base-elsewhere")
    assert Backbone.load(str(twin), dtype="bfloat16").fingerprint == own
    other = copied(adapter, tmp_path / "other", lora_alpha=16)
    assert Backbone.load(str(other), dtype="float32").fingerprint != own


def test_what_is_told_before_loading(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    assert on_disk.model_folder(adapter) == adapter
    assert on_disk.context_length(adapter) == on_disk.context_length(base) == 512
    assert on_disk.mentions_tools(adapter) == on_disk.mentions_tools(base)
    assert read_facts(str(adapter)) == read_facts(str(base))
    profile = profiles.profile(LMSpec(str(adapter)))
    assert profile is not None
    assert profile["max_input_tokens"] == 512
    key = LMSpec(str(adapter)).identity()
    (base / "note.txt").write_text("the base changed")
    assert LMSpec(str(adapter)).identity() != key
    (base / "note.txt").unlink()


def test_a_base_is_found_beside_the_adapter(folders: tuple[Path, Path]) -> None:
    _, adapter = folders
    moved = copied(adapter, adapter.parent / "moved", base_model_name_or_path="../base")
    with ContrastiveLM.from_pretrained(str(moved), dtype="float32") as lm:
        assert lm.context_length == 512
    assert on_disk.context_length(moved) == 512


def test_its_own_tokenizer_comes_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, adapter = folders
    own = copied(adapter, tmp_path / "own")
    tokenizer = family("llama")[1]
    tokenizer.save_pretrained(own)
    (own / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}tools")
    with ContrastiveLM.from_pretrained(str(own), dtype="float32") as lm:
        assert lm.chat.text(ASKED, ()) == ASKED[0]["content"] + "tools"
    assert on_disk.mentions_tools(own) is True


def test_without_peft_the_command_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else real(name, *rest))
    with pytest.raises(MissingExtraError, match=r'pip install "acd-integrations\[peft\]"'):
        ContrastiveLM.from_pretrained(str(folders[1]), dtype="bfloat16")


def test_what_cannot_be_read_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, adapter = folders
    nowhere = copied(adapter, tmp_path / "nowhere", base_model_name_or_path="/no/such/base")
    with pytest.raises(ModelError, match="/no/such/base"):
        Backbone.load(str(nowhere))
    nameless = copied(adapter, tmp_path / "nameless", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        Backbone.load(str(nameless))
    nested = copied(adapter, tmp_path / "nested", base_model_name_or_path=str(adapter))
    with pytest.raises(ModelError, match="no whole model"):
        Backbone.load(str(nested))
    pickled = copied(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match="nothing else is read"):
        Backbone.load(str(pickled))
    damaged = copied(adapter, tmp_path / "damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Backbone.load(str(damaged))
    odd = copied(adapter, tmp_path / "odd", target_modules=["no_such_proj"])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Backbone.load(str(odd))
