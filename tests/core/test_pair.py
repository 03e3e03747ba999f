"""The pair's file: PEFT's layout, exact round trip, and every way it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acd_core import ContrastiveLM, PromptPair
from acd_core.backbone import Backbone
from acd_core.errors import PairError, PairMismatchError, UsageError
from tests.core.tiny import family


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.wrap(*family("llama"), model_id="tiny/llama")


@pytest.fixture
def pair(backbone: Backbone) -> PromptPair:
    width = backbone.embedding_width
    return PromptPair.from_tensors(
        torch.randn(5, width), torch.randn(7, width), backbone=backbone, alpha=0.35, metrics={"steps": 3}
    )


def test_round_trip_is_exact(pair: PromptPair, backbone: Backbone, tmp_path: Path) -> None:
    folder = pair.save(tmp_path / "my-pair")
    again = PromptPair.load(folder, backbone=backbone)
    assert again.id == pair.id
    assert (again.alpha, again.base_model, again.fingerprint, again.metrics, again.length) == (
        0.35, "tiny/llama", backbone.fingerprint, {"steps": 3}, 7,
    )  # fmt: skip
    assert torch.equal(again.safeguarding, pair.safeguarding)  # type: ignore[arg-type]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "pair.json", "README.md",
        "safe/adapter_config.json", "safe/adapter_model.safetensors",
        "adversarial/adapter_config.json", "adversarial/adapter_model.safetensors",
    }  # fmt: skip
    assert set(load_file(folder / "safe" / "adapter_model.safetensors")) == {"prompt_embeddings"}
    assert "0.35" in (folder / "README.md").read_text()
    assert not list(tmp_path.glob(".my-pair*")), "something was left beside the pair"


def test_a_textual_pair_round_trips(tmp_path: Path) -> None:
    pair = PromptPair.from_texts("be safe", "be careless", alpha=0.5)
    assert PromptPair.load(pair.save(tmp_path / "texts")) == pair


def test_saving_replaces_a_pair_and_nothing_else(pair: PromptPair, tmp_path: Path) -> None:
    folder = pair.save(tmp_path / "p")
    PromptPair.from_texts("a", "b").save(folder)
    assert PromptPair.load(folder).safeguarding == "a"
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "cat.jpg").write_text("x")
    with pytest.raises(PairError, match="will not be overwritten"):
        pair.save(mine)
    assert (mine / "cat.jpg").exists()


def test_a_failed_save_leaves_the_old_pair(pair: PromptPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PromptPair.from_texts("a", "b").save(tmp_path / "p")

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("acd_core.pair.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        pair.save(folder)
    assert PromptPair.load(folder).safeguarding == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_pair_of_another_model_is_refused(pair: PromptPair) -> None:
    same_width = Backbone.wrap(*family("llama", seed=1), model_id="tiny/other")
    with pytest.raises(PairMismatchError, match=r"tiny/llama(?s:.*)acd tune"):
        pair.check(same_width)
    with pytest.raises(PairMismatchError, match="width"):
        pair.check(Backbone.wrap(*family("opt"), model_id="tiny/opt"))
    with pytest.raises(PairMismatchError):
        ContrastiveLM.from_model(*family("llama", seed=1), pair=pair)


def test_the_fingerprint_ignores_the_dtype_and_sees_the_weights(backbone: Backbone) -> None:
    import copy

    model, tokenizer = family("llama")
    low = copy.deepcopy(model).to(torch.bfloat16)
    assert Backbone.wrap(low, tokenizer).fingerprint == backbone.fingerprint
    assert Backbone.wrap(*family("llama", seed=1)).fingerprint != backbone.fingerprint


def _truncate(folder: Path) -> None:
    path = folder / "safe" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def _tamper(folder: Path) -> None:
    path = folder / "safe" / "adapter_model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def _rename_tensor(folder: Path) -> None:
    path = folder / "safe" / "adapter_model.safetensors"
    save_file({"weights": load_file(path)["prompt_embeddings"]}, path)


def _not_a_number(folder: Path) -> None:
    path = folder / "adversarial" / "adapter_model.safetensors"
    vectors = load_file(path)["prompt_embeddings"]
    vectors[2, 3] = float("nan")
    save_file({"prompt_embeddings": vectors}, path)


def _remove_side(folder: Path) -> None:
    (folder / "adversarial" / "adapter_model.safetensors").unlink()


def _break_json(folder: Path) -> None:
    (folder / "pair.json").write_text('{"format_version": 1,')


def _remove_json(folder: Path) -> None:
    (folder / "pair.json").unlink()


def _newer_format(folder: Path) -> None:
    _edit(folder, format_version=99)


def _alpha(folder: Path) -> None:
    _edit(folder, alpha=1.0)


def _edit(folder: Path, **values: object) -> None:
    document = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**document, **values}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "damaged"),
        (_tamper, "damaged"),
        (_rename_tensor, "prompt_embeddings"),
        (_not_a_number, "not finite"),
        (_remove_side, "lacks"),
        (_break_json, "cannot be read"),
        (_remove_json, "no pair.json"),
        (_newer_format, "format version 99"),
        (_alpha, "alpha"),
    ],
)
def test_damage_is_named(pair: PromptPair, tmp_path: Path, damage: object, words: str) -> None:
    folder = pair.save(tmp_path / "p")
    damage(folder)  # type: ignore[operator]
    with pytest.raises((PairError, UsageError), match=words):
        PromptPair.load(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/pair", "a/b/c", "someone/missing-pair"])
def test_an_unknown_pair_names_the_next_command(name: str) -> None:
    with pytest.raises(PairError, match="acd tune"):
        PromptPair.load(name)


@pytest.mark.parametrize("alpha", [1.0, -0.1, float("nan"), float("inf"), "0.4"])
def test_alpha_outside_its_range(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        PromptPair.from_texts("a", "b", alpha=alpha)


def test_a_mixed_or_empty_pair() -> None:
    with pytest.raises(PairError, match="both of one kind"):
        PromptPair("a", torch.randn(2, 3))
    with pytest.raises(UsageError, match="empty"):
        PromptPair.from_texts("a", "  ")
    with pytest.raises(PairError, match="shape"):
        PromptPair(torch.randn(3), torch.randn(3))


def test_it_opens_in_peft(pair: PromptPair, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import copy

    folder = pair.save(tmp_path / "p")
    model = copy.deepcopy(family("llama")[0])
    loaded = peft.PeftModel.from_pretrained(model, str(folder), subfolder="safe")
    weights = next(iter(loaded.prompt_encoder.values())).embedding.weight
    assert torch.equal(weights.detach(), pair.safeguarding)  # type: ignore[arg-type]
