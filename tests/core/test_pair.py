"""The pair's file: PEFT's layout, exact round trip, and every way it can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.pair import FORMAT_VERSION, migrated
from acd_core.artifacts.pair_card import model_card
from acd_core.errors import PairError, PairMismatchError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.model.on_disk import BUNDLED_PAIRS
from tests.core.tiny import family


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.wrap(*family("llama"), model_id="tiny/llama")


@pytest.fixture
def pair(backbone: Backbone) -> PromptPair:
    width = backbone.embedding_width
    return PromptPair.from_tensors(
        torch.randn(5, width), torch.randn(7, width), backbone=backbone, alpha=0.35, metrics={"steps": 3},
        plausibility=0.1, contrast_tokens=8,
    )  # fmt: skip


def test_round_trip_is_exact(pair: PromptPair, backbone: Backbone, tmp_path: Path) -> None:
    folder = pair.save(tmp_path / "my-pair")
    again = PromptPair.load(folder, backbone=backbone)
    assert again.id == pair.id
    assert (again.alpha, again.base_model, again.fingerprint, again.metrics, again.length) == (
        0.35, "tiny/llama", backbone.fingerprint, {"steps": 3}, 7,
    )  # fmt: skip
    assert (again.plausibility, again.contrast_tokens) == (0.1, 8)
    assert torch.equal(again.safeguarding, pair.safeguarding)  # type: ignore[arg-type]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "pair.json", "README.md",
        "safe/adapter_config.json", "safe/adapter_model.safetensors",
        "adversarial/adapter_config.json", "adversarial/adapter_model.safetensors",
    }  # fmt: skip
    assert set(load_file(folder / "safe" / "adapter_model.safetensors")) == {"prompt_embeddings"}
    card = (folder / "README.md").read_text()
    assert "recommended alpha **0.35**\nand plausibility **0.1**, contrast_tokens **8** (arXiv" in card
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

    monkeypatch.setattr("acd_core.artifacts.pair.as_safetensors", broken)
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


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_the_umask_says_who_may_read(pair: PromptPair, tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        folder = pair.save(tmp_path / "p")
    finally:
        os.umask(old)
    for path in (folder, folder / "safe"):
        assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    for path in (folder / "pair.json", folder / "safe" / "adapter_model.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_first_format_is_still_read(pair: PromptPair, tmp_path: Path) -> None:
    folder = pair.save(tmp_path / "p")
    document = json.loads((folder / "pair.json").read_text())
    for name in ("license", "base_revision", "plausibility", "contrast_tokens"):
        document.pop(name)
    document.update(format_version=1, metrics={"steps": 3, "revision": "abc123"})
    (folder / "pair.json").write_text(json.dumps(document))
    again = PromptPair.load(folder)
    assert (again.id, again.alpha, again.base_revision) == (pair.id, pair.alpha, "abc123")
    assert (again.plausibility, again.contrast_tokens) == (0.0, None)
    assert again.metrics == {"steps": 3}
    renewed = again.save(tmp_path / "q")
    assert json.loads((renewed / "pair.json").read_text())["format_version"] == FORMAT_VERSION == 4
    assert PromptPair.load(renewed).base_revision == "abc123"


def test_the_second_format_recommends_alpha_only(pair: PromptPair, tmp_path: Path) -> None:
    folder = pair.save(tmp_path / "p")
    document = json.loads((folder / "pair.json").read_text())
    del document["plausibility"], document["contrast_tokens"]
    (folder / "pair.json").write_text(json.dumps({**document, "format_version": 2}))
    again = PromptPair.load(folder)
    assert (again.id, again.alpha, again.plausibility, again.contrast_tokens) == (pair.id, 0.35, 0.0, None)


def test_every_older_format_has_a_way_up() -> None:
    for version in range(1, FORMAT_VERSION):
        assert migrated({"format_version": version})["format_version"] == FORMAT_VERSION
    with pytest.raises(PairError, match="version 0"):
        migrated({"format_version": 0})


def test_the_card_names_judge_figures_licence_and_the_warning(backbone: Backbone) -> None:
    metrics = {
        "objective": "paper",
        "judge": "acd-rules 1",
        "anchor_counts": {"refused": 7},
        "validation_harmless_rate": 0.9312345,
        "curve": [{"step": 1}],
    }
    document = {
        "kind": "soft", "base_model": "someone/model", "base_revision": "abc", "alpha": 0.4, "metrics": metrics,
        "license": "apache-2.0", "fingerprint": "f00",
    }  # fmt: skip
    text = model_card(document, 7, "me/my-pair")
    for part in (
        "base_model: someone/model", "license: apache-2.0", "revision `abc`", "`acd-rules 1`", 'pair="me/my-pair"',
        "| validation_harmless_rate | 0.9312 |", "| anchor_counts.refused | 7 |", "| objective | paper |",
        "less safe when it is decoded alone",
    ):  # fmt: skip
        assert part in text
    assert "curve" not in text
    assert "base_model:" not in model_card({**document, "base_model": "/srv/models/x"}, 7)


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


def _head(folder: Path) -> None:
    _edit(folder, plausibility=1.5)


def _window(folder: Path) -> None:
    _edit(folder, contrast_tokens="8")


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
        (_alpha, r"alpha(?s:.*)pair\.json"),
        (_head, "plausibility is 1.5"),
        (_window, "contrast_tokens is '8'"),
    ],
)
def test_damage_is_named(pair: PromptPair, tmp_path: Path, damage: object, words: str) -> None:
    folder = pair.save(tmp_path / "p")
    damage(folder)  # type: ignore[operator]
    with pytest.raises((PairError, UsageError), match=words):
        PromptPair.load(folder)


@pytest.mark.parametrize("name", list(BUNDLED_PAIRS))
def test_a_bundled_name_is_never_guessed_at(
    name: str, pair: PromptPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = PromptPair.load(name)
    assert bundled.base_model == name
    (tmp_path / name).mkdir()
    assert PromptPair.load(name).id == bundled.id, "a folder that holds no pair is none"
    pair.save(tmp_path / name)
    with pytest.raises(PairError, match="a pair in this folder") as caught:
        PromptPair.load(name)
    assert f"./{name}" in str(caught.value.hint)
    assert PromptPair.load(f"./{name}").id == pair.id


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
