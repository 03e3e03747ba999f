"""Damaged and half models are refused with the reason; whole ones of every kind load; loads do not wait for others."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from acd_core.errors import ACDError, ModelError, UsageError
from acd_core.model import weights
from acd_core.model.backbone import Backbone, choose_device
from tests.core.tiny import FAMILIES, family

Change = Callable[[Path], Any]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    model, tokenizer = family("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, dtype: str = "float32") -> Backbone:
    return Backbone.load(str(folder), dtype=dtype, device="cpu")


def tensors(change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> Change:
    def make(folder: Path) -> None:
        path = folder / "model.safetensors"
        found = {name: value.clone().contiguous() for name, value in change(load_file(path)).items()}
        save_file(found, path, metadata={"format": "pt"})

    return make


def without(*parts: str) -> Change:
    return tensors(lambda found: {name: value for name, value in found.items() if not any(p in name for p in parts)})


def plus(name: str, *shape: int) -> Change:
    return tensors(lambda found: {**found, name: torch.zeros(shape)})


def with_value(value: float) -> Change:
    def put(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found[UP][3, 5] = value
        return found

    return tensors(put)


def config(file: str = "config.json", **fields: Any) -> Change:
    return lambda folder: (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **fields}))


def content(file: str, data: str | bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(data.encode() if isinstance(data, str) else data)


def sharded(then: Change) -> Change:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        family("llama")[0].save_pretrained(folder, max_shard_size="60KB")
        then(folder)

    return make


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-0*.safetensors"))


def index_without_a_shard(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    gone = index["weight_map"][UP]
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != gone}
    path.write_text(json.dumps(index))


def pipe(file: str) -> Change:
    def make(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return make


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def template(folder: Path, given: Any) -> None:
    (folder / "chat_template.jinja").unlink()
    config("tokenizer_config.json", chat_template=given)(folder)


DEEP = "[" * 100_000
DAMAGED: dict[str, tuple[Change, str]] = {
    "one weight gone": (without(UP), rf"lacks 1 weights .*{UP}"),
    "no layers": (without(".layers."), "lacks 27 weights"),
    "no head, not tied": (without("lm_head"), "lacks 1 weights .*lm_head"),
    "a layer too few": (config(num_hidden_layers=4), "lacks 9 weights"),
    "a layer too many": (config(num_hidden_layers=2), "no place for.*layers.2"),
    "a bias nobody adds": (plus("model.layers.0.self_attn.q_proj.bias", 48), "no place for.*q_proj.bias"),
    "a scale nobody applies": (plus("model.layers.0.mlp.up_proj.weight_scale", 1), "no place for.*weight_scale"),
    "a norm nobody computes": (plus("model.layers.0.self_attn.q_norm.weight", 12), "no place for.*q_norm"),
    "another shape": (tensors(lambda found: {**found, UP: torch.zeros(95, 48)}), "1 weights of another shape"),
    "NaN": (with_value(float("nan")), "not finite.*" + UP),
    "infinity": (with_value(float("-inf")), "not finite.*" + UP),
    "whole numbers": (tensors(lambda found: {n: v.to(torch.int8) for n, v in found.items()}), "whole numbers"),
    "truncated": (lambda folder: cut(folder / "model.safetensors", 500), "cannot be loaded"),
    "empty": (content("model.safetensors", b""), "cannot be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "a shard gone": (sharded(lambda folder: shards(folder)[0].unlink()), "00001-of"),
    "a shard truncated": (sharded(lambda folder: cut(shards(folder)[1], 100)), "cannot be loaded"),
    "an index without a shard": (sharded(index_without_a_shard), "lacks"),
    "an index that is a list": (sharded(content("model.safetensors.index.json", "[]")), "is a list"),
    "a billion layers": (config(num_hidden_layers=10**9), "claims 1000000000 layers"),
    "another width": (config(hidden_size=10**6), "1000000 as hidden_size"),
    "another vocabulary": (config(vocab_size=10**9), "1000000000 as vocab_size"),
    "config: a text for a number": (config(hidden_size="48"), "hidden_size"),
    "config: negative": (config(vocab_size=-5), "vocab_size as -5"),
    "config: nothing": (content("config.json", ""), "no JSON"),
    "config: a list": (content("config.json", "[1]"), "is a list"),
    "config: deep": (content("config.json", DEEP), "no JSON"),
    "config: bytes": (content("config.json", b"\xff\xfe"), "no JSON"),
    "config: unknown dtype": (config(dtype="banana"), "banana"),
    "generation_config: damaged": (content("generation_config.json", "{"), "generation_config.json.*no JSON"),
    "generation_config: eos": (content("generation_config.json", '{"eos_token_id": "x"}'), "'x' as eos_token_id"),
    "tokenizer: none": (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded"),
    "tokenizer: deep": (content("tokenizer.json", DEEP), "cannot be loaded"),
    "tokenizer: a list": (content("tokenizer.json", "[]"), "cannot be loaded"),
    "tokenizer: empty": (content("tokenizer.json", "{}"), "cannot be loaded"),
    "tokenizer_config: a list": (content("tokenizer_config.json", "[]"), "is a list"),
    "tokenizer_config: types": (config("tokenizer_config.json", eos_token=5), "cannot be loaded"),
    "template: a number": (lambda folder: template(folder, 5), "chat template .*is no text"),
    "template: odd names": (lambda folder: template(folder, {"a": 1}), "chat template .*is no text"),
    "a pipe as config": (pipe("config.json"), "a pipe as config.json"),
    "a pipe as tokenizer": (pipe("tokenizer.json"), "a pipe as tokenizer.json"),
    "a pipe as weights": (pipe("model.safetensors"), "a pipe as model.safetensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_model_is_refused_with_the_reason(kind: str, whole: Path, tmp_path: Path) -> None:
    change, said = DAMAGED[kind]
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    change(folder)
    with pytest.raises(ModelError, match=f"(?s){said}") as caught:
        load(folder)
    assert caught.value.hint


def test_an_empty_vocabulary_is_no_tokenizer(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"].update(vocab={}, merges=[])
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="makes no tokens of text"):
        load(folder)


# -- what a whole model may hold besides, or do without ----------------------------------------------------------------

BESIDES: dict[str, Change] = {
    "nothing": lambda folder: None,
    "shards": sharded(lambda folder: None),
    "frequencies of older releases": plus("model.layers.0.self_attn.rotary_emb.inv_freq", 6),
    "an image tower": plus("vision_tower.encoder.layers.0.weight", 6),
    "a value head": plus("v_head.summary.weight", 1, 48),
    "half precision": tensors(lambda found: {name: value.half() for name, value in found.items()}),
}


@pytest.mark.parametrize("kind", BESIDES)
def test_a_whole_model_loads(kind: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    BESIDES[kind](folder)
    with torch.no_grad():
        found = load(folder).model(torch.tensor([[1, 40, 50]])).logits
        stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([[1, 40, 50]])).logits
    assert torch.equal(found, stock)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_family_saves_and_loads(name: str, tied: bool, tmp_path: Path) -> None:
    """A tied head is in no file, and nothing is missing."""
    import copy

    model, tokenizer = family(name)
    model = copy.deepcopy(model)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prints = {load(tmp_path, dtype).fingerprint for dtype in ("float32", "bfloat16", "float16")}
    assert prints == {Backbone.wrap(model, tokenizer).fingerprint}


def test_float16_ends_at_65504(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    with_value(1e5)(folder)
    load(folder)
    with pytest.raises(ModelError, match="not finite") as caught:
        load(folder, "float16")
    assert "bfloat16" in str(caught.value.hint)


def test_a_model_on_the_meta_device_was_never_loaded() -> None:
    model, tokenizer = family("llama")
    with torch.device("meta"):
        empty = type(model)(model.config).eval()
    with pytest.raises(ModelError, match="never loaded"):
        Backbone.wrap(empty, tokenizer)


def test_what_was_saved_anew_is_loaded_anew(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    first = load(folder)
    assert load(folder) is first
    family("llama", seed=1)[0].save_pretrained(folder)
    second = load(folder)
    assert second.fingerprint != first.fingerprint


# -- names, places, devices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x\0y", None, 5, b"reference", ["reference"]])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(UsageError, match="no name of a model"):
        Backbone.load(name)


def test_places_that_hold_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "file").write_text("hello")
    for name in (tmp_path / "pipe", tmp_path / "pipe.gguf", tmp_path / "file", "/dev/null", "a" * 5000, tmp_path):
        with pytest.raises(ModelError) as caught:
            Backbone.load(str(name))
        assert caught.value.hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "m"))
    folder.chmod(0)
    try:
        with pytest.raises(ModelError, match="ermission denied"):
            load(folder)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    "device", ["cuda:99", "xpu:99", "hpu", "vulkan", "meta", "nonsense", "", "cuda:-1", None, ["cpu"]]
)
def test_a_device_that_is_not_here(device: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Backbone.load("reference", device=device)
    assert "'cpu'" in str(caught.value.hint)
    with pytest.raises(ACDError):
        choose_device(device)


def test_a_cuda_device_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="'cuda' cannot be used here"):
        Backbone.load("reference", device="cuda")


@pytest.mark.parametrize("dtype", ["int8", "", None, 5, ["float32"]])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    with pytest.raises(UsageError, match="Unknown dtype"):
        Backbone.load("reference", dtype=dtype)


# -- several at once ---------------------------------------------------------------------------------------------------


def test_a_slow_load_keeps_nobody_but_its_own(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model hangs in its download; another loads meanwhile, and who wants the first gets the same one."""
    slow, quick = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("slow", "quick"))
    begun, go = threading.Event(), threading.Event()
    real = weights.weight_files

    def files(source: str, revision: str | None) -> list[Path]:
        if source == str(slow):
            begun.set()
            assert go.wait(60)
        return real(source, revision)

    monkeypatch.setattr(weights, "weight_files", files)
    found: list[Backbone] = []
    waiting = [threading.Thread(target=lambda: found.append(load(slow))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    try:
        assert begun.wait(60)
        assert load(quick).context_length == 512
        assert not found
    finally:
        go.set()
    for thread in waiting:
        thread.join(60)
    assert len(found) == 3
    assert len(set(map(id, found))) == 1


def test_many_loads_at_once_leave_torch_as_it_was(whole: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(whole, tmp_path / str(number))) for number in range(6)]
    dtypes = ["float32", "bfloat16", "float16"] * 2
    found: dict[int, Backbone] = {}
    threads = [
        threading.Thread(target=lambda at=at: found.__setitem__(at, load(folders[at], dtypes[at]))) for at in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert torch.get_default_dtype() == torch.float32
    assert [str(found[at].dtype) for at in range(6)] == [f"torch.{dtype}" for dtype in dtypes]
    assert len({each.fingerprint for each in found.values()}) == 1


def test_a_failed_load_may_be_tried_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with pytest.raises(ModelError):
        load(folder)
    shutil.copytree(whole, folder)
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(kept[:-9])
    with pytest.raises(ModelError):
        load(folder)
    (folder / "model.safetensors").write_bytes(kept)
    assert load(folder).context_length == 512
