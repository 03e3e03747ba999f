"""Two adapters as one: PEFT's own result of `add_weighted_adapter`, the sums written out, and what cannot be fused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM
from acd_core.artifacts.lora import Expert
from acd_core.artifacts.lora_fusion import How
from acd_core.errors import ExpertError
from acd_core.methods.table import METHODS
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import by_rows
from tests.core.test_experts import merged, random_expert
from tests.core.tiny import family, stock_greedy

IDS = torch.tensor([[30, 31, 32, 33, 40, 41]])


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.wrap(*family("llama"), "llama")


def pair_of(backbone: Backbone) -> tuple[Expert, Expert]:
    """A task adapter and a safety adapter of other modules, ranks and scales; they share v_proj."""
    task = random_expert(backbone, ("q_proj", "v_proj"), seed=0)
    safety = random_expert(backbone, ("v_proj", "o_proj"), seed=1)
    thin = {name: (down[:2], up[:, :2]) for name, (down, up) in safety.weights.items()}
    return task, replace(safety, weights=thin, rank=2, lora_alpha=5.0)


def delta(expert: Expert, name: str) -> torch.Tensor:
    if name not in expert.weights:
        return torch.zeros(())
    down, up = expert.weights[name]
    return up @ down * expert.scale


@pytest.mark.parametrize(("how", "weights"), [("cat", (0.7, 0.3)), ("svd", (0.7, 0.3)), ("cat", (1.0, -0.5))])
def test_it_is_the_weighted_sum_of_the_changes(backbone: Backbone, how: How, weights: tuple[float, float]) -> None:
    """svd: to the rank of the sum, where it loses nothing."""
    parts = pair_of(backbone)
    made = Expert.fused(list(zip(parts, weights)), how, 6 if how == "svd" else None)
    assert (made.rank, made.scale) == (6, 1.0)
    assert set(made.weights) == set(parts[0].weights) | set(parts[1].weights)
    for name in made.weights:
        wanted = weights[0] * delta(parts[0], name) + weights[1] * delta(parts[1], name)
        torch.testing.assert_close(delta(made, name), wanted, atol=1e-5, rtol=1e-4)


def test_a_small_case_by_hand() -> None:
    """A = [1 2], B = [3 4]^T with scale 2, and A = [0 1], B = [1 0]^T with scale 1, at weights 0.5 and -4."""
    one = Expert({"m": (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]]))}, 1, 2.0)
    two = Expert({"m": (torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [0.0]]))}, 1, 1.0)
    cat = Expert.fused([(one, 0.5), (two, -4.0)])
    assert torch.equal(cat.weights["m"][0], torch.tensor([[1.0, 2.0], [0.0, -4.0]]))
    assert torch.equal(cat.weights["m"][1], torch.tensor([[3.0, 1.0], [4.0, 0.0]]))
    assert torch.equal(delta(cat, "m"), torch.tensor([[3.0, 2.0], [4.0, 8.0]]))
    # linear: factors 1 and -4, so A = [1 2] - 2 [0 1] and B = [3 4]^T + 2 [1 0]^T.
    linear = Expert.fused([(one, 0.5), (two, -4.0)], "linear")
    assert torch.equal(linear.weights["m"][0], torch.tensor([[1.0, 0.0]]))
    assert torch.equal(linear.weights["m"][1], torch.tensor([[5.0], [4.0]]))
    # svd to rank 1 keeps the larger of the singular values of [[3 2] [4 8]], whose squares add up to 93.
    svd = Expert.fused([(one, 0.5), (two, -4.0)], "svd", 1)
    largest = ((93 + (93**2 - 4 * 16**2) ** 0.5) / 2) ** 0.5
    assert float(delta(svd, "m").norm()) == pytest.approx(largest, rel=1e-6)
    assert delta(svd, "m").det().abs() < 1e-4


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, -0.5)])
@pytest.mark.parametrize("how", ["cat", "linear", "svd"])
def test_peft_fuses_to_the_same(backbone: Backbone, tmp_path: Path, how: How, weights: tuple[float, float]) -> None:
    peft = pytest.importorskip("peft")
    first, second = pair_of(backbone)
    if how == "linear":
        second = random_expert(backbone, ("v_proj", "o_proj"), seed=1)
    folders = [str(each.save(tmp_path / name)) for name, each in (("a", first), ("b", second))]
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), folders[0], adapter_name="a")
    theirs.load_adapter(folders[1], adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], list(weights), "both", combination_type=how)
    theirs.set_adapter("both")
    made = Expert.fused([(first, weights[0]), (second, weights[1])], how)
    modules = dict(theirs.base_model.model.named_modules())
    for name in made.weights:
        torch.testing.assert_close(delta(made, name), modules[name].get_delta_weight("both"), atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        ours = backbone.forward(IDS, interventions=by_rows([[made]])).logits
        torch.testing.assert_close(ours, theirs(IDS).logits, atol=1e-4, rtol=1e-4)


def test_saved_it_is_an_adapter_like_any_other(backbone: Backbone, tmp_path: Path) -> None:
    first, second = pair_of(backbone)
    made = Expert.fused([(first, 0.7), (second, 0.3)])
    loaded = Expert.load(made.save(tmp_path / "c"))
    assert (loaded.id, loaded.fingerprint, loaded.base_model) == (made.id, backbone.fingerprint, "llama")
    assert loaded.metrics == {
        "fused": "cat",
        "of": [{"id": first.id, "weight": 0.7}, {"id": second.id, "weight": 0.3}],
    }
    loaded.check(backbone)


def test_a_kept_stream_runs_under_it_beside_others(backbone: Backbone) -> None:
    """The row "adapter": greedy decoding with both changes added into the weights; other rows untouched."""
    first, second = pair_of(backbone)
    made = Expert.fused([(first, 0.7), (second, 0.3)])
    weights = {name: (0.7 * down, up) for name, (down, up) in first.weights.items()}
    twin = merged(backbone.model, replace(first, weights=weights))
    weights = {name: (0.3 * down, up) for name, (down, up) in second.weights.items()}
    twin = merged(twin, replace(second, weights=weights))
    with torch.inference_mode():
        plain = backbone.forward(IDS.expand(3, -1)).logits
        mixed = backbone.forward(IDS.expand(3, -1), interventions=by_rows([[], [made], []])).logits
        assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
        torch.testing.assert_close(mixed[1], twin(IDS).logits[0], atol=2e-4, rtol=1e-4)
    assert METHODS["adapter"].needs_expert and not METHODS["adapter"].contrasts
    with ContrastiveLM(backbone, expert=made, method="adapter") as lm:
        reply = lm.generate("hello world", max_tokens=8)
        assert list(reply.token_ids) == stock_greedy(twin, list(lm.chat.layout("hello world").ids), 8)


def test_what_cannot_be_fused(backbone: Backbone) -> None:
    first, second = pair_of(backbone)
    parts = [(first, 0.5), (second, 0.5)]
    wide = replace(second, weights={name: (down, up[:-1]) for name, (down, up) in second.weights.items()})
    for given, settings, said in (
        (parts, {"how": "linear"}, r"ranks \[4, 2\]"),
        (parts, {"how": "ties"}, "Unknown fusion 'ties'"),
        (parts, {"how": "svd", "rank": 0}, "rank is 0"),
        (parts, {"rank": 3}, "rank is 3 with 'cat'"),
        ([], {}, r"by the weights \[\]"),
        ([(first, float("nan"))], {}, "nan"),
        ([(first, 0.5), (replace(second, fingerprint="other"), 0.5)], {}, "different models"),
        ([(first, 0.5), (wide, 0.5)], {}, "in sizes"),
    ):
        settled: dict[str, Any] = settings
        with pytest.raises(ExpertError, match=said):
            Expert.fused(given, **settled)


def test_the_command(backbone: Backbone, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from acd_core.cli.app import app

    first, second = pair_of(backbone)
    first.save(tmp_path / "a"), second.save(tmp_path / "b")
    out, run = str(tmp_path / "c"), CliRunner()
    words = ["expert", "fuse", str(tmp_path / "a"), str(tmp_path / "b"), "--out", out]
    result = run.invoke(app, [*words, "--weights", "0.7", "0.3"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert Expert.load(out).id == Expert.fused([(first, 0.7), (second, 0.3)]).id
    result = run.invoke(app, [*words, "--how", "svd", "--rank", "3"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert Expert.load(out).id == Expert.fused([(first, 0.5), (second, 0.5)], "svd", 3).id
    for wrong, said in (
        (["expert", "fuse", str(tmp_path / "a"), "--out", out], "no two adapters"),
        (["expert", "--out", out], "No model"),
        ([*words, "--how", "ties"], "Unknown fusion"),
    ):
        result = run.invoke(app, wrong)
        assert result.exit_code in (1, 2)
        assert said in result.output
