"""Vectors and LoRA weights that the model's dtype cannot compute with are refused where they are given."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.lora import Expert
from acd_core.artifacts.pair import beyond
from acd_core.engine import EngineOptions
from acd_core.engine.cache import are_finite
from acd_core.engine.memory import bytes_by_config
from acd_core.engine.trial import check
from acd_core.errors import ExpertError, ModelError, PairError
from acd_core.model.backbone import Backbone
from tests.core.test_experts import random_expert
from tests.core.tiny import FAMILIES, family


def backbone(dtype: torch.dtype = torch.float32) -> Backbone:
    model, tokenizer = family("llama")
    return Backbone.wrap(copy.deepcopy(model).to(dtype), tokenizer, "tiny")


def changed(expert: Expert, **settings: Any) -> Expert:
    return dataclasses.replace(expert, **settings)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_an_expert_of_no_finite_strength_is_none(value: float) -> None:
    expert = random_expert(backbone(), ("q_proj",))
    with pytest.raises(ExpertError, match=r"lora_alpha -?(inf|nan)"):
        changed(expert, lora_alpha=value)
    with pytest.raises(ExpertError, match="rank 0"):
        changed(expert, rank=0)


@pytest.mark.parametrize(
    ("dtype", "strength", "fits"),
    [
        (torch.float32, 8.0, True),
        (torch.float32, 1e30, True),
        (torch.float32, 1e300, False),
        (torch.float16, 8.0, True),
        (torch.float16, 1e6, False),
        (torch.bfloat16, 1e6, True),
        (torch.bfloat16, 1e39, False),
    ],
)
def test_an_experts_strength_is_held_against_the_dtype_it_runs_in(
    dtype: torch.dtype, strength: float, fits: bool
) -> None:
    base = backbone(dtype)
    expert = changed(random_expert(base, ("q_proj",)), lora_alpha=strength)
    if fits:
        expert.check(base)
        return
    with pytest.raises(ExpertError, match=f"lora_alpha {strength:g}".replace("+", "\\+")):
        expert.check(base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_an_experts_weights_are_held_against_the_dtype_it_runs_in(value: float) -> None:
    base = backbone(torch.float16)
    expert = random_expert(base, ("q_proj",))
    name = next(iter(expert.weights))
    expert.weights[name][0][1, 2] = value
    with pytest.raises(ExpertError, match=name):
        expert.check(base)
    with pytest.raises(ExpertError, match=name):
        ContrastiveLM(base, expert=expert)


@pytest.mark.parametrize("side", ["safe", "adversarial"])
@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        (torch.float32, 1e6, True),
        (torch.float16, 6e4, True),
        (torch.float16, 1e6, False),
        (torch.bfloat16, 1e6, True),
        (torch.float32, 1e30, False),  # its square sum, which every norm takes, is infinite
        (torch.bfloat16, 3.4e38, False),
    ],
)
def test_a_pairs_vectors_are_held_against_the_dtype_they_run_in(
    side: str, dtype: torch.dtype, value: float, fits: bool
) -> None:
    base = backbone(dtype)
    prompts = {name: torch.full((2, 48), 0.1) for name in ("safe", "adversarial")}
    prompts[side][1, 3] = value
    pair = PromptPair.from_tensors(prompts["safe"], prompts["adversarial"], backbone=base)
    assert (beyond(prompts[side], dtype) is None) == fits
    if fits:
        pair.check(base)
        return
    with pytest.raises(PairError, match=rf"{side} prompt reaches {value:g}".replace("+", "\\+")):
        pair.check(base)
    with pytest.raises(PairError, match=side):
        ContrastiveLM(base, pair)


@pytest.mark.parametrize("widths", [(47, 48), (48, 47), (47, 47)])
def test_a_pairs_width_is_checked_on_both_sides(widths: tuple[int, int]) -> None:
    base = backbone()
    with pytest.raises(PairError, match="47"):
        PromptPair.from_tensors(*(torch.zeros(2, width) for width in widths), backbone=base).check(base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 1])
def test_saved_rows_with_one_number_that_is_not_finite_are_known(value: float, at: int) -> None:
    row = [(torch.randn(2, 5, 4), torch.randn(2, 5, 4)) for _ in range(3)]
    assert are_finite(row)
    row[1][at][1, 2, 3] = value
    assert not are_finite(row)
    large = [(torch.full((2, 5, 4), 6e4, dtype=torch.float16),) * 2]
    assert are_finite(large), "their sum alone is beyond float16"


def test_a_key_that_no_logit_shows_spoils_neither_later_rows_nor_prefixes() -> None:
    """A key at -infinity along its query has no weight in its own row, whose logits stay finite; masked in another row,
    it would be +infinity for another query."""
    model = copy.deepcopy(family("llama")[0])
    prompts = [f"the quick brown fox over data {n}" for n in range(4)]
    with ContrastiveLM.from_model(model, family("llama")[1], options=EngineOptions(max_rows=4)) as lm:
        expected = [lm.generate(prompt, max_tokens=20).token_ids for prompt in prompts]
    with ContrastiveLM.from_model(model, family("llama")[1], options=EngineOptions(max_rows=4)) as lm:
        stepper = lm.engine._stepper
        plain = stepper.decode

        def spoil(rows: Any, tokens: Any) -> torch.Tensor:
            logits = plain(rows, tokens)
            for row in rows:
                if len(row.request.generated) == 19:  # the last step: nobody will read it but by mistake
                    for buffer in lm.engine._cache.slots[1].buffers:
                        buffer[row.slot, :, row.length - 1] = torch.inf
            return logits

        stepper.decode = spoil  # type: ignore[method-assign]
        for _ in range(2):
            assert [reply.token_ids for reply in lm.generate(prompts, max_tokens=20)] == expected
            assert [lm.generate(prompt, max_tokens=20).token_ids for prompt in prompts] == expected


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_cache_is_as_large_as_the_config_says(name: str) -> None:
    model, tokenizer = family(name)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        expected = lm.engine._cache.bytes_per_slot
        assert expected == bytes_by_config(lm.backbone.config, torch.float32) > 0
        lm.generate("hello", max_tokens=2)
        assert lm.engine._cache.bytes_per_slot == expected


def test_a_model_whose_logits_are_not_finite_is_told_so_by_the_trial() -> None:
    base = backbone()
    with torch.no_grad():
        base.model.lm_head.weight[3] = float("nan")
    with ContrastiveLM(base) as lm, pytest.raises(ModelError, match="not finite"):
        check(base, lm.engine._stepper)
