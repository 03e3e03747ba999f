"""Training SafeDecoding's expert: it learns, the model does not change, and a run can be killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM
from acd_core.artifacts.lora import Expert
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning import AnchorPair, ExpertSettings, Instruction, gradient_runner, loop, lora_adapter, train_expert
from acd_core.tuning import expert as recipe
from acd_core.tuning.examples import Encoder
from acd_core.tuning.gradients import step_gradients
from acd_core.tuning.runs import Checkpoint
from tests.core.tiny import applied

QUICK: dict[str, Any] = {"rank": 4, "epochs": 2, "batch": 3, "reply_tokens": 6, "lr": 2e-2, "progress": False}


class Refusing:
    """A judge to whom everything is a refusal, and who counts."""

    def __init__(self) -> None:
        self.seen = 0

    def judge(self, prompt: str, completion: str) -> Any:
        self.seen += 1
        return type("Verdict", (), {"refused": True})()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_it_learns_the_refusals_and_is_used_as_it_was_trained(
    kind: str, tiny: Callable[..., Backbone], pairs: list[AnchorPair]
) -> None:
    backbone = tiny(kind)
    expert = train_expert(backbone, pairs, **QUICK)
    assert expert.metrics["rows"] == 12
    assert expert.metrics["steps"] == 8
    assert expert.metrics["loss_after"] < 0.8 * expert.metrics["loss_before"]
    assert all(bool(up.any()) for _, up in expert.weights.values())
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    losses = []
    for pair in recipe.refusals_of(pairs, ExpertSettings()):
        row = encoder.example(pair, 6)
        ids = torch.tensor([[*row.request.plain, *row.reply]])
        with torch.inference_mode(), applied(backbone.model, [expert]):
            logs = backbone.model(ids).logits[0, len(row.request.plain) - 1 : -1].log_softmax(-1)
        losses.append(-float(logs.gather(1, torch.tensor(row.reply)[:, None]).mean()))
    assert sum(losses) / len(losses) == pytest.approx(expert.metrics["loss_after"], abs=1e-3)


def test_the_model_is_as_it_was(tiny: Callable[..., Backbone], pairs: list[AnchorPair]) -> None:
    backbone = tiny()
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(True)  # a caller's own model may look like this
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    train_expert(backbone, pairs, **QUICK)
    assert torch.equal(torch.rand(1), wanted), "the caller's random numbers were drawn from"
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_the_seed_fixes_the_expert(tiny: Callable[..., Backbone], pairs: list[AnchorPair]) -> None:
    found = [train_expert(tiny(), pairs, seed=seed, **QUICK).id for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_half_precision_models_get_float32_adapters(tiny: Callable[..., Backbone], pairs: list[AnchorPair]) -> None:
    expert = train_expert(tiny("llama", torch.bfloat16), pairs, **QUICK)
    assert {tensor.dtype for pair in expert.weights.values() for tensor in pair} == {torch.float32}
    assert expert.metrics["loss_after"] < expert.metrics["loss_before"]


def test_the_model_is_asked_once_and_a_killed_run_asks_only_for_the_rest(
    tiny: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, out = tiny(), tmp_path / "expert"
    asked = [Instruction(f"u{index}", f"a made-up aim {index}") for index in range(6)]
    judge = Refusing()

    def killed(*_: Any, **__: Any) -> Expert:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe.ExpertRun, "go", killed)
        with pytest.raises(KeyboardInterrupt):
            train_expert(backbone, unsafe=asked, out=out, judge=judge, **QUICK)
    kept = tmp_path / "expert.training" / "refusals.jsonl"
    assert not out.exists()
    assert judge.seen == len(kept.read_text().splitlines()) == 6 * 3
    expert = train_expert(backbone, unsafe=asked, out=out, judge=judge, **QUICK)
    assert judge.seen == 6 * 3
    assert expert.metrics["rows"] == 12  # two of each request at most
    assert Expert.load(out).id == expert.id
    with ContrastiveLM(backbone, expert=out) as lm:
        assert lm.generate("a made-up aim 1", max_tokens=4).report.method == "safedecoding"


@pytest.mark.parametrize("die_at", [1, 3, 6, 9])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: Callable[..., Backbone],
    pairs: list[AnchorPair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    die_at: int,
) -> None:
    """Dropout goes on drawing where it was; nothing of the run is left beside the expert."""
    settings: dict[str, Any] = {**QUICK, "epochs": 3, "batch": 4, "dropout": 0.3}
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    whole, out, calls = train_expert(tiny(), pairs, **settings), tmp_path / "expert", [0]

    def dying(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == die_at:
            raise KeyboardInterrupt
        return step_gradients(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_runner, "step_gradients", dying)
        with pytest.raises(KeyboardInterrupt):
            train_expert(tiny(), pairs, out=out, **settings)
    assert not out.exists()
    assert (tmp_path / "expert.training" / "checkpoint.safetensors").exists() is (die_at > 2)
    calls[0] = 0
    monkeypatch.setattr(gradient_runner, "step_gradients", _counted(calls))
    resumed = train_expert(tiny(), pairs, out=out, **settings)
    assert calls[0] == 9 - (die_at - 1) // 2 * 2  # steps behind the last checkpoint only
    assert resumed.id == whole.id
    assert {**resumed.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["expert"]


@pytest.mark.parametrize("change", ["another seed", "asked to", "torn", "no state"])
def test_what_is_no_unfinished_run_of_this_one_starts_anew(
    tiny: Callable[..., Backbone],
    pairs: list[AnchorPair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    out, kept = tmp_path / "expert", tmp_path / "expert.training" / "checkpoint.safetensors"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Expert, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_expert(tiny(), pairs, out=out, **{**QUICK, "seed": 1 if change == "another seed" else 0})
    if change == "torn":
        kept.write_bytes(kept.read_bytes()[:-1])
    if change == "no state":  # half of it is taken over before that shows
        found = Checkpoint.read(kept)
        assert found is not None
        Checkpoint(found.tensors, {**found.document, "loss_before": "low"}).write(kept)
    calls = [0]
    monkeypatch.setattr(gradient_runner, "step_gradients", _counted(calls))
    made = train_expert(tiny(), pairs, out=out, resume=change != "asked to", **QUICK)
    assert calls[0] == 8
    monkeypatch.undo()
    assert made.id == train_expert(tiny(), pairs, **QUICK).id


def _counted(calls: list[int]) -> Callable[..., Any]:
    """`step_gradients`, counting."""

    def counting(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        return step_gradients(*args, **named)

    return counting


def test_rows_are_refusals_of_harmful_requests_few_of_each(pairs: list[AnchorPair]) -> None:
    more = [AnchorPair("u0", "bad aim 0", True, "safe", f"I cannot, {n} times.", "refused") for n in range(5)]
    rows = recipe.refusals_of([*pairs, *more], ExpertSettings(per_request=3, most=13))
    assert len(rows) == 13
    assert all(row.harmful and row.label == "refused" for row in rows)
    assert sum(row.id == "u0" for row in rows) <= 3


def test_supplied_refusals_need_no_reply_of_the_model(tiny: Callable[..., Backbone], tmp_path: Path) -> None:
    backbone, judge = tiny(), Refusing()
    asked = [Instruction(f"u{index}", f"a made-up aim {index}") for index in range(12)]
    for texts in (["No, I won't."], []):  # none: ours
        expert = train_expert(backbone, unsafe=asked, refusals=texts, judge=judge, **QUICK)
        assert judge.seen == 0
        assert expert.metrics["rows"] == 12
        assert expert.metrics["refusals"] == "supplied"
    with pytest.raises(UsageError, match="Give one of the two"):
        train_expert(backbone, [], refusals=[], **QUICK)


def test_too_few_refusals_say_what_to_do(tiny: Callable[..., Backbone], pairs: list[AnchorPair]) -> None:
    with pytest.raises(TuningError, match="Only 2 refusals"):
        train_expert(tiny(), [pair for pair in pairs if pair.id in ("u0", "u1", "s0")], **QUICK)


def test_impossible_settings(tiny: Callable[..., Backbone], pairs: list[AnchorPair], tmp_path: Path) -> None:
    for wrong in ({"rank": 0}, {"lr": 0.0}, {"dropout": 1.0}, {"learning": 1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            train_expert(tiny(), pairs, **{**QUICK, **wrong})


def test_divergence_is_an_error_not_an_expert(
    tiny: Callable[..., Backbone], pairs: list[AnchorPair], tmp_path: Path
) -> None:
    with pytest.raises(TuningError, match=r"--lr 1e\+37"):
        train_expert(tiny(), pairs, out=tmp_path / "expert", **{**QUICK, "lr": 1e37})
    assert not list(tmp_path.iterdir())


def test_the_rate_rises_and_falls_to_nothing() -> None:
    settings = ExpertSettings(warmup=0.1, lr=1.0)
    rates = [settings.rate(step, 20) for step in range(20)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[-1] == pytest.approx(1 / 18)


def test_which_modules_are_adapted_is_stated_for_every_layer(tiny: Callable[..., Backbone], tmp_path: Path) -> None:
    ends = {name.rpartition(".")[2] for name in lora_adapter.targets_of(tiny("qwen3"))}
    assert ends == {"q_proj", "v_proj"}
    assert {name.rpartition(".")[2] for name in lora_adapter.targets_of(tiny("gpt_neox"))} == {"query_key_value"}
    assert len(lora_adapter.targets_of(tiny("llama"))) == 2 * 2


def test_a_model_without_known_projections_says_so(
    tiny: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_adapter, "TARGETS", (("nothing",),))
    with pytest.raises(TuningError, match="gate_proj"):
        lora_adapter.targets_of(tiny())


def test_the_folder_tells_how_it_was_made(
    tiny: Callable[..., Backbone], pairs: list[AnchorPair], tmp_path: Path
) -> None:
    train_expert(tiny(), pairs, out=tmp_path / "expert", **QUICK)
    document = json.loads((tmp_path / "expert" / "expert.json").read_text())
    assert document["base_model"] == "tiny-llama"
    assert document["metrics"]["rows"] == 12
    assert "bad aim" not in "".join(path.read_text(errors="replace") for path in (tmp_path / "expert").iterdir())
