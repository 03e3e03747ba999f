"""Rows in memory under a budget: measured, not guessed, and without a say in the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning import AnchorPair, TuneResult, gradient_runner
from acd_core.tuning.examples import Row
from acd_core.tuning.gradients import step_gradients
from acd_core.tuning.objectives import OBJECTIVES
from acd_core.tuning.soft_prompts import SoftPrompts
from acd_core.tuning.step_memory import Fit, Need, _taken, budget_of, crude_bytes, fit, probe
from tests.tuning.test_gradients import setup, soft

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("budget", "asked", "expected"),
    [
        (None, {}, Fit(32)),
        (330, {}, Fit(32)),
        (329, {}, Fit(16)),
        (50, {}, Fit(4)),
        (49, {}, Fit(16, True)),  # two rows of 32 would fit, or 16 computed twice
        (11, {}, Fit(1, True)),
        (1, {}, Fit(1, True)),
        (1, {"checkpointing": False}, Fit(1)),
        (1000, {"checkpointing": True}, Fit(32, True)),
        (50, {"micro": 4}, Fit(4)),
        (49, {"micro": 4}, Fit(4, True)),
        (1, {"micro": 8, "checkpointing": False}, Fit(8)),
    ],
    ids=str,
)
def test_what_fits(budget: int | None, asked: dict[str, Any], expected: Fit) -> None:
    assert fit(32, budget, lambda: Need(10, 10), lambda: Need(8, 2), **asked) == expected


def test_where_nothing_can_be_told_or_wrapped() -> None:
    assert fit(32, 100, lambda: None, lambda: Need(0, 10)) == Fit(8, True)
    assert fit(32, 15, lambda: Need(0, 10), lambda: None) == Fit(1)
    assert budget_of(torch.device("meta")) is None
    here = budget_of(CPU)
    assert here is not None
    assert here > 2**20


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt_neox"])
@pytest.mark.parametrize("name", ["paper", "joint"])
def test_the_estimate_holds(tiny: Callable[..., Backbone], pairs: list[AnchorPair], kind: str, name: str) -> None:
    backbone, plan = tiny(kind), OBJECTIVES[name]
    encoder, rows = setup(backbone, pairs, name)
    row = Row(plan.classes[-1], rows[-1].example, 1.0)
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)}
    signal = torch.linspace(0.0, 1.0, backbone.vocab_size)
    from acd_core.tuning.streams import prefill

    with torch.no_grad():
        plain = prefill(backbone, row.example.request.plain[:2])

    trainable = SoftPrompts(encoder.before, prompts, plain)

    def step(count: int) -> object:
        return step_gradients(backbone, trainable, plan, [row] * count, signal=signal)

    need = probe(step, CPU)
    assert need is not None
    for count in (1, 4, 12):
        assert _taken(step, count, CPU) == pytest.approx(need.of(count), rel=0.1)
    tokens = len(encoder.before) + 5 + len(row.example)
    crude = crude_bytes(12 * tokens * len(plan.streams(row.data)), 2, 32, backbone.vocab_size)
    assert need.of(12) - need.fixed < crude


def test_a_budget_changes_the_passes_and_not_the_course(
    run: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acd_core.tuning.streams.computes_faster", lambda backbone: False)  # float32 throughout
    free = run(objective="joint")
    assert free.history["memory"] == {"micro": 6, "checkpointing": False}
    monkeypatch.setattr(gradient_runner, "budget_of", lambda device: 1)
    tight = run(objective="joint")
    assert tight.history["memory"] == {"micro": 1, "checkpointing": True}
    for one, other in zip(free.history["steps"], tight.history["steps"]):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_what_is_asked_for_is_kept(run: Callable[..., TuneResult]) -> None:
    result = run(micro=2, checkpointing=True)
    assert result.history["memory"] == {"micro": 2, "checkpointing": True}
    assert result.history["settings"]["checkpointing"] is True


def test_a_resumed_run_keeps_what_its_first_part_decided(
    run: Callable[..., TuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acd_core.tuning.loop.CHECKPOINT_EVERY", 2)
    whole = run(micro=None)
    calls = [0]

    def dying(*args: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return step_gradients(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_runner, "step_gradients", dying)
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "pair")
    monkeypatch.setattr(gradient_runner, "budget_of", lambda device: 1)
    resumed = run(out=tmp_path / "pair")
    assert resumed.history["memory"] == whole.history["memory"]
    assert resumed.pair.id == whole.pair.id


def test_out_of_memory_at_one_row_computes_layers_twice_and_then_gives_up(
    run: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **keywords: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    tried: list[Fit] = []
    smaller = gradient_runner.GradientRunner._smaller

    def noting(self: Any, last: Fit) -> Fit:
        tried.append(last)
        return smaller(self, last)

    monkeypatch.setattr(gradient_runner, "step_gradients", full)
    monkeypatch.setattr(gradient_runner.GradientRunner, "_smaller", noting)
    with pytest.raises(TuningError, match="even for one row"):
        run(batch=4)
    assert tried == [Fit(4), Fit(2), Fit(1), Fit(1, True)]
