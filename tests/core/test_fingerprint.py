"""Fingerprints: the same for one model in every dtype, another for other weights, in files and out of them."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.artifacts.gate import Gate, Levels
from acd_core.artifacts.lora import Expert
from acd_core.artifacts.pair import PromptPair
from acd_core.errors import ExpertError, PairError, PairMismatchError
from acd_core.lm import ContrastiveLM
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import Fingerprint, difference
from acd_core.model.on_disk import BUNDLED_PAIRS
from tests.core.tiny import family

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def of(model: Any, dtype: torch.dtype = torch.float32) -> Fingerprint:
    return Backbone.wrap(copy.deepcopy(model).to(dtype), family("llama")[1]).fingerprint


def changed(model: Any, name: str, by: float) -> Any:
    """A copy whose weight `name` is other by about `by` of itself."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        weight = other.get_parameter(name)
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * by * weight.abs().mean())
    return other


def pair_of(backbone: Backbone) -> PromptPair:
    torch.manual_seed(1)
    safe, opposite = torch.randn(2, 3, backbone.embedding_width)
    return PromptPair.from_tensors(safe, opposite, backbone=backbone)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "opt"])
def test_one_model_has_one_in_every_dtype(name: str) -> None:
    found = [of(family(name)[0], dtype) for dtype in DTYPES]
    for one in found:
        for other in found:
            assert one == other
            assert (one != other) is False
            assert hash(one) == hash(other)
    assert len(set(found)) == 1
    assert str(found[0]) == str(found[1]), "float32 and bfloat16 share the id too"
    other = [of(family(name, seed=1)[0], dtype) for dtype in DTYPES]
    assert all(one != two for one in found for two in other)


def test_a_slight_change_of_any_weight_is_seen_in_float32() -> None:
    """By 1e-4, as merging a LoRA does; the embedding is the same but where it is what changed."""
    model = family("llama")[0]
    plain = of(model)
    for name, _ in model.named_parameters():
        assert of(changed(model, name, 1e-4)) != plain, name


@pytest.mark.parametrize("one", DTYPES)
@pytest.mark.parametrize("other", DTYPES)
def test_other_layers_are_seen_across_dtypes(one: torch.dtype, other: torch.dtype) -> None:
    model = family("llama")[0]
    tuned = changed(model, "model.layers.1.mlp.down_proj.weight", 0.05)
    assert of(tuned, one) != of(model, other)
    assert of(tuned, one) == of(tuned, other)
    assert "weights compared differ" in str(difference(of(tuned, one), of(model, other)))


def test_how_weights_lie_in_memory_changes_nothing() -> None:
    model = copy.deepcopy(family("llama")[0])
    plain = of(model)
    for layer in model.model.layers:
        weight = layer.mlp.up_proj.weight
        layer.mlp.up_proj.weight = torch.nn.Parameter(weight.detach().t().contiguous().t())
        assert not layer.mlp.up_proj.weight.is_contiguous()
    assert of(model) == plain
    assert str(of(model)) == str(plain)


def test_offloaded_weights_are_read_where_they_are() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = copy.deepcopy(family("llama")[0])
    plain = of(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.model.layers[0].mlp.up_proj.weight.is_meta
    found = Backbone.wrap(model, family("llama")[1]).fingerprint
    assert found == plain
    assert found.sample.values.keys() == plain.sample.values.keys()


def test_adapters_are_left_out_until_they_are_merged() -> None:
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(family("llama")[0])
    plain = of(model)
    torch.manual_seed(2)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    tokenizer = family("llama")[1]
    found = Backbone.wrap(adapted, tokenizer).fingerprint
    assert found == plain
    assert found.sample.values.keys() == plain.sample.values.keys()
    merged = adapted.merge_and_unload()
    assert Backbone.wrap(merged, tokenizer).fingerprint != plain


def test_it_survives_copies_and_pickles() -> None:
    found = of(family("llama")[0])
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), copy.copy(found)):  # noqa: S301
        assert again == found
        assert isinstance(again, Fingerprint)
        assert again.sample.values.keys() == found.sample.values.keys()
    assert json.loads(json.dumps({"fingerprint": found}))["fingerprint"] == found


def test_pairs_know_changed_layers_and_every_dtype(tmp_path: Path) -> None:
    model, tokenizer = family("llama")
    made = pair_of(Backbone.wrap(model, tokenizer, "m"))
    made.save(tmp_path / "p")
    tuned = changed(model, "model.layers.2.self_attn.o_proj.weight", 1e-3)
    for pair in (made, PromptPair.load(tmp_path / "p"), pickle.loads(pickle.dumps(made))):  # noqa: S301
        for dtype in DTYPES:
            pair.check(Backbone.wrap(copy.deepcopy(model).to(dtype), tokenizer, "m"))
        with pytest.raises(PairMismatchError, match=r"1 of \d+ weights compared differ"):
            pair.check(Backbone.wrap(tuned, tokenizer, "m"))
        with pytest.raises(PairMismatchError):
            ContrastiveLM.from_model(tuned, tokenizer, pair=pair)
    again = PromptPair.load(PromptPair.load(tmp_path / "p").save(tmp_path / "q"))
    with pytest.raises(PairMismatchError):
        again.check(Backbone.wrap(tuned, tokenizer, "m"))


def test_a_pair_made_in_half_precision_fits_the_whole_model() -> None:
    model, tokenizer = family("llama")
    for dtype in (torch.bfloat16, torch.float16):
        pair = pair_of(Backbone.wrap(copy.deepcopy(model).to(dtype), tokenizer, "m"))
        for other in DTYPES:
            pair.check(Backbone.wrap(copy.deepcopy(model).to(other), tokenizer, "m"))
        with pytest.raises(PairMismatchError):
            pair.check(Backbone.wrap(family("llama", seed=1)[0], tokenizer, "m"))


def test_gates_and_experts_know_changed_layers(tmp_path: Path) -> None:
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "m")
    half = Backbone.wrap(copy.deepcopy(model).half(), tokenizer, "m")
    tuned = Backbone.wrap(changed(model, "model.layers.0.mlp.up_proj.weight", 1e-3), tokenizer, "m")
    levels = Levels((0.0, 1.0), (2.0, 3.0), 1.5)
    gate = Gate((1,), torch.zeros(3, 1, 48), (0.0, 0.0, 0.0), levels, None, "m", backbone.fingerprint)
    again = Gate.of(json.loads(json.dumps(gate.document())), gate.weights)
    assert again.id == gate.id
    for each in (gate, again):
        each.check(backbone)
        each.check(half)
        with pytest.raises(PairMismatchError, match="compared differ"):
            each.check(tuned)
    weights = {"model.layers.0.mlp.up_proj": (torch.zeros(2, 48), torch.zeros(96, 2))}
    expert = Expert(weights, 2, 4.0, base_model="m", fingerprint=backbone.fingerprint)
    for known in (expert, Expert.load(expert.save(tmp_path / "e"))):
        known.check(backbone)
        known.check(half)
        with pytest.raises(ExpertError, match="compared differ"):
            known.check(tuned)


# -- files of earlier versions, and damaged ones -----------------------------------------------------------------------


def without_sample(folder: Path) -> Path:
    document = json.loads((folder / "pair.json").read_text())
    del document["weights_sample"]
    (folder / "pair.json").write_text(json.dumps(document))
    return folder


def test_a_pair_without_a_sample_is_held_to_the_embedding(tmp_path: Path) -> None:
    model, tokenizer = family("llama")
    pair = PromptPair.load(without_sample(pair_of(Backbone.wrap(model, tokenizer, "m")).save(tmp_path / "p")))
    pair.check(Backbone.wrap(model, tokenizer, "m"))
    pair.check(Backbone.wrap(copy.deepcopy(model).bfloat16(), tokenizer, "m"))
    with pytest.raises(PairMismatchError, match="embeddings"):
        pair.check(Backbone.wrap(changed(model, "model.embed_tokens.weight", 0.1), tokenizer, "m"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_bundled_pair_fits_its_model_in_every_dtype(dtype: str, tmp_path: Path) -> None:
    import shutil

    backbone = Backbone.load("reference", dtype=dtype, device="cpu")
    PromptPair.load("reference", backbone=backbone)
    old = without_sample(Path(shutil.copytree(BUNDLED_PAIRS["reference"], tmp_path / "old")))
    PromptPair.load(old, backbone=backbone)
    other = copy.deepcopy(backbone.model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    tuned = Backbone.wrap(other, backbone.tokenizer, "tuned")
    with pytest.raises(PairMismatchError, match="compared differ"):
        PromptPair.load("reference", backbone=tuned)


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


DAMAGED = (
    "no base64!",
    "AAAA",
    *map(packed, (b"", b"\1" * 9, b"\2" + b"\0" * 9, b"\1" * 10 + b"x", b"\1" * 10 + b"\4" * 40)),
)


@pytest.mark.parametrize("sample", [5, "", *DAMAGED])
def test_a_damaged_sample_is_told(sample: Any, tmp_path: Path) -> None:
    folder = pair_of(Backbone.wrap(*family("llama"), "m")).save(tmp_path / "p")
    document = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**document, "weights_sample": sample}))
    with pytest.raises(PairError, match="sample of weights is damaged"):
        PromptPair.load(folder)
    cut = base64.b64encode(base64.b64decode(document["weights_sample"])[:-20]).decode()
    (folder / "pair.json").write_text(json.dumps({**document, "weights_sample": cut}))
    with pytest.raises(PairError, match="sample of weights is damaged"):
        PromptPair.load(folder)
