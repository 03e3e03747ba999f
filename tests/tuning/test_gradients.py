"""The gradient that reaches the prompts: against finite differences, and without a trace on the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acd_core.chat import Chat
from acd_core.model.backbone import Backbone
from acd_core.tuning import OBJECTIVES, AnchorPair, split_pairs, streams
from acd_core.tuning.examples import Batches, Encoder, Row
from acd_core.tuning.gradients import StepGradients, step_gradients
from acd_core.tuning.recompute import recomputing_view, twin_of
from acd_core.tuning.soft_prompts import SoftPrompts
from acd_core.tuning.streams import Prefix, greedy, prefill, reply_logits, tuning_view

Make = Callable[..., Backbone]


def setup(backbone: Backbone, pairs: list[AnchorPair], name: str) -> tuple[Encoder, list[Row]]:
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    classes = encoder.classes(split_pairs(pairs), OBJECTIVES[name], 6)
    return encoder, Batches(classes, 6, seed=1).rows(0)


def soft(backbone: Backbone, seed: int, length: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if backbone.dtype == torch.float64 else torch.float32
    values = torch.randn(length, backbone.embedding_width, generator=generator, dtype=torch.float64) * 0.2
    return values.to(dtype).requires_grad_(True)


def gradients(
    backbone: Backbone, pairs: list[AnchorPair], name: str, prompts: dict[str, torch.Tensor], micro: int | None = None
) -> StepGradients:
    encoder, rows = setup(backbone, pairs, name)
    with torch.no_grad():
        plain = prefill(backbone, rows[0].example.request.plain[:2])
    # Any share of refusals a first token may stand for; `refusal_signal` is tested beside the losses.
    signal = torch.linspace(0.0, 1.0, backbone.vocab_size, dtype=torch.float64)
    trainable = SoftPrompts(encoder.before, prompts, plain)
    return step_gradients(backbone, trainable, OBJECTIVES[name], rows, micro=micro, signal=signal)


@pytest.mark.parametrize("name", ["paper", "joint"])
def test_against_finite_differences(tiny: Make, pairs: list[AnchorPair], name: str) -> None:
    backbone = tiny("gpt_neox", torch.float64)
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2, 7)}
    found = gradients(backbone, pairs, name, prompts)
    step, generator = 1e-5, torch.Generator().manual_seed(3)
    for prompt_name, prompt in prompts.items():
        direction = torch.randn(prompt.shape, generator=generator, dtype=torch.float64)
        totals = []
        for sign in (1.0, -1.0):
            moved = {**prompts, prompt_name: (prompt.detach() + sign * step * direction).requires_grad_(True)}
            totals.append(gradients(backbone, pairs, name, moved).losses["total"])
        numeric = (totals[0] - totals[1]) / (2 * step)
        analytic = float((found.grads[prompt_name] * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-9)
        assert abs(analytic) > 1e-4


@pytest.mark.parametrize("name", ["paper", "joint"])
def test_micro_batches_change_nothing(tiny: Make, pairs: list[AnchorPair], name: str) -> None:
    backbone = tiny("gpt_neox", torch.float64)
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)}
    whole = gradients(backbone, pairs, name, prompts)
    parts = gradients(backbone, pairs, name, prompts, micro=2)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-10)
    for key, grad in whole.grads.items():
        torch.testing.assert_close(parts.grads[key], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["paper", "gated"])
def test_what_rows_start_with_alike_may_be_run_once(
    tiny: Make, pairs: list[AnchorPair], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one dress all rows share its text; with and without that shortcut the same comes out."""
    backbone = tiny("gpt_neox", torch.float64)
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)}
    encoder, plan = Encoder(backbone, Chat(backbone.tokenizer)), OBJECTIVES[name]
    trainable = SoftPrompts(encoder.before, prompts)
    split = split_pairs(pairs)
    classes = encoder.classes(split, plan, 6)

    def worn(data: Any, at: int, dress: str) -> Any:
        return encoder.example(split.of(data)[at], 6, dress)

    batches = Batches(classes, 9, seed=1, worn=worn)
    assert batches.rows(3) == Batches(classes, 9, seed=1).rows(3)  # every third step is bare
    seen = set()
    for step in (1, 2, 4, 5, 7, 8, 10, 11, 13):  # a dress of every kind
        rows = batches.rows(step)
        apart = [replace(row, share=1.0) for row in rows if row.data == "harmless_accepted"]
        shared = streams.shared_start([row.example.request.after for row in rows])
        seen.add(shared)
        found = []
        for least in (2, 10**6):
            monkeypatch.setattr("acd_core.tuning.soft_prompts.SHARED", least)
            found.append(step_gradients(backbone, trainable, plan, rows))
        assert found[0].losses == pytest.approx(found[1].losses, rel=1e-10)
        for key, grad in found[0].grads.items():
            torch.testing.assert_close(grad, found[1].grads[key], rtol=1e-9, atol=1e-12)
        if apart:  # each row by itself, behind its own start
            alone = [step_gradients(backbone, trainable, plan, [row]) for row in apart]
            kept = sum(each.losses["joint/keep"] for each in alone) / len(alone)
            assert kept == pytest.approx(found[0].losses["joint/keep"], rel=1e-10)
    assert max(seen) > 16


@pytest.mark.parametrize("trainable", [False, True])
def test_the_model_is_left_alone(tiny: Make, pairs: list[AnchorPair], trainable: bool) -> None:
    backbone = tiny()
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(trainable)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    gradients(backbone, pairs, "paper", {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)})
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert all(parameter.requires_grad is trainable for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_trainable_weights_cost_no_memory(tiny: Make, pairs: list[AnchorPair], kind: str) -> None:
    """Behind the view a forward keeps as little for a trainable model as for a frozen one, and the same comes out."""
    kept, grads = [], []
    for trainable in (False, True):
        backbone = tiny(kind)
        for parameter in backbone.model.parameters():
            parameter.requires_grad_(trainable)
        view = tuning_view(backbone)
        assert (view is backbone) is not trainable
        assert not any(parameter.requires_grad for parameter in view.model.parameters())
        tensors = [backbone.model.state_dict(), view.model.state_dict()]
        assert all(tensors[1][name].data_ptr() == value.data_ptr() for name, value in tensors[0].items())
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = gradients(view, pairs, "joint", {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)})
        kept.append(sum(sizes))
        grads.append(found.grads)
    assert kept[0] == kept[1] > 0
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_tied_weights_stay_tied_and_ask_for_no_gradient(tiny: Make) -> None:
    backbone = tiny()
    model = backbone.model
    model.lm_head.weight = model.get_input_embeddings().weight.requires_grad_(True)
    twin = twin_of(backbone)
    assert twin is not None
    assert twin.model.lm_head.weight is twin.model.get_input_embeddings().weight
    assert twin.model.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert (twin.model.lm_head.weight.requires_grad, model.lm_head.weight.requires_grad) == (False, True)


def test_weights_that_cannot_be_shared_get_no_twin(tiny: Make) -> None:
    fresh = tiny()
    next(fresh.model.parameters()).CB = torch.zeros(1)  # bitsandbytes' 8-bit weights before their first forward
    assert twin_of(fresh) is None
    offloaded = tiny()
    offloaded.model.to("meta")
    assert twin_of(offloaded) is None


def test_what_quantised_modules_hold_beside_their_weights_is_shared(tiny: Make) -> None:
    backbone = tiny()
    module = backbone.model.lm_head
    module.quant_state, module.state = object(), SimpleNamespace(CB=torch.zeros(2), SCB=torch.ones(2), other=[])
    twin = twin_of(backbone)
    assert twin is not None
    copied = twin.model.lm_head
    assert copied is not module
    assert copied.quant_state is module.quant_state
    assert (copied.state.CB is module.state.CB, copied.state.SCB is module.state.SCB) == (True, True)
    assert copied.state.other is not module.state.other


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma", "gpt_neox"])
def test_logits_equal_those_of_whole_sequences(tiny: Make, kind: str) -> None:
    """The shared prefix, the right padding and the gathering against one plain forward a row."""
    backbone = tiny(kind)
    prompt = soft(backbone, 4)
    before, after, replies = [0, 7], [[9, 8, 7, 6], [5, 4]], [[20, 21, 22], [30, 31]]
    with torch.no_grad():
        found = reply_logits(backbone, prefill(backbone, before, prompt), after, replies, width=3)
        for row, (head, reply) in enumerate(zip(after, replies)):
            embeds = torch.cat(
                [
                    backbone.embed(torch.tensor(before)),
                    prompt.to(backbone.dtype),
                    backbone.embed(torch.tensor(head + reply)),
                ]
            )
            logits = backbone.model(inputs_embeds=embeds.unsqueeze(0)).logits[0]
            start = len(before) + len(prompt) + len(head) - 1
            torch.testing.assert_close(
                found[row, : len(reply)], logits[start : start + len(reply)], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_greedy_equals_recomputing_every_token(tiny: Make, kind: str) -> None:
    backbone = tiny(kind)
    prompts = [soft(backbone, 5), soft(backbone, 6, 8)]
    before, rows, alpha = [0, 7], [[9, 8, 7, 6], [5, 4]], 0.4
    with torch.no_grad():
        prefixes: list[Prefix] = [prefill(backbone, before, prompt) for prompt in prompts]
        found = greedy(backbone, prefixes[0], rows, prefixes[1], rows, alpha=alpha, max_tokens=6)
        for row, reply in zip(rows, found):
            said: list[int] = []
            for _ in range(6):
                logits = []
                for prompt in prompts:
                    parts = [
                        backbone.embed(torch.tensor(before)),
                        prompt.to(backbone.dtype),
                        backbone.embed(torch.tensor(row + said)),
                    ]
                    logits.append(backbone.model(inputs_embeds=torch.cat(parts).unsqueeze(0)).logits[0, -1])
                token = int((logits[0] - alpha * logits[1]).argmax())
                if token in backbone.eos_ids:
                    break
                said.append(token)
            assert reply == said
        assert len({token for reply in found for token in reply}) > 2


def test_how_many_rows_go_together_changes_no_reply(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    rows = [[9, 8, 7, 6], [5, 4], [3], [12, 13, 14, 15, 16, 17], [21, 22, 23]]
    whole, sizes = streams._greedy_chunk, []

    def small(backbone: Backbone, parts: list[Any], *rest: Any) -> list[list[int]]:
        sizes.append(len(parts[0]._ids))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("more than this device holds")
        return whole(backbone, parts, *rest)

    with torch.no_grad():
        first, second = (prefill(backbone, [0, 7], soft(backbone, seed)) for seed in (5, 6))

        def said(**more: Any) -> list[list[int]]:
            return greedy(backbone, first, rows, second, rows, alpha=0.4, max_tokens=6, **more)

        found = said()
        assert said(chunk=1) == said(chunk=3) == found
        monkeypatch.setattr(streams, "_greedy_chunk", small)
        assert said() == found
        assert sizes == [5, 2, 2, 1]
    assert len({token for reply in found for token in reply}) > 2


def test_greedy_gives_back_the_order_it_was_given(tiny: Make) -> None:
    backbone = tiny()
    rows = [[5, 9, 30, 7], [8], [12, 40, 3], [6, 11]]
    prefix = prefill(backbone, [1, 2])
    together = greedy(backbone, prefix, rows, max_tokens=5, chunk=3)
    assert together == [greedy(backbone, prefix, [row], max_tokens=5)[0] for row in rows]
    assert len({tuple(reply) for reply in together}) > 2


def test_one_row_that_does_not_fit_is_an_error(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()

    def full(*_: Any) -> list[list[int]]:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(streams, "_greedy_chunk", full)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        greedy(backbone, prefill(backbone, [0, 7], soft(backbone, 5)), [[9, 8], [7]], max_tokens=2)


def test_the_quick_view_shares_every_weight_and_leaves_the_model_as_it_is(tiny: Make, pairs: list[AnchorPair]) -> None:
    backbone = tiny("llama", torch.bfloat16)
    kind = backbone.model.config._attn_implementation
    view = tuning_view(backbone)
    if backbone.device.type == "cpu":
        assert view.model is not backbone.model
        assert view.model.config._attn_implementation == "eager"
    assert backbone.model.config._attn_implementation == kind != "eager"
    ours, theirs = dict(backbone.model.named_parameters()), dict(view.model.named_parameters())
    assert all(theirs[name].data_ptr() == parameter.data_ptr() for name, parameter in ours.items())
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2)}
    losses = [gradients(one, pairs, "paper", prompts).losses["total"] for one in (backbone, view)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma", "gpt_neox"])
@pytest.mark.parametrize("name", ["paper", "joint"])
def test_computing_layers_twice_changes_nothing(tiny: Make, pairs: list[AnchorPair], kind: str, name: str) -> None:
    backbone = tiny(kind)
    view = recomputing_view(backbone)
    assert view is not None
    prompts = {"safe": soft(backbone, 1), "adversarial": soft(backbone, 2, 7)}
    kept, calls = [], [0]
    sizes: dict[int, int] = {}
    for each in (backbone, view):
        layer = next(module for module in each.model.modules() if isinstance(module, torch.nn.ModuleList))[0]
        hook = layer.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _noted(sizes, tensor), lambda tensor: tensor):
            found = gradients(each, pairs, name, prompts, micro=4)
        hook.remove()
        kept.append((found, sum(sizes.values()), calls[0]))
        calls[0] = 0
    (whole, much, once), (again, little, _) = kept
    assert again.losses == whole.losses
    for key, grad in whole.grads.items():
        assert torch.equal(again.grads[key], grad)
    assert little < 0.75 * much, "nothing was saved"
    assert once > 0
    assert "forward" not in vars(next(m for m in backbone.model.modules() if isinstance(m, torch.nn.ModuleList))[0])


def _noted(sizes: dict[int, int], tensor: torch.Tensor) -> torch.Tensor:
    sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor
