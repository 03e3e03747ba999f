"""The loop: killed and resumed, guarded against NaN, and never leaving half a pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.artifacts.pair import PromptPair
from acd_core.errors import TuningError, UsageError
from acd_core.lm import ContrastiveLM
from acd_core.model.backbone import Backbone
from acd_core.tuning import Instruction, TuneResult, TuneSettings, gradient_runner, loop, pair_run
from acd_core.tuning.gradients import step_gradients
from acd_core.tuning.runs import Checkpoint, write_beside
from acd_core.tuning.selection import rank
from acd_core.tuning.validation import Point, Validator
from tests.tuning.conftest import OddJudge

Make = Callable[..., Backbone]
Validation = tuple[Sequence[Instruction], Sequence[Instruction]]


def same(one: TuneResult, other: TuneResult) -> None:
    assert one.pair.id == other.pair.id
    assert one.history["steps"] == other.history["steps"]
    assert one.history["validation"] == other.history["validation"]
    assert one.history["chosen"] == other.history["chosen"]
    assert one.history["steering"] == other.history["steering"]


@pytest.mark.parametrize("objective", ["paper", "joint"])
def test_losses_fall_and_the_pair_opens(
    run: Callable[..., TuneResult], tiny: Make, tmp_path: Path, objective: str
) -> None:
    result = run(objective=objective, out=tmp_path / "pair", steps=20, validate_every=10)
    totals = [step["total"] for step in result.history["steps"]]
    assert sum(totals[-4:]) < sum(totals[:4])
    pair = PromptPair.load(tmp_path / "pair", backbone=tiny())
    assert pair.id == result.pair.id
    assert pair.metrics["objective"] == objective
    assert pair.metrics["seed"] == 0
    assert pair.metrics["judge"] == "odd"
    card = (tmp_path / "pair" / "README.md").read_text()
    assert "validation_over_refusal" in card
    assert json.loads((tmp_path / "pair" / "history.json").read_text()) == json.loads(json.dumps(result.history))
    assert not (tmp_path / "pair.tuning").exists()


def test_a_seed_fixes_the_result(run: Callable[..., TuneResult]) -> None:
    same(run(seed=3), run(seed=3))
    assert run(seed=3).pair.id != run(seed=4).pair.id


def test_weights_stay_bitwise_as_they_are(run: Callable[..., TuneResult], tiny: Make) -> None:
    backbone = tiny()
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    run(backbone)
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())


@pytest.mark.parametrize("objective", ["paper", "joint"])
@pytest.mark.parametrize("die_at", [1, 8, 14])
def test_killed_and_resumed_equals_uninterrupted(
    run: Callable[..., TuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int, objective: str
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    settings: dict[str, Any] = {"steps": 15, "objective": objective}
    whole = run(**settings)
    calls = [0]

    def dying(*args: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == die_at:
            raise KeyboardInterrupt
        return step_gradients(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_runner, "step_gradients", dying)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "pair", **settings)
    assert not (tmp_path / "pair").exists()
    calls[0] = -100
    resumed = run(out=tmp_path / "pair", **settings)
    same(resumed, whole)


def test_an_unfinished_run_with_other_settings_starts_anew(
    run: Callable[..., TuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(pair_run.PairRun, "_choose_decoding", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "pair", seed=1)
    same(run(out=tmp_path / "pair", seed=2), run(seed=2))


def test_a_kill_while_saving_leaves_the_old_pair(
    run: Callable[..., TuneResult], tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run(out=tmp_path / "pair", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("acd_core.artifacts.pair.model_card", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "pair", seed=2)
    assert PromptPair.load(tmp_path / "pair", backbone=tiny()).id == old.pair.id
    new = run(out=tmp_path / "pair", seed=2)
    assert PromptPair.load(tmp_path / "pair", backbone=tiny()).id == new.pair.id


def test_a_step_with_nan_is_skipped_and_many_end_the_run(
    run: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def poisoned(bad: Callable[[int], bool]) -> Callable[..., Any]:
        def gradients(*args: Any, **keywords: Any) -> Any:
            calls[0] += 1
            found = step_gradients(*args, **keywords)
            if bad(calls[0]):
                found.losses["total"] = math.nan
                found.grads["safe"].fill_(math.nan)
            return found

        return gradients

    monkeypatch.setattr(gradient_runner, "step_gradients", poisoned(lambda call: call == 2))
    result = run()
    assert math.isnan(result.history["steps"][1]["total"])
    assert isinstance(result.pair.safeguarding, torch.Tensor)
    assert torch.isfinite(result.pair.safeguarding).all()

    monkeypatch.setattr(gradient_runner, "step_gradients", poisoned(lambda call: True))
    with pytest.raises(TuningError, match="not finite") as caught:
        run()
    assert "--lr" in str(caught.value.hint)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_running_out_halves_the_micro_batch(
    run: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    sizes: list[int] = []

    def small(*args: Any, micro: int, **keywords: Any) -> Any:
        sizes.append(micro)
        if micro > 2:
            raise error("MPS backend out of memory")
        return step_gradients(*args, micro=micro, **keywords)

    monkeypatch.setattr(gradient_runner, "step_gradients", small)
    run()
    assert sizes[:3] == [6, 3, 1]
    assert set(sizes[3:]) == {1}


@pytest.mark.parametrize(
    "decoding",
    [
        {"alpha": 0.4},
        {"alpha": 0.4, "plausibility": 0.3},
        {"alpha": 0.8, "plausibility": 0.1, "contrast_tokens": 3},
        {"alpha": 0.8, "contrast_tokens": 1},
        {"alpha": 0.8, "contrast_tokens": 0},
        {"alpha": 0.0, "plausibility": 0.3},
    ],
    ids=str,
)
def test_validation_decodes_as_the_engine_does(tiny: Make, validation: Validation, decoding: dict[str, Any]) -> None:
    """The loop that chooses the point and the engine that serves the pair give the same replies."""
    from acd_core.chat import Chat
    from acd_core.tuning.examples import Encoder

    backbone, heard = tiny(), []

    class Listening(OddJudge):
        def judge(self, prompt: str, completion: str) -> Any:
            heard.append(completion)
            return super().judge(prompt, completion)

    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(length, backbone.embedding_width, generator=generator) * 0.2 for length in (4, 6)]
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    validator = Validator(backbone, encoder, validation[0], validation[1], Listening(), 6)
    point = validator.measure(prompts[0], prompts[1], step=0, **decoding)
    assert point.decoding == {"plausibility": 0.0, "contrast_tokens": None, **decoding}
    pair = PromptPair.from_tensors(prompts[0], prompts[1], backbone=backbone, **decoding)
    with ContrastiveLM(backbone, pair) as lm:
        replies = lm.generate([row.text for row in (*validation[1], *validation[0])], max_tokens=6)
    assert [reply.text.strip() for reply in replies] == heard
    assert len(set(heard)) > 3


def test_the_rules_that_choose_a_point() -> None:
    plain = Point(0, 0.0, 0.5, 0.05)
    safe_but_unwilling, balanced, weak = Point(1, 0.4, 0.99, 0.5), Point(2, 0.4, 0.9, 0.07), Point(3, 0.4, 0.6, 0.0)
    points = [safe_but_unwilling, balanced, weak]
    assert max(points, key=lambda point: rank(point, "safest", plain, 0.02)) == safe_but_unwilling
    assert max(points, key=lambda point: rank(point, "margin", plain, 0.02)) == balanced
    assert max([*points[:1], Point(4, 0.4, 0.8, 0.2)], key=lambda point: rank(point, "margin", plain, 0.02)).step == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"margin": 2.0}, "margin is 2.0"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"batch": 2}, "batch is 2"),
        ({"stepz": 3}, "stepz"),
        ({"objective": "nice"}, "nice"),
    ],
)
def test_impossible_settings(run: Callable[..., TuneResult], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(**changes)


def test_another_folder_is_not_overwritten(run: Callable[..., TuneResult], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TuningError, match="not a prompt pair"):
        run(out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_validation_may_not_hold_an_anchor(run: Callable[..., TuneResult], validation: Validation) -> None:
    with pytest.raises(TuningError, match="validation split"):
        run(validation=(validation[0], [Instruction("vu0", "bad aim 3")]))


def test_a_checkpoint_is_old_or_new_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    Checkpoint({"a": torch.ones(2)}, {"step": 1}).write(path)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            Checkpoint({"a": torch.zeros(2)}, {"step": 2}).write(path)
    found = Checkpoint.read(path)
    assert found is not None
    assert (found.document, found.tensors["a"].tolist()) == ({"step": 1}, [1.0, 1.0])
    assert [item.name for item in tmp_path.iterdir()] == ["state.safetensors"]
    write_beside(path, b"torn")
    assert Checkpoint.read(path) is None
    assert Checkpoint.read(tmp_path / "none") is None


def test_the_rate_rises_and_then_falls() -> None:
    settings = TuneSettings(steps=100, warmup=10, lr=1.0)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def _interrupted(*args: Any, **keywords: Any) -> Any:
    raise KeyboardInterrupt
