"""Copies of a ChatACD ask the model that they name themselves, describe that one, and keep no other alive."""

from __future__ import annotations

import copy
import gc
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.runnables import ConfigurableField
from transformers import AutoModelForCausalLM, GenerationConfig

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import TemplateError, UsageError
from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM
from tests.core.tiny import family, tokenizer

HI = "hello"
PLACE: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_tokens": 6}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + tokenizer("chatml").chat_template


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models with contexts of their own; "tools" alone renders tools."""
    made = {}
    for name, seed, positions in (("plain", 0, 512), ("tools", 1, 384), ("third", 2, 256)):
        where = tmp_path_factory.mktemp("models") / name
        model, words = family("qwen2", seed)
        model.save_pretrained(where)
        words = copy.deepcopy(words)
        if name == "tools":
            words.chat_template = WITH_TOOLS
        words.save_pretrained(where)
        config = (where / "config.json").read_text()
        (where / "config.json").write_text(
            config.replace('"max_position_embeddings": 512', f'"max_position_embeddings": {positions}')
        )
        made[name] = str(where)
    return made


@pytest.fixture
def llm(folders: dict[str, str]) -> Iterator[ChatACD]:
    made = ChatACD(model=folders["plain"], **PLACE)
    yield made
    made.lm.close()


def room(profile: Any) -> int:
    return int(profile["max_input_tokens"])


# -- which model is asked ----------------------------------------------------------------------------------------------


def test_a_copy_asks_its_own_model_for_tools(llm: ChatACD, folders: dict[str, str]) -> None:
    llm.invoke(HI)
    other = llm.model_copy(update={"model": folders["tools"]})
    other.invoke(HI)
    other.bind_tools([TOOL])
    with pytest.raises(TemplateError, match="ignores tools"):
        llm.bind_tools([TOOL])  # the last call was the other's
    llm.invoke(HI)
    other.bind_tools([TOOL])


def test_a_profile_is_that_of_what_the_fields_name(llm: ChatACD, folders: dict[str, str]) -> None:
    assert room(llm.profile) == 512
    other = llm.model_copy(update={"model": folders["tools"]})
    assert (room(other.profile), other.profile["tool_calling"]) == (384, True)
    assert (room(llm.profile), llm.profile["tool_calling"]) == (512, False)
    for loaded in (False, True):
        if loaded:
            llm.invoke(HI)
            other.invoke(HI)
        llm.pair = PromptPair.from_texts("be kind to all of us", "be rude")
        assert room(llm.profile) < 500
        assert room(llm.profile) == llm.lm.facts_for("acd").max_input_tokens
        llm.method = "none"
        assert room(llm.profile) == 512
        llm.method, llm.pair = None, None
        assert room(llm.profile) == 512
        llm.model = folders["tools"]
        assert room(llm.profile) == 384
        llm.model = folders["plain"]
        assert room(llm.profile) == 512
    llm.model = "./not-here"
    assert llm.profile is None
    llm.model = folders["third"]
    assert room(llm.profile) == 256
    llm.model = folders["plain"]


def test_a_profile_of_the_users_own_stays(folders: dict[str, str]) -> None:
    mine = {"max_input_tokens": 77}
    llm = ChatACD(model=folders["plain"], profile=mine, **PLACE)
    llm.model = folders["tools"]
    assert llm.profile == mine
    assert llm.model_copy(update={"model": folders["third"]}).profile == mine
    chosen = llm.configurable_fields(model=ConfigurableField(id="model"))
    assert chosen.with_config(configurable={"model": folders["third"]})._prepare()[0].profile == mine
    assert llm.model_copy(update={"model": folders["third"], "profile": {"tool_calling": True}}).profile == {
        "tool_calling": True
    }


def test_what_langchain_makes_for_one_call_has_a_profile_of_its_own(llm: ChatACD, folders: dict[str, str]) -> None:
    chosen = llm.configurable_fields(model=ConfigurableField(id="model"), alpha=ConfigurableField(id="alpha"))
    for loaded in (False, True):
        made = chosen._prepare({"configurable": {"model": folders["third"]}})[0]
        assert room(made.profile) == 256
        same = chosen._prepare({"configurable": {"alpha": 0.1}})[0]
        assert room(same.profile) == 512
        if not loaded:
            llm.invoke(HI)
            made.invoke(HI)


# -- which models are kept ---------------------------------------------------------------------------------------------


def gone(ref: weakref.ref[Any]) -> bool:
    for _ in range(3):  # the engine's thread lets go a moment later
        gc.collect()
        if ref() is None:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("adapter", [ChatACD, ACDLLM])
def test_a_model_that_nobody_names_any_more_is_let_go(adapter: type[Any], folders: dict[str, str]) -> None:
    llm = adapter(model=folders["plain"], **PLACE)
    first, weights = weakref.ref(llm.lm), weakref.ref(llm.lm.backbone)
    twin = copy.copy(llm)
    llm.model = folders["tools"]
    second = weakref.ref(llm.lm)
    assert not gone(first), "the copy names it, although it never called"
    assert twin.lm is first()
    twin.model = folders["tools"]
    assert twin.lm is llm.lm
    assert gone(first) and gone(weights)
    llm.model = folders["third"]
    assert llm.lm.model_id == folders["third"]
    assert not gone(second)
    del twin
    llm.model = folders["plain"]
    assert llm.lm.model_id == folders["plain"]
    llm.model = folders["tools"]
    assert llm.lm is second() or gone(second)
    llm.lm.close()


def test_another_pair_over_the_same_weights_loads_no_weights_again(llm: ChatACD) -> None:
    weights = llm.lm.backbone
    kept = weakref.ref(weights)
    first = weakref.ref(llm.lm)
    del weights
    llm.pair = PromptPair.from_texts("a", "b")
    gc.collect()
    assert llm.lm.backbone is kept()
    assert gone(first)


def test_models_of_single_calls_stay_for_the_next_ones(llm: ChatACD, folders: dict[str, str]) -> None:
    chosen = llm.configurable_fields(model=ConfigurableField(id="model"))
    chosen.invoke(HI)
    own = weakref.ref(llm.lm)
    seen = []
    for _ in range(3):
        made = chosen._prepare({"configurable": {"model": folders["third"]}})[0]
        made.invoke(HI)
        seen.append(weakref.ref(made.lm))
        del made
        gc.collect()
        chosen.invoke(HI)
        assert llm.lm is own()
    assert seen[0]() is seen[1]() is seen[2]() is not None
    for words in ("a", "b", "c", "d"):  # and no more than a few of them
        made = llm.model_copy(update={"pair": PromptPair.from_texts(words, "x")})
        seen.append(weakref.ref(made.lm))
        del made
    gc.collect()
    assert sum(ref() is not None for ref in seen[3:]) <= 3
    assert llm.lm is own()


# -- what stands in the key of a cache ---------------------------------------------------------------------------------


def test_the_key_knows_the_weights_and_the_config_that_answer(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, words = family("llama")
    base.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    def over(model: Any, **settings: Any) -> ChatACD:
        return ChatACD.from_lm(ContrastiveLM.from_model(model.eval(), words, model_id="m", **settings))

    def adapted(seed: int) -> Any:
        torch.manual_seed(seed)
        return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path), config)

    llms = [over(adapted(seed)) for seed in (1, 2)]
    llms += [over(adapted(seed).merge_and_unload()) for seed in (1, 2)]
    llms.append(over(AutoModelForCausalLM.from_pretrained(tmp_path)))
    for bias in (-5.0, -6.0):
        bent = AutoModelForCausalLM.from_pretrained(tmp_path)
        bent.generation_config = GenerationConfig(sequence_bias=[[[20], bias]], eos_token_id=7)
        llms.append(over(bent))
    llms.append(over(bent, generation_defaults=False))
    keys = [llm._get_llm_string() for llm in llms]
    assert len(set(keys)) == len(keys)
    llms[-1].invoke(HI)
    assert llms[-1]._get_llm_string() == keys[-1]
    again = over(AutoModelForCausalLM.from_pretrained(tmp_path))
    assert again._get_llm_string() == keys[4]
    for llm in (*llms, again):
        llm.lm.close()

    named = ChatACD(model=str(tmp_path), **PLACE)
    key = named._get_llm_string()
    assert named.invoke(HI)
    assert named._get_llm_string() == key, "loading changes nothing"
    named.lm.backbone.model.add_adapter(config)
    assert named._get_llm_string() != key
    fresh = ChatACD(model=str(tmp_path), **PLACE)
    assert fresh._get_llm_string() == key, "it has not loaded those weights"
    assert fresh.lm.backbone is named.lm.backbone
    assert fresh._get_llm_string() == named._get_llm_string() != key
    named.lm.close()


def test_from_lm_takes_the_switch_of_the_models_config_from_the_model() -> None:
    model, words = family("llama")
    for kept in (True, False):
        with ContrastiveLM.from_model(model, words, generation_defaults=kept) as lm:
            for adapter in (ChatACD, ACDLLM):
                made: Any = adapter.from_lm(lm)
                assert made.generation_defaults is kept
                assert made.lm is lm
                assert adapter.from_lm(lm, generation_defaults=kept).lm is lm
                with pytest.raises(UsageError, match="generation_defaults"):
                    adapter.from_lm(lm, generation_defaults=not kept)
                made.generation_defaults = not kept
                with pytest.raises(UsageError, match="generation_defaults"):
                    _ = made.lm


def test_a_key_is_of_the_pair_that_answers(tmp_path: Path) -> None:
    """A pair that was written over while it is in use: no reply of the old one is kept as the new one's."""
    folder = tmp_path / "pair"
    PromptPair.from_texts("be kind", "be rude").save(folder)
    old = ChatACD(model="reference", pair=str(folder), max_tokens=1)
    before = old._identifying_params["pair_files"]
    old.invoke("hello")
    assert old._identifying_params["pair_files"] == before is not None
    PromptPair.from_texts("be brief", "be long").save(folder)
    assert old._identifying_params["pair_files"] == before
    fresh = ChatACD(model="reference", pair=str(folder), max_tokens=1)
    changed = fresh._identifying_params["pair_files"]
    assert changed != before
    fresh.invoke("hello")
    assert fresh._identifying_params["pair_files"] == changed
