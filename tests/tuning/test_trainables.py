"""Objective x trainable: any table of terms on anything that gives its scores, with hidden states where it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from acd_core.chat import Chat
from acd_core.errors import UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning import AnchorPair, Term, losses
from acd_core.tuning.examples import Batches, Encoder, Row
from acd_core.tuning.gradient_runner import GradientRunner
from acd_core.tuning.gradients import step_gradients, step_losses
from acd_core.tuning.lora_adapter import LoraAdapter, targets_of
from acd_core.tuning.losses import LossFunction, LossInput
from acd_core.tuning.objectives import ADAPTER_OBJECTIVES, OBJECTIVES, Scores, TermTable
from acd_core.tuning.recompute import recomputing_view
from acd_core.tuning.soft_prompts import SoftPrompts
from acd_core.tuning.step_memory import Fit
from acd_core.tuning.trainable import Trainable

Make = Callable[..., Backbone]
LIKELIHOOD = ADAPTER_OBJECTIVES["safedecoding"]


@pytest.fixture
def far_from_plain(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a loss that needs states: how near they are to the plain model's, layer by layer."""

    def value(rows: LossInput) -> torch.Tensor:
        found = torch.zeros_like(rows.scores[:, 0, 0], dtype=torch.float64)
        for layer, states in rows.states.items():
            alike = torch.cosine_similarity(states, rows.plain_states[layer], dim=-1)
            found = found + layer * losses.row_mean(alike, rows.mask)
        return found

    monkeypatch.setitem(losses.LOSSES, "far_from_plain", LossFunction(value, needs_plain=True))
    return "far_from_plain"


def trained(kind: str, backbone: Backbone, dropout: float = 0.0) -> Trainable:
    encoder, generator = Encoder(backbone, Chat(backbone.tokenizer)), torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.2
        return values.to(torch.float64 if backbone.dtype == torch.float64 else torch.float32)

    if kind == "soft prompts":
        prompts = {name: drawn(5, backbone.embedding_width).requires_grad_(True) for name in ("safe", "adversarial")}
        return SoftPrompts(encoder.before, prompts)
    adapter = LoraAdapter(backbone, targets_of(backbone), rank=2, lora_alpha=8.0, dropout=dropout, seed=3)
    for name, tensor in adapter.tensors.items():  # a B of zeros passes nothing on to A
        adapter.tensors[name] = (drawn(*tensor.shape) + tensor.detach()).requires_grad_(True)
    return adapter


def rows_of(backbone: Backbone, pairs: list[AnchorPair], objective: TermTable, batch: int = 5) -> list[Row]:
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    examples = {data: [encoder.example(pair, 6) for pair in pairs if pair.label == data] for data in objective.classes}
    return Batches(examples, batch, seed=1).rows(0)


def check_derivative(backbone: Backbone, trainable: Trainable, objective: TermTable, rows: list[Row]) -> None:
    """Every tensor's gradient against finite differences in a random direction."""
    found = step_gradients(backbone, trainable, objective, rows)
    generator = torch.Generator().manual_seed(9)
    for name, tensor in trainable.tensors.items():
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        totals = []
        for move in (1e-5, -2e-5):
            with torch.no_grad():
                tensor += move * direction
            totals.append(step_gradients(backbone, trainable, objective, rows).losses["total"])
        with torch.no_grad():
            tensor += 1e-5 * direction
        numeric, analytic = (totals[0] - totals[1]) / 2e-5, float((found.grads[name] * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-8)
    assert any(float(grad.abs().max()) > 1e-4 for grad in found.grads.values())


@pytest.mark.parametrize(("kind", "scores"), [("soft prompts", "safe"), ("lora", "tuned")])
def test_an_objective_may_read_hidden_states(
    tiny: Make, pairs: list[AnchorPair], far_from_plain: str, kind: str, scores: Scores
) -> None:
    """Of two layers, beside a likelihood, whatever is trained; and the value is that of whole forwards."""
    backbone = tiny("gpt_neox", torch.float64)
    term = Term("apart", scores, "refused", far_from_plain, weight=0.5, layers=(1, 2))
    likely = Term("likely", scores, "refused", "nll", weight=0.1)
    objective, trainable = TermTable((term, likely)), trained(kind, backbone)
    rows = rows_of(backbone, pairs, objective)
    check_derivative(backbone, trainable, objective, rows)
    check_derivative(backbone, trainable, TermTable((term,)), rows)  # by states alone: no logit is read

    expected = 0.0
    for row in rows:
        request, reply = row.example.request, list(row.example.reply)
        bare = torch.tensor([[*request.plain, *reply]])
        with torch.no_grad():
            plain = backbone.model(bare, output_hidden_states=True).hidden_states
            if isinstance(trainable, LoraAdapter):
                acting = [(trainable.intervention(learning=False), None)]
                states = backbone.forward(bare, interventions=acting, layers=(1,)).states[1]
            else:
                before, after = torch.tensor(trainable._before), torch.tensor([*request.after, *reply])  # type: ignore[attr-defined]
                parts = [backbone.embed(before), trainable.tensors["safe"], backbone.embed(after)]
                states = backbone.forward(torch.cat(parts).unsqueeze(0), layers=(1,)).states[1]
        count = len(reply)
        alike = torch.cosine_similarity(states[0, -count - 1 : -1], plain[1][0, -count - 1 : -1], dim=-1)
        expected += float(alike.mean()) / len(rows)
    first = TermTable((replace(term, layers=(1,)),))
    assert step_gradients(backbone, trainable, first, rows).losses["apart"] == pytest.approx(expected, rel=1e-6)
    assert step_losses(backbone, trainable, first, rows)["total"] == pytest.approx(0.5 * expected, rel=1e-6)


def test_states_pass_through_layers_that_are_computed_twice(
    tiny: Make, pairs: list[AnchorPair], far_from_plain: str
) -> None:
    backbone = tiny()
    objective = TermTable((Term("apart", "safe", "refused", far_from_plain, layers=(1, 2)),))
    trainable, rows = trained("soft prompts", backbone), rows_of(backbone, pairs, objective)
    view = recomputing_view(backbone)
    assert view is not None
    once, twice = (step_gradients(each, trainable, objective, rows, micro=2) for each in (backbone, view))
    assert once.losses == twice.losses
    assert torch.equal(once.grads["safe"], twice.grads["safe"])
    assert bool(once.grads["safe"].any())
    assert not bool(once.grads["adversarial"].any())  # no term looks at it


def test_an_adapter_can_be_held_to_the_plain_model(tiny: Make, pairs: list[AnchorPair]) -> None:
    """Terms of two classes, one of them against the model alone: with B zero there is nothing to pull back."""
    backbone = tiny()
    keep = Term("keep", "tuned", "accepted", "kl_to_plain")
    objective = TermTable((Term("refuse", "tuned", "refused", "nll"), keep))
    rows = rows_of(backbone, pairs, objective, batch=6)
    untouched = LoraAdapter(backbone, targets_of(backbone), rank=2, lora_alpha=8.0, dropout=0.0, seed=3)
    assert step_losses(backbone, untouched, objective, rows)["keep"] == pytest.approx(0.0, abs=1e-6)
    moved = trained("lora", backbone)
    found = step_gradients(backbone, moved, objective, rows)
    assert found.losses["keep"] > 1e-3
    parts = step_gradients(backbone, moved, objective, rows, micro=2)
    for name, grad in found.grads.items():
        torch.testing.assert_close(parts.grads[name], grad, rtol=1e-3, atol=1e-5)
    assert step_losses(backbone, moved, objective, rows)["keep"] == pytest.approx(found.losses["keep"], rel=0.05)


def test_every_token_of_a_step_weighs_the_same_by_token(tiny: Make, pairs: list[AnchorPair]) -> None:
    """Where a mean over rows would give a short reply as much as a long one."""
    backbone = tiny("gpt_neox", torch.float64)
    adapter, encoder = trained("lora", backbone), Encoder(backbone, Chat(backbone.tokenizer))
    short, long = (Row("refused", encoder.example(pairs[0], tokens), 0.5) for tokens in (1, 6))
    apart = [step_losses(backbone, adapter, LIKELIHOOD, [row])["total"] for row in (short, long)]
    lengths = [len(row.example.reply) for row in (short, long)]
    assert lengths[0] < lengths[1]
    together = step_gradients(backbone, adapter, LIKELIHOOD, [short, long]).losses["total"]
    assert together == pytest.approx(sum(a * n for a, n in zip(apart, lengths)) / sum(lengths), rel=1e-5)
    assert together != pytest.approx(sum(apart) / 2, rel=1e-3)


def test_what_is_trained_has_to_give_what_the_objective_reads(tiny: Make, pairs: list[AnchorPair]) -> None:
    backbone = tiny()
    rows = rows_of(backbone, pairs, LIKELIHOOD)
    with pytest.raises(UsageError, match="tuned") as caught:
        GradientRunner(backbone, trained("soft prompts", backbone), LIKELIHOOD, rows, batch=4)
    assert "safe, adversarial, plain" in caught.value.message
    with pytest.raises(UsageError, match="adversarial, safe"):
        GradientRunner(backbone, trained("lora", backbone), OBJECTIVES["paper"], rows, batch=4)


def test_a_step_that_did_not_fit_draws_again_what_it_drew(
    tiny: Make, pairs: list[AnchorPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory running out costs an adapter no random number: half the rows at a time is what asking for it gives."""
    backbone = tiny()
    rows = rows_of(backbone, pairs, LIKELIHOOD, batch=4)
    asked = trained("lora", backbone, dropout=0.3)
    wanted = GradientRunner(backbone, asked, LIKELIHOOD, rows, batch=4, micro=2).gradients(rows, {})

    def tight(*args: Any, micro: int, **named: Any) -> Any:
        found = step_gradients(*args, micro=micro, **named)  # the draws are made before memory is at its end
        if micro > 2:
            raise torch.OutOfMemoryError("no room")
        return found

    monkeypatch.setattr("acd_core.tuning.gradient_runner.step_gradients", tight)
    runner = GradientRunner(backbone, trained("lora", backbone, dropout=0.3), LIKELIHOOD, rows, batch=4)
    found = runner.gradients(rows, {})
    assert runner.fit == Fit(2)
    assert found.losses == wanted.losses
    assert all(torch.equal(found.grads[name], grad) for name, grad in wanted.grads.items())
