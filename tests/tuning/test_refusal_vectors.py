"""Learning of steering: SCANS' vectors and threshold, AlphaSteer's null space, by hand; killed and gone on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.artifacts.steering import Steering
from acd_core.errors import ExpertError, ModelError, TuningError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning import bundled_instructions, last_states
from acd_core.tuning.last_states import ReadRow, Requests, best_separated, chosen_layers, middle_third, states_of
from acd_core.tuning.null_space import AlphaSteerSettings, null_space, reader, train_alphasteer
from acd_core.tuning.refusal_vectors import ScansSettings, best_threshold, train_scans, unit_differences
from acd_core.tuning.trainers import TRAINERS, TrainingData
from tests.tuning.conftest import make_tiny, make_tokenizer


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_tiny(make_tokenizer())


def test_refusal_vectors_by_hand() -> None:
    # Two rows a class, one layer: means (1, 2) and (4, 6), apart by (3, 4) of length 5.
    harmless = torch.tensor([[[0.0, 2.0]], [[2.0, 2.0]]])
    harmful = torch.tensor([[[4.0, 5.0]], [[4.0, 7.0]]])
    vectors, sizes = unit_differences(harmless, harmful)
    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert sizes.tolist() == [5.0]
    assert float(unit_differences(harmless, harmless)[0].abs().max()) == 0.0


def test_one_threshold_by_hand() -> None:
    assert best_threshold([0.1, 0.2], [0.6, 0.8]) == pytest.approx(0.4)
    # 0.15, 0.5: both classes rightly 1 + 1/2; the lower one reads more as harmful.
    assert best_threshold([0.1, 0.4], [0.2, 0.6]) == pytest.approx(0.15)
    assert best_threshold([0.5], [0.5]) < 0.5
    # By J 0.45, which misses one of three harmful ones; all of them below 0.05.
    assert best_threshold([0.1, 0.3, 0.4], [0.05, 0.5, 0.6]) == pytest.approx(0.45)
    assert best_threshold([0.1, 0.3, 0.4], [0.05, 0.5, 0.6], 0.9) < 0.05


def test_layers_that_part_best() -> None:
    vectors = torch.eye(2).expand(4, 2, 2)[:, 0].contiguous()
    harmless, harmful = torch.zeros(6, 4, 2), torch.zeros(6, 4, 2)
    harmful[:, 1:3, 0] = 1.0
    assert best_separated(vectors, harmless, harmful, 2) == (2, 3)
    assert chosen_layers("middle", 9) is None
    assert chosen_layers("3-5", 9) == (3, 4, 5)
    assert chosen_layers("4", 9) == (4,)
    for wrong in ("", "0-3", "5-3", "3-99", "x"):
        with pytest.raises(UsageError, match="layers is"):
            chosen_layers(wrong, 9)


def test_the_middle_third_is_the_authors(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert middle_third(backbone) == (1,)
    monkeypatch.setattr(backbone.model.config, "num_hidden_layers", 32)
    assert middle_third(backbone) == tuple(range(11, 21))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_null_space_and_the_ridge_are_those_of_the_authors_matrices() -> None:
    """Their code: P = Q Q^T, X = H_m P, Delta~ = pinv(X^T X + gamma P^T P) X^T (1 r^T); h + h P Delta~."""
    width, share, ridge = 12, 0.5, 10.0
    harmless, harmful, refusal = drawn(0, 40, width), drawn(1, 30, width) + 1.0, drawn(2, width)
    basis = null_space(harmless, share)
    projector = basis @ basis.T
    _, _, back = torch.linalg.svd(harmless.T @ harmless)
    theirs = back[-int(width * share) :].T
    torch.testing.assert_close(projector, theirs @ theirs.T)
    inside = harmful @ projector
    solved = torch.linalg.pinv(inside.T @ inside + ridge * projector.T @ projector) @ (
        inside.T @ refusal.repeat(len(harmful), 1)
    )
    whole = projector @ solved
    torch.testing.assert_close(torch.outer(reader(harmful, basis, ridge), refusal), whole, atol=1e-10, rtol=1e-8)


def test_harmless_states_stay_and_harmful_ones_turn() -> None:
    width = 16
    harmless, harmful = drawn(0, 6, width), drawn(1, 8, width) + 2.0
    found = reader(harmful, null_space(harmless, 0.6), 1e-6)  # 9 of the 10 directions that 6 rows leave free
    assert float((harmless @ found).abs().max()) < 1e-9
    torch.testing.assert_close(harmful @ found, torch.ones(8, dtype=torch.float64), atol=1e-3, rtol=0)
    # A state of both kinds is read by its harmful part alone.
    torch.testing.assert_close((harmless[0] + harmful[0]) @ found, harmful[0] @ found)
    # A large ridge turns little.
    assert float((harmful @ reader(harmful, null_space(harmless, 0.6), 1e6)).abs().max()) < 1e-2


def test_states_are_those_of_each_request_alone(backbone: Backbone) -> None:
    rows = Requests(backbone).over_agreeing(["How do I fold a shirt?", "Bread", "Why is the sky blue at noon? " * 4])
    found = states_of(backbone, rows, (1, 2), progress=False)
    assert found.shape == (3, 2, 2, 32)
    for at, row in enumerate(rows):
        said = backbone.tokenizer.decode(row.ids)
        assert said.endswith("Sure")
        alone = backbone.forward(torch.tensor([row.ids]), layers=(1, 2), only_layers=True).states
        for place, token in enumerate(row.places):
            for index, layer in enumerate((1, 2)):
                torch.testing.assert_close(found[at, place, index], alone[layer][0, token], atol=1e-5, rtol=1e-4)
        assert row.ids[: row.places[0] + 1] == Requests(backbone)._ids(
            ["How do I fold a shirt?", "Bread", "Why is the sky blue at noon? " * 4][at]
        )


SAFE, UNSAFE = bundled_instructions("safe")[:40], bundled_instructions("unsafe")[:40]


def learn(backbone: Backbone, kind: str, out: Path | None = None, **more: Any) -> Steering:
    if kind == "scans":
        settings: Any = ScansSettings(anchors=16, **more.pop("settings", {}))
        return train_scans(backbone, out, safe=SAFE, unsafe=UNSAFE, settings=settings, progress=False, **more)
    settings = AlphaSteerSettings(harmless=12, ridge=1e-3, **more.pop("settings", {}))
    return train_alphasteer(backbone, out, safe=SAFE, unsafe=UNSAFE, settings=settings, progress=False, **more)


@pytest.mark.parametrize("kind", ["scans", "alphasteer"])
def test_a_run_is_its_seed_and_a_killed_one_goes_on(
    backbone: Backbone, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = learn(backbone, kind)
    assert learn(backbone, kind).id == wanted.id
    assert learn(backbone, kind, settings={"seed": 1}).id != wanted.id
    read: list[int] = []
    real = last_states._read

    def counted(backbone: Backbone, rows: Sequence[ReadRow], layers: Sequence[int]) -> torch.Tensor:
        read.append(len(rows))
        if len(read) == 4:
            raise KeyboardInterrupt
        return real(backbone, rows, layers)

    monkeypatch.setattr(last_states, "_read", counted)
    monkeypatch.setattr(last_states, "KEEP_EVERY", 0.0)
    out = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt):
        learn(backbone, kind, out)
    assert not out.exists()
    done = sum(read[:3])
    read[:] = [0] * 9
    found = learn(backbone, kind, out)
    assert found.id == wanted.id == Steering.load(out).id
    whole = sum(read)
    assert not (tmp_path / "made.training").exists()
    read[:] = [0] * 9
    learn(backbone, kind, out, resume=False)
    assert whole == sum(read) - done
    Steering.load(out).check(backbone)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "steering.json").write_text("{}")
    with pytest.raises(ExpertError, match="not ours"):
        learn(backbone, kind, tmp_path / "other")


def test_what_is_learnt_of_a_model(backbone: Backbone) -> None:
    made = learn(backbone, "scans")
    assert (made.layers, made.read) == ((1,), (1, 2))
    torch.testing.assert_close(made.vectors.norm(dim=-1), torch.ones(1))
    assert made.strength == pytest.approx(0.3 * made.metrics["classes_apart"], rel=1e-3)
    told = made.metrics
    assert told["harmless_read_as_harmless"] + told["harmful_read_as_harmful"] >= 1.0
    assert learn(backbone, "scans", settings={"strength": 3.5, "layers": "2"}).layers == (2,)
    assert learn(backbone, "scans", settings={"strength": 3.5}).strength == 3.5
    assert len(learn(backbone, "scans", settings={"layers": "separation"}).layers) == 1

    turned = learn(backbone, "alphasteer", settings={"harmful": 12})
    # 12 harmless requests leave 20 of 32 directions free, and 19 are kept: these requests are not touched at all, and
    # 12 harmful ones can all be met.
    assert abs(turned.metrics["harmless_read"]) < 1e-3
    assert turned.metrics["harmful_read"] > 0.9


def test_what_cannot_be_learnt_is_said(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, given, what in (
        (ScansSettings, {"anchors": 2}, "anchors is 2"),
        (ScansSettings, {"strength": -1.0}, "strength is -1.0"),
        (ScansSettings, {"least_harmful": 1.5}, "least_harmful is 1.5"),
        (ScansSettings, {"layers": "none"}, "layers is 'none'"),
        (AlphaSteerSettings, {"share": 1.0}, "share is 1.0"),
        (AlphaSteerSettings, {"ridge": 0.0}, "ridge is 0.0"),
        (AlphaSteerSettings, {"harmless": 3}, "harmless is 3"),
        (AlphaSteerSettings, {"layers": "separation"}, "layers is"),
    ):
        with pytest.raises(UsageError, match=what):
            settings(**given)
    with pytest.raises(UsageError, match="layers is '1-9'"):
        learn(backbone, "scans", settings={"layers": "1-9"})
    with pytest.raises(TuningError, match="Only 3 harmful requests"):
        train_scans(backbone, unsafe=UNSAFE[:3], progress=False)
    monkeypatch.setattr(
        last_states, "_read", lambda _, rows, layers: torch.full((len(rows), 2, len(layers), 32), torch.nan)
    )
    with pytest.raises(ModelError, match="not finite"):
        learn(backbone, "scans")


def test_the_trainers_have_rows(backbone: Backbone, tmp_path: Path) -> None:
    for name, settings in (("scans", {"anchors": 8}), ("alphasteer", {"harmless": 9, "harmful": 9})):
        trainer = TRAINERS[name]
        data = TrainingData(safe=SAFE, unsafe=UNSAFE)
        assert trainer.values([f"{key}={value}" for key, value in settings.items()]) == settings
        made = trainer.run(backbone, tmp_path / name, data=data, seed=3, settings=settings, progress=False, resume=True)
        assert made.kind == name
        assert made.metrics["seed"] == 3
        assert Steering.load(tmp_path / name).id == made.id
