"""DRO: its space, readings and losses by hand; that it begins where its text is; what a run gives, killed or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.chat import Chat
from acd_core.errors import PairError, TuningError, UsageError
from acd_core.methods import prompts as texts
from acd_core.model.backbone import Backbone
from acd_core.tuning import AnchorPair, Instruction, dro, gradient_runner, loop
from acd_core.tuning.dro import DroSettings, dro_terms, train_dro
from acd_core.tuning.dro_anchors import TEXTS, anchor_states, anchored, final_norm
from acd_core.tuning.dro_probes import Reading, Space, elsewhere_loss, fit_reading, reading_loss
from acd_core.tuning.gradients import step_gradients
from acd_core.tuning.losses import LOSSES, LossInput
from acd_core.tuning.trainers import TRAINERS, TrainingData
from tests.tuning.conftest import OddJudge

Make = Callable[..., Backbone]
QUICK: dict[str, Any] = {"epochs": 1, "batch": 8, "probe_steps": 100, "progress": False, "start": "short"}


@pytest.fixture
def train(pairs: list[AnchorPair], validation: Any) -> Callable[..., PromptPair]:
    def go(backbone: Backbone, given: Any = pairs, **changes: Any) -> PromptPair:
        return train_dro(backbone, given, validation=validation, judge=OddJudge(), **{**QUICK, **changes})

    return go


def the_run(backbone: Backbone, pairs: list[AnchorPair], validation: Any, **settings: Any) -> dro.DroRun:
    asked = {"requests": 12, "samples": 1, "reply_tokens": 4, "seed": 0, "progress": False}
    found = anchored(backbone, pairs, None, None, None, OddJudge(), **asked)  # type: ignore[arg-type]
    changed = {name: value for name, value in {**QUICK, **settings}.items() if name != "progress"}
    return dro.DroRun(backbone, found, validation, OddJudge(), None, DroSettings(**changed), None)


# -- the space, the readings, the losses --


def test_the_space_is_that_of_the_largest_variances() -> None:
    """Points on two axes: variance 8 along the second, 2 along the first, none elsewhere; around (1, 1, 1)."""
    states = torch.tensor([[1.0, 5.0, 1.0], [1.0, -3.0, 1.0], [3.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    space = Space.of(states, 1)
    torch.testing.assert_close(space.mean, torch.ones(3))
    torch.testing.assert_close(space.components, torch.tensor([[0.0, 1.0, 0.0]]))
    assert space.share == pytest.approx(32 / 40)
    torch.testing.assert_close(space.project(states), torch.tensor([[4.0], [-4.0], [0.0], [0.0]]))
    both = Space.of(states, 2)
    torch.testing.assert_close(both.components @ both.components.T, torch.eye(2))
    w_r, w_h = Reading(torch.tensor([2.0, 3.0]), 7.0, 0.0), Reading(torch.tensor([0.0, -1.0]), 0.0, 0.0)
    wanted = torch.tensor([[3.0, 2.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(both.directions(w_r, w_h), wanted)


def test_a_reading_is_the_mean_of_fits_that_leave_a_tenth_out() -> None:
    """Against torch's own autograd, a fit at a time; and it reads soft targets."""
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(20, 2, generator=generator) * 3
    shares = (2.0 * found[:, 0] - found[:, 1]).sigmoid()
    steps, order = 60, torch.randperm(20, generator=torch.Generator().manual_seed(4))
    weights = []
    for split in range(10):
        kept = [int(order[at]) for at in range(20) if at % 10 != split]
        line = torch.nn.Linear(2, 1)
        torch.nn.init.zeros_(line.weight), torch.nn.init.constant_(line.bias, float(torch.logit(shares.mean())))
        optimizer = torch.optim.AdamW(line.parameters(), lr=1e-4)
        for _ in range(steps):
            odds = line(found[kept])[:, 0]
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(odds, shares[kept]).backward()
            optimizer.step()
        weights.append(torch.cat([line.weight[0], line.bias]).detach())
    reading = fit_reading(found, shares, seed=4, steps=steps)
    wanted = torch.stack(weights).mean(0)
    torch.testing.assert_close(reading.weights, wanted[:2], atol=1e-6, rtol=1e-4)
    assert reading.bias == pytest.approx(float(wanted[2]), abs=1e-6)
    long = fit_reading(found, shares, steps=2000)
    assert long.weights[0] > 0 > long.weights[1]
    assert long.loss < reading.loss < math.log(2)


def test_the_losses_by_hand() -> None:
    change, components = torch.tensor([[3.0, 4.0, 2.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    # f moves by 0.5 * 3 = 1.5: BCE(sigmoid(1.5), 1) = log(1 + e^-1.5), and with y = 0 log(1 + e^1.5).
    direction = torch.tensor([0.5, 0.0, 0.0])
    assert float(reading_loss(change, direction, up=True)) == pytest.approx(math.log1p(math.exp(-1.5)))
    assert float(reading_loss(change, direction, up=False)) == pytest.approx(math.log1p(math.exp(1.5)))
    # Outside the component: 3^2 + 2^2 in the two directions that are left.
    assert float(elsewhere_loss(change, components)) == pytest.approx(13 / 2)
    # The authors' completed basis gives the same: any one does.
    basis = torch.linalg.qr(torch.cat([components, torch.randn(2, 3)]).T)[0].T[1:]
    assert float(elsewhere_loss(change, components)) == pytest.approx(
        float((change @ basis.T).square().mean()), rel=1e-5
    )
    signal = torch.stack([direction, torch.tensor([0.0, -0.25, 0.0]), components[0]])
    plain = torch.tensor([[[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]])
    rows = LossInput(
        torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.ones(1, 1),
        states={3: plain + change}, plain_states={3: plain}, signal=signal,
    )  # fmt: skip
    values = {name: float(LOSSES[f"dro_{name}"].value(rows)) for name in ("refuse", "comply", "harmful", "harmless")}
    assert values == pytest.approx({
        "refuse": math.log1p(math.exp(1.5)), "comply": math.log1p(math.exp(-1.5)),
        "harmful": math.log1p(math.exp(-1.0)), "harmless": math.log1p(math.exp(1.0)),
    })  # fmt: skip
    assert float(LOSSES["dro_elsewhere"].value(rows)) == pytest.approx(13 / 2)


def test_terms_are_the_papers_weights_and_zero_drops_one() -> None:
    whole = dro_terms(DroSettings(), 7)
    assert {term.name: term.weight for term in whole.terms} == {
        "refused/dro_refuse": 0.5, "harmless/dro_comply": 0.5, "refused/dro_harmful": 0.005,
        "harmless/dro_harmless": 0.005, "refused/dro_elsewhere": 0.0005, "harmless/dro_elsewhere": 0.0005,
    }  # fmt: skip
    assert whole.layers("safe") == whole.layers("plain") == (7,)
    assert whole.reach("refused") == 1
    kept = dro_terms(DroSettings(weight_r=0.0, weight_u=0.0), 7)
    assert [term.loss for term in kept.terms] == ["dro_harmful", "dro_harmless"]


# -- on a model --


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gemma"])
def test_states_are_those_behind_the_final_norm(tiny: Make, kind: str) -> None:
    backbone = tiny(kind)
    chat = Chat(backbone.tokenizer)
    rows = [chat.layout(text, prompt).ids for text, prompt in (("be kind", None), ("a longer wish", texts.SAFE_PROMPT))]
    found = anchor_states(backbone, rows, final_norm(backbone))
    for ids, state in zip(rows, found):
        with torch.no_grad():
            wanted = backbone.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(state, wanted, atol=1e-4, rtol=1e-4)


def test_it_begins_where_its_text_is(tiny: Make, pairs: list[AnchorPair], validation: Any) -> None:
    """x = x0: both readings' losses are log 2, nothing has moved elsewhere; and the text decodes as the prompt does."""
    run = the_run(tiny(), pairs, validation, epochs=1)
    found = run.loop.runner.gradients(run.loop.rows(0), {})
    assert found.losses["refused/dro_refuse"] == pytest.approx(math.log(2), abs=1e-4)
    assert found.losses["harmless/dro_harmless"] == pytest.approx(math.log(2), abs=1e-4)
    assert found.losses["refused/dro_elsewhere"] == pytest.approx(0.0, abs=1e-6)
    assert found.losses["total"] == pytest.approx(1.01 * math.log(2), abs=1e-4)
    assert bool(found.grads["safe"].any())
    assert not bool(found.grads["adversarial"].any())
    assert run.prompts.tensors["safe"].shape[0] == len(run.chat.encode_text(texts.SAFE_PROMPT_SHORT))


def test_its_gradient(tiny: Make, pairs: list[AnchorPair], validation: Any) -> None:
    """Of all three losses at once, away from the start, against finite differences in a random direction."""
    run = the_run(tiny("gpt_neox", torch.float64), pairs, validation, weight_h=0.5, weight_u=0.5)
    prompt, generator = run.prompts.tensors["safe"], torch.Generator().manual_seed(2)
    away, direction = (torch.randn(prompt.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    rows, totals = run.loop.rows(0), []
    for move in (0.05 * away, 1e-5 * direction, -2e-5 * direction):
        with torch.no_grad():
            prompt += move
        found = run.loop.runner.gradients(rows, {})
        totals.append(found.losses["total"])
        if len(totals) == 1:
            analytic = float((found.grads["safe"] * direction).sum())
    assert abs(analytic) > 1e-4
    assert analytic == pytest.approx((totals[1] - totals[2]) / 2e-5, rel=1e-5)


def test_a_run_moves_the_two_kinds_apart(tiny: Make, train: Callable[..., PromptPair]) -> None:
    backbone = tiny()
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    pair = train(backbone, epochs=8, lr=5e-3, probe_steps=2000)
    assert pair.metrics["steps"] == 24
    assert pair.metrics["loss_before"] == pytest.approx(1.01 * math.log(2), abs=1e-3)
    assert pair.metrics["loss_after"] < pair.metrics["loss_before"] - 0.01
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    reverse = torch.tensor(Chat(backbone.tokenizer).encode_text(texts.opposite_replace(texts.SAFE_PROMPT_SHORT)))
    assert torch.equal(torch.as_tensor(pair.adversarial), backbone.embed(reverse).detach()), "not tuned"
    with ContrastiveLM(backbone, pair) as lm:
        for method in ("sp", "acd"):
            assert lm.generate("a wish", max_tokens=3, method=method).report.method == method


def test_the_other_prompt_may_be_a_given_pairs(tiny: Make, train: Callable[..., PromptPair], tmp_path: Path) -> None:
    backbone = tiny()
    other = PromptPair.from_tensors(torch.ones(2, 32), torch.ones(3, 32) * 0.5, backbone=backbone, alpha=0.25)
    other.save(tmp_path / "pair")
    made = train(backbone, pair=str(tmp_path / "pair"))
    assert torch.equal(torch.as_tensor(made.adversarial), torch.as_tensor(other.adversarial))
    assert made.alpha == 0.25
    PromptPair.from_texts("be kind", "be unkind").save(tmp_path / "texts")
    assert len(train(backbone, pair=str(tmp_path / "texts")).adversarial) == len(
        Chat(backbone.tokenizer).encode_text("be unkind")
    )
    with pytest.raises(PairError):
        train(tiny("qwen3"), pair=str(tmp_path / "pair"))


def test_the_seed_and_the_weights_decide(tiny: Make, train: Callable[..., PromptPair]) -> None:
    found = [train(tiny(), **more).id for more in ({}, {}, {"seed": 1}, {"weight_h": 0.0})]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_killed_and_resumed_equals_uninterrupted(
    tiny: Make, train: Callable[..., PromptPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    whole, out, calls = train(tiny(), epochs=2), tmp_path / "pair", [0]

    def dying(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return step_gradients(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_runner, "step_gradients", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), out=out, epochs=2)
    assert not out.exists()
    assert (tmp_path / "pair.training" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(dro.Validator, "measure_plain", None)  # what was measured is kept
    resumed = train(tiny(), out=out, epochs=2)
    assert resumed.id == whole.id
    assert {**resumed.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["pair"]
    loaded = PromptPair.load(out, backbone=tiny())
    assert loaded.id == whole.id
    assert loaded.metrics["objective"] == "dro"


def test_replies_are_made_once_under_the_four_settings(
    tiny: Make, validation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, sides = tiny(), [[Instruction(f"{kind}{n}", f"a {kind} aim {n}") for n in range(8)] for kind in "su"]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    settings = {**QUICK, "samples": 2, "reply_tokens": 3}
    asked: dict[str, Any] = {"safe": sides[0], "unsafe": sides[1], "validation": validation, "judge": OddJudge()}
    with monkeypatch.context() as patch:
        patch.setattr(dro.DroRun, "go", killed)
        with pytest.raises(KeyboardInterrupt):
            train_dro(backbone, out=tmp_path / "pair", **asked, **settings)
    kept = sorted((tmp_path / "pair.training").iterdir())
    assert [path.name for path in kept] == ["replies-0.jsonl", "replies-1.jsonl"]
    assert [len(path.read_text().splitlines()) for path in kept] == [16 * len(TEXTS)] * 2
    with monkeypatch.context() as patch:
        patch.setattr("acd_core.tuning.anchors._append", killed)  # nothing new is written
        made = train_dro(backbone, out=tmp_path / "pair", **asked, **settings)
    assert made.metrics["compliance_replies"] == 2 * 16 * len(TEXTS)
    assert 0.0 < made.metrics["complying_share"] < 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["pair"]


def test_what_cannot_be(tiny: Make, train: Callable[..., PromptPair], pairs: list[AnchorPair], tmp_path: Path) -> None:
    for wrong in (
        {"start": "long"},
        {"epochs": 0},
        {"lr": 0.0},
        {"weight_r": -1.0},
        {"weight_r": 0.0, "weight_h": 0.0},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong)).partition("_")[0]):
            train(tiny(), **wrong)
    with pytest.raises(UsageError, match="'speed' of DRO"):
        train(tiny(), speed=1)
    with pytest.raises(TuningError, match="comply in the same share"):
        train(tiny(), [replace(pair, label="accepted") for pair in pairs])
    with pytest.raises(TuningError, match="too few for DRO"):
        train(tiny(), [pair for pair in pairs if pair.harmful])
    with pytest.raises(TuningError, match="vs0"):
        train(tiny(), [AnchorPair("s0b", "a kind wish 0", False, "null", "Yes", "accepted"), *pairs])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(PairError, match="diary"):
        train(tiny(), out=tmp_path / "mine")


def test_the_command_row(tiny: Make, pairs: list[AnchorPair], monkeypatch: pytest.MonkeyPatch, validation: Any) -> None:
    row = TRAINERS["dro"]
    found = row.values(["start=mistral", "weight_u=0", "epochs=1", "probe_steps=50", "batch=12"], seed=3)
    assert found["weight_u"] == 0.0
    safe, unsafe = validation
    bundled = {"validation_safe": safe, "validation_unsafe": unsafe}
    monkeypatch.setattr("acd_core.tuning.anchors.bundled_instructions", lambda name: tuple(bundled[name]))
    data = TrainingData(pairs=tuple(pairs))
    made = row.run(tiny(), None, data=data, seed=3, settings=found, progress=False)
    assert (made.metrics["start"], made.metrics["seed"], made.metrics["steps"]) == ("mistral", 3, 2)
    with pytest.raises(UsageError, match="no refusals"):
        row.run(tiny(), None, data=replace(data, refusals=("No.",)), seed=0, settings={}, progress=False)
