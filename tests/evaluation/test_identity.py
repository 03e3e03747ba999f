"""What decides a reply decides its key: adapters by weights, a config by its values; a plain model by neither."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from acd_core.evaluation.records import record_key
from acd_core.evaluation.runner import Arm, arm_settings
from acd_core.identity import identity, reply_facts, weights_key
from acd_core.lm import ContrastiveLM
from tests.core.tiny import family

CONFIGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 1.3000001},
    {"suppress_tokens": [20, 21, 22, 23, 24]},
    {"suppress_tokens": [20, 21, 22, 23, 25]},
    {"begin_suppress_tokens": [20]},
    {"begin_suppress_tokens": [21]},
    {"bad_words_ids": [[20, 21], [22], [23], [24], [25]]},
    {"bad_words_ids": [[20, 22], [22], [23], [24], [25]]},
    {"sequence_bias": [[[20], -5.0]]},
    {"sequence_bias": [[[20], -6.0]]},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"min_length": 50},
    {"min_new_tokens": 3},
    {"exponential_decay_length_penalty": (3, 1.5)},
    {"exponential_decay_length_penalty": (3, 1.25)},
    {"stop_strings": ["a", "b", "c", "d", "e"]},
    {"stop_strings": ["a", "b", "c", "d", "f"]},
]


def key(lm: ContrastiveLM, arm: str = "none") -> str:
    return record_key(reply_facts(identity(lm), arm_settings({}, Arm.of(arm))))


def opened(settings: dict[str, Any], *, defaults: bool = True) -> ContrastiveLM:
    model, tokenizer = family("llama")
    made = copy.copy(model)
    made.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=0, **settings)
    return ContrastiveLM.from_model(made, tokenizer, generation_defaults=defaults)


def test_every_value_of_a_generation_config_is_part_of_the_key() -> None:
    keys = []
    for settings in CONFIGS:
        with opened(settings) as lm, opened(settings) as again, opened(settings, defaults=False) as without:
            keys.append(key(lm))
            assert key(again) == keys[-1]
            assert (key(without) == keys[-1]) is (not settings)
            assert key(without) == keys[0], "a config that nobody follows"
            lm.generate("hello", max_tokens=3)
            assert key(lm) == keys[-1], "what processors work out at their first use"
    assert len(set(keys)) == len(CONFIGS)


def test_a_plain_models_key_is_what_it_always_was() -> None:
    with opened({}) as lm:
        found = reply_facts(identity(lm), arm_settings({}, Arm.of("none")))
        assert set(found) == {"model", "fingerprint", "dtype", "settings"}


def test_adapters_over_one_base_have_keys_of_their_own(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, tokenizer = family("llama")
    base.save_pretrained(tmp_path)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    def adapted(seed: int) -> Any:
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.manual_seed(seed)
        return peft.get_peft_model(fresh, config).eval()

    one, same, other = adapted(1), adapted(1), adapted(2)
    lms = [ContrastiveLM.from_model(each, tokenizer, model_id="m") for each in (one, same, other)]
    assert len({lm.backbone.fingerprint for lm in lms}) == 1
    first, twin, second = map(key, lms)
    assert first == twin != second
    assert lms[0].generate("hello", max_tokens=8).token_ids != lms[2].generate("hello", max_tokens=8).token_ids
    assert key(lms[0]) == first, "a reply changes nothing"
    with one.disable_adapter():
        assert key(lms[0]) != first
    assert key(lms[0]) == first
    one.base_model.merge_adapter()
    merged = key(lms[0])
    assert merged not in (first, second)
    one.base_model.unmerge_adapter()
    with torch.no_grad():
        next(each for name, each in one.named_parameters() if "lora_B" in name).mul_(2.0)
    assert key(lms[0]) not in (first, second, merged)
    for lm in lms:
        lm.close()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_the_digest_of_weights_reads_every_tensor(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm1d(3)).to(kind)
    model[0].weight = torch.nn.Parameter(torch.randn(5, 7, dtype=kind).T)  # stored the other way round
    known = weights_key(model)
    assert weights_key(copy.deepcopy(model)) == known
    for tensor in (*model.parameters(), model[2].running_mean):
        with torch.no_grad():
            tensor.add_(1.0)
        changed = weights_key(model)
        assert changed != known
        known = changed
