"""The gradient that reaches the prompts: against finite differences, and without a trace on the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from acd_core.backbone import Backbone
from acd_core.chat import Chat
from acd_core.tuning import OBJECTIVES, AnchorPair, split_pairs
from acd_core.tuning.examples import Batches, Encoder, Row
from acd_core.tuning.gradients import StepGradients, step_gradients
from acd_core.tuning.recompute import recomputing_view
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
    return step_gradients(
        backbone, OBJECTIVES[name], encoder.before, prompts, rows, micro=micro, plain=plain, signal=signal
    )


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


def test_the_quick_view_shares_every_weight_and_leaves_the_model_as_it_is(tiny: Make, pairs: list[AnchorPair]) -> None:
    backbone = tiny("llama", torch.bfloat16)
    kind = backbone.model.config._attn_implementation
    view = tuning_view(backbone)
    if backbone.device.type == "cpu":
        assert view.model is not backbone.model
        assert view.model.config._attn_implementation == "eager"
    assert backbone.model.config._attn_implementation == kind != "eager"
    ours, theirs = dict(backbone.model.named_parameters()), dict(view.model.named_parameters())
    assert all(theirs[name] is parameter for name, parameter in ours.items())
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
