"""Files that lie, or are none: one of our errors at once, never a raw one, a hang or a wrong value."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save

from acd_core.artifacts import pair_files
from acd_core.artifacts.lora import Expert
from acd_core.artifacts.pair import PromptPair
from acd_core.artifacts.pair_card import model_card
from acd_core.errors import ACDError, ExpertError, ModelError, PairError, TuningError
from acd_core.files.reading import parse_json, parse_tensors, visible
from acd_core.model import on_disk
from acd_core.tuning.anchors import load_instructions, load_pairs
from acd_core.tuning.runs import Checkpoint
from tests.core.killed_saves import expert, pair

ODD: dict[str, bytes] = {
    "nothing": b"",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "rather deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "a number of 5000 digits": b'{"format_version": ' + b"9" * 5000 + b"}",
    "a number beyond a float": b'{"format_version": 4, "alpha": 1' + b"0" * 400 + b"}",
    "NaN": b'{"format_version": NaN}',
    "a name twice": b'{"format_version": 4, "format_version": 4}',
    "a list": b"[]",
    "a text": b'"pair"',
    "null": b"null",
    "Latin-1": b'{"format_version": "\xe9"}',
    "UTF-16": '{"format_version": 4}'.encode("utf-16"),
    "half a character": b'{"format_version": 4, "kind": "text", "safe": "\\ud800", "adversarial": "x"}',
    "a truth": b'{"format_version": true}',
    "a version that never was": b'{"format_version": -1}',
}
IRREGULAR: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
}


def header(document: Any, tensors: bytes = b"") -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def entry(**changed: Any) -> dict[str, Any]:
    return {"prompt_embeddings": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64], **changed}}


LYING: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a header longer than the file": struct.pack("<Q", 10**15) + b"{}",
    "a header that is no JSON": header(b"{"),
    "a header that is a list": header([]),
    "a deep header": header(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "tensors beyond the end": header(entry(data_offsets=[0, 10**12]), bytes(64)),
    "offsets the wrong way": header(entry(data_offsets=[64, 0]), bytes(64)),
    "offsets that are texts": header(entry(data_offsets=["0", "64"]), bytes(64)),
    "no offsets": header({"prompt_embeddings": {"dtype": "F32", "shape": [2, 8]}}, bytes(64)),
    "a shape of another size": header(entry(shape=[2, 9]), bytes(64)),
    "a huge shape": header(entry(shape=[2**40, 2**40]), bytes(64)),
    "a negative shape": header(entry(shape=[-2, -8]), bytes(64)),
    "an unknown dtype": header(entry(dtype="F7"), bytes(64)),
    "more bytes than it tells of": header(entry(), bytes(65)),
    "metadata of other kinds": header({"__metadata__": {"a": 1}, **entry()}, bytes(64)),
    "whole numbers": save({"prompt_embeddings": torch.ones(2, 8, dtype=torch.int32)}),
    "complex numbers": save({"prompt_embeddings": torch.ones(2, 8, dtype=torch.complex64)}),
    "one dimension": save({"prompt_embeddings": torch.ones(8)}),
    "no width": save({"prompt_embeddings": torch.ones(2, 0)}),
    "too large for float32": save({"prompt_embeddings": torch.full((2, 8), 1e300, dtype=torch.float64)}),
    "another width": save({"prompt_embeddings": torch.ones(2, 9)}),
}


@pytest.mark.parametrize("odd", list(ODD))
def test_odd_json(tmp_path: Path, odd: str) -> None:
    folder, other = pair(1, gated=True).save(tmp_path / "p"), expert(1).save(tmp_path / "e")
    (folder / "pair.json").write_bytes(ODD[odd])
    with pytest.raises(PairError):
        PromptPair.load(folder)
    assert pair_files.pair_digest(folder) is None
    for name in ("adapter_config.json", "expert.json"):
        whole = (other / name).read_bytes()
        (other / name).write_bytes(ODD[odd])
        if not (name == "expert.json" and odd in ("half a character", "a number beyond a float")):
            with pytest.raises(ExpertError):
                Expert.load(other)
        (other / name).write_bytes(whole)
    line = tmp_path / "rows.jsonl"
    line.write_bytes(ODD[odd] + b"\n")
    for load in (load_pairs, load_instructions):
        with pytest.raises(TuningError):
            load(line)
    (tmp_path / "config.json").write_bytes(ODD[odd])
    (tmp_path / "tokenizer_config.json").write_bytes(ODD[odd])
    assert on_disk.context_length(tmp_path) is None
    checkpoint = tmp_path / "c.safetensors"
    checkpoint.write_bytes(save({"a": torch.ones(1)}, metadata={"document": ODD[odd].decode("latin-1")}))
    found = Checkpoint.read(checkpoint)
    assert found is None or isinstance(found.document, dict)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    folder = pair(1).save(tmp_path / "p")
    path = folder / "pair.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert PromptPair.load(folder).id == pair(1).id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 10**300), ("alpha", True), ("alpha", "0.3"), ("base_model", ["m"]), ("metrics", [1]), ("gate", []),
        ("gate", {"layers": 1}), ("files", []), ("files", {"safe/adapter_model.safetensors": 1}), ("kind", "x"),
        ("fingerprint", 3), ("license", {}), ("plausibility", None), ("contrast_tokens", 1.5), ("base_revision", 1),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_kind(tmp_path: Path, name: str, value: Any) -> None:
    folder = pair(1, gated=True).save(tmp_path / "p")
    document = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**document, name: value}))
    with pytest.raises(ACDError):
        PromptPair.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ["1"]}, {"layers": [1.5]}, {"layers": []}, {"biases": [1, 2]},
        {"biases": [True, 0, 0]}, {"carried": "1"}, {"carried": 1e400}, {"prompt": []}, {"prompt": {"harmless": [1]}},
        {"reply": 3}, {"base_model": 5}, {"metrics": "x"},
    ],
)  # fmt: skip
def test_a_gate_that_lies(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = pair(1, gated=True).save(tmp_path / "p")
    document = json.loads((folder / "pair.json").read_text())
    document["gate"].update(change)
    (folder / "pair.json").write_text(json.dumps(document))
    with pytest.raises(ACDError):
        PromptPair.load(folder)


@pytest.mark.parametrize("lie", list(LYING))
def test_tensors_that_lie(tmp_path: Path, lie: str) -> None:
    folder, other = pair(1).save(tmp_path / "p"), expert(1).save(tmp_path / "e")
    for document in (folder / "pair.json", other / "expert.json"):  # as a folder without digests would have it
        told = json.loads(document.read_text())
        del told["files"]
        document.write_text(json.dumps(told))
    (folder / "adversarial" / "adapter_model.safetensors").write_bytes(LYING[lie])
    with pytest.raises(PairError, match=r"adversarial|widths"):
        PromptPair.load(folder)
    (other / "adapter_model.safetensors").write_bytes(LYING[lie])
    with pytest.raises(ExpertError):
        Expert.load(other)
    path = tmp_path / "c.safetensors"
    path.write_bytes(LYING[lie])
    assert Checkpoint.read(path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.timeout(60)  # reading a pipe would wait for ever
@pytest.mark.parametrize("kind", list(IRREGULAR))
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    make = IRREGULAR[kind]
    for name in ("pair.json", "safe/adapter_model.safetensors", "gate/reading.safetensors"):
        folder = pair(1, gated=True).save(tmp_path / name.replace("/", "-"))
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(PairError):
            PromptPair.load(folder)
    for name in ("expert.json", "adapter_config.json", "adapter_model.safetensors"):
        folder = expert(1).save(tmp_path / f"e-{name}")
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(ExpertError):
            Expert.load(folder)
    path = tmp_path / "rows.jsonl"
    make(path)
    with pytest.raises(TuningError):
        load_pairs(path)
    assert Checkpoint.read(path) is None


def test_numbers_and_texts_that_are_right_come_through() -> None:
    text = json.dumps({"a": [1, -2.5, 10**30, None, True, "é😀"], "b": {"c": float("nan")}})
    found = parse_json(text.encode())
    assert found["a"] == [1, -2.5, 10**30, None, True, "é😀"]
    assert found["b"]["c"] != found["b"]["c"]
    tensors = {"x": torch.randn(2, 3), "empty": torch.ones(0, 4), "n": torch.arange(4)}
    read = parse_tensors(save(tensors, metadata={"k": "v"}))
    assert read.metadata == {"k": "v"}
    assert all(torch.equal(read.tensors[name], tensors[name]) for name in tensors)


# --- names ---


def test_a_name_that_could_be_a_hub_id_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for kind, error in (("model", ModelError), ("pair", PairError), ("expert", ExpertError)):
        with pytest.raises(error, match="out/mine"):
            on_disk.known_folder(kind, "out/mine")  # type: ignore[arg-type]
    with pytest.raises(PairError, match=r"no such folder here(?s:.*)none of that name was downloaded"):
        PromptPair.load("out/mine")
    with pytest.raises(PairError, match=r"no such folder here(?s:.*)hub gave none of that name"):
        PromptPair.load("someone/mine")  # what may be fetched is asked for
    with pytest.raises(ExpertError, match="out/mine"):
        Expert.load("out/mine")
    assert on_disk.known_folder("model", "someone/model") is None
    assert on_disk.known_folder("pair", "reference") is not None
    pair(1).save(tmp_path / "out" / "mine")
    assert PromptPair.load("out/mine").id == pair(1).id
    assert on_disk.known_folder("pair", "out/mine") == Path("out/mine")


def test_a_download_of_that_name_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--out--mine"
    snapshot = repository / "snapshots" / ("0" * 40)
    pair(1).save(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert PromptPair.load("out/mine").id == pair(1).id


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~/x", "a\\b", "../x/y"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(PairError):
        PromptPair.load(name)
    with pytest.raises(ExpertError):
        Expert.load(name)


# --- what is printed and published ---


def test_nothing_invisible_is_printed() -> None:
    assert visible("\x1b[31m\x9b\x7f\u202e\u2066\r\b\ud800") == "\\x1b[31m\\x9b\\x7f\\u202e\\u2066\\r\\x08\\ud800"
    plain = "Grüße, שלום 👩‍🚀\n\tline"
    assert visible(plain) == plain


EVIL = [
    "MIT\n---\nevil: true", "a: b", "{x: 1}", "[1]", "yes", "1.0", "null", "'", '"', "# x", "\x1b[0m", "a\u2028b", "é",
]  # fmt: skip
PLACES = ("base_model", "base_revision", "license", "fingerprint", "library_version", "transformers_version")


@pytest.mark.parametrize("text", EVIL)
def test_a_licence_is_one_text_in_the_front_matter(text: str) -> None:
    card = model_card({"kind": "text", "alpha": 0.3, "license": text, "base_model": "o/n", "metrics": {}}, 0)
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front == {
        "library_name": "acd-integrations", "tags": ["safety", "prompt-tuning", "contrastive-decoding", "peft"],
        "base_model": "o/n", "base_model_relation": "adapter", "license": text,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["x\n\n# Heading", "x\n```\nout", "a|b|c", "<script>", "`a` **b** [c](d)", "\x1b]0;t\x07"]
)
def test_a_text_stays_in_its_place(text: str) -> None:
    def card_of(said: str) -> str:
        metrics = {"judge": said, f"{said}.": said}
        return model_card({"kind": "soft", "alpha": 0.3, "metrics": metrics, **dict.fromkeys(PLACES, said)}, 2, said)

    plain, card = card_of("x"), card_of(text)
    assert len(card.splitlines()) == len(plain.splitlines())
    assert "\x1b" not in card
    assert [line for line in card.splitlines() if line.startswith(("#", "```"))] == [
        line for line in plain.splitlines() if line.startswith(("#", "```"))
    ]
    for line in card.split("\n---\n")[1].splitlines():
        assert not line.startswith("|") or line.count("|") == 3
        assert "<script>" not in line or line.startswith("llm = ") or "`" in line, "code is no markup"
