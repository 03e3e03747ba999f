"""Keys and values are used again only under the weights that made them: whatever a caller changes between requests,
the reply is that of the model as it is."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from acd_core.engine import EngineOptions, scheduler
from acd_core.lm import ContrastiveLM
from acd_core.model.backbone import Backbone
from acd_core.model.weight_state import WeightState, adapter_settings
from acd_core.params import Done
from tests.core.test_experts import random_expert
from tests.core.tiny import applied, family, stock_greedy

NEW = 8
ASKED = [{"role": "user", "content": "answer questions about the lazy dog while the quick brown fox jumps over it"}]


class Switch(torch.nn.Module):
    """An adapter as one makes it by hand: a linear layer and what it adds while it is on."""

    def __init__(self, base: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.base, self.added = base, torch.nn.Linear(width, base.out_features, bias=False)  # type: ignore[arg-type]
        self.on = True
        self.strengths = {"default": 1.0}

    def forward(self, x: torch.Tensor) -> Any:
        base = self.base(x)
        return base + self.strengths["default"] * self.added(x) if self.on else base


class Counting(torch.nn.Module):
    """A layer that keeps books on its own forwards."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base, self.forwards, self.tokens, self.log = base, 0, 0, ["made"]

    def forward(self, x: torch.Tensor) -> Any:
        self.forwards += 1
        self.tokens += x.shape[-2]
        return self.base(x)


@pytest.fixture
def subject() -> tuple[Any, Any]:
    """A model of our own, weights included."""
    model, tokenizer = family("llama")
    return copy.deepcopy(model), tokenizer


def follows(lm: ContrastiveLM, model: Any) -> list[int]:
    """The reply, twice, each time what the model says by itself now."""
    ids = list(lm.chat.layout(ASKED).ids)
    expected = stock_greedy(model, ids, NEW)
    for _ in range(2):
        assert list(lm.generate(ASKED, max_tokens=NEW).token_ids) == expected
    return expected


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(-1.0)


def through_data(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.data.mul_(-1.5)


def new_data(model: Any) -> None:
    weight = model.model.layers[1].self_attn.v_proj.weight
    weight.data = weight.data.flip(0)


def new_module(model: Any) -> None:
    layer = model.model.layers[0].mlp
    layer.down_proj = torch.nn.Linear(layer.down_proj.in_features, layer.down_proj.out_features, bias=False)


def hooked(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: -output)


def replaced(model: Any) -> None:
    layer = model.model.layers[0].mlp
    old = layer.forward
    layer.forward = lambda x: -old(x)


def new_activation(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = torch.nn.Tanh()


@pytest.mark.parametrize("change", [in_place, through_data, new_data, new_module, hooked, replaced, new_activation])
def test_a_change_of_the_model_is_followed(change: Callable[[Any], None], subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        before = follows(lm, model)
        assert lm.engine.prefixes.reused_tokens > 0
        change(model)
        assert follows(lm, model) != before, "the change changes nothing here"


def test_a_hook_that_is_taken_off_again_changes_nothing(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        before = follows(lm, model)
        hook = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda _, __, output: -output)
        under = follows(lm, model)
        hook.remove()
        reused = lm.engine.prefixes.reused_tokens
        assert follows(lm, model) == before != under
        assert lm.engine.prefixes.reused_tokens > reused


def test_a_switch_made_by_hand_is_followed_and_both_sides_are_remembered(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    attention = model.model.layers[0].self_attn
    switch = attention.k_proj = Switch(attention.k_proj, attention.k_proj.in_features)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        on = follows(lm, model)
        switch.on = False
        off = follows(lm, model)
        assert on != off
        for state, expected in ((True, on), (False, off)):
            switch.on = state
            reused = lm.engine.prefixes.reused_tokens
            reply = lm.generate(ASKED, max_tokens=NEW)
            assert list(reply.token_ids) == expected
            assert lm.engine.prefixes.reused_tokens > reused, "what was computed under this side is known"
        switch.on = True
        switch.strengths["default"] = -2.0
        assert follows(lm, model) not in (on, off)


def test_what_was_half_computed_under_other_weights_is_not_kept(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        events = lm.stream(ASKED, max_tokens=40)
        next(events)
        in_place(model)
        for _ in events:
            pass
        follows(lm, model)


def test_an_experts_hooks_change_no_state(subject: tuple[Any, Any]) -> None:
    """They act on one thread and are gone with its forward: other threads' prefixes stay known."""
    model, tokenizer = subject
    state = WeightState(model)
    before = state.current()
    with applied(model, [random_expert(Backbone.wrap(model, tokenizer), ("k_proj",))]):
        assert state.current() == before
    assert state.current() == before
    assert adapter_settings(model) == ()


@pytest.mark.parametrize("value", [[], [1], {}, {"a": []}, {"a": 0}, {1, 2}, (3,), 0, 1.5, True, "a", None])
def test_every_plain_setting_is_told_apart_and_known_again(value: Any) -> None:
    """Also where a container is changed in place, and whatever stood there before."""
    layer = Counting(torch.nn.Linear(2, 2))
    state = WeightState(layer)
    layer.log = [["a", {"b": 1}]]  # type: ignore[list-item]
    first = state.current()
    layer.log[0][1]["b"] = 2  # type: ignore[index]
    second = state.current()
    assert first != second
    layer.log.append(value)
    third = state.current()
    layer.log = value
    fourth = state.current()
    assert len({each.id for each in (first, second, third, fourth)}) == 4
    layer.log = [["a", {"b": 1}]]  # type: ignore[list-item]
    assert state.current() == first
    layer.log = object()  # type: ignore[assignment]
    assert state.current() not in (first, second, third, fourth)
    assert {each.changes for each in (first, second, third, fourth)} == {1}


def test_a_models_own_counters_say_nothing(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    model.model.layers[0].mlp = Counting(model.model.layers[0].mlp)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        follows(lm, model)
        assert lm.engine.prefixes.reused_tokens > 0


SWITCHES: dict[str, list[Any]] = {
    "_active_adapter": [["a"], ["b"], ["c"], ["a"]],
    "_disable_adapters": [False, True, False, True],
    "scaling": [1, 2, 3, 4],
    "merged_adapters": [[], ["a"], ["a", "b"], []],
    "name": ["a", "b", "c", "d"],
    "strength": [1.0, 2.0, 3.0, 4.0],
    "strengths": [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}],
    "index": [0, 1, 0, 1],
    "step": [0, 1, 1, 2],
}


@pytest.mark.parametrize("name", SWITCHES)
def test_what_another_thread_switches_during_forwards_is_no_counter(name: str) -> None:
    values = SWITCHES[name]
    layer = Counting(torch.nn.Linear(2, 2))
    setattr(layer, name, values[0])
    state = WeightState(layer)
    before = state.current()
    for value in values[1:]:
        with state.watching_a_forward("decode"):
            layer(torch.zeros(1, 2))
            setattr(layer, name, value)
    last = state.current()
    assert (last == before) == (values[-1] == values[0]), "the layer's own count is none of it, the switch is"
    setattr(layer, name, values[1])
    assert state.current() != last or values[1] == values[-1]


def test_a_switch_and_back_between_two_looks_is_not_kept(subject: tuple[Any, Any]) -> None:
    """A row that ran under another adapter for a while is not saved as one of its own adapter."""
    model, tokenizer = subject
    attention = model.model.layers[0].self_attn
    switch = attention.k_proj = Switch(attention.k_proj, attention.k_proj.in_features)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        events = lm.stream(ASKED, max_tokens=100)
        next(events)
        switch.on = False
        lm.generate("hello", max_tokens=1)
        switch.on = True
        lm.generate("hello", max_tokens=1)
        said = next(each for each in events if isinstance(each, Done)).generation
        ids = [*lm.chat.layout(ASKED).ids, *said.token_ids]
        assert lm.engine.prefixes.longest(ids, lm.namespace)[0] < len(lm.chat.layout(ASKED).ids)


def freed(storage: StorageWeakRef) -> bool:
    for _ in range(200):
        gc.collect()
        if storage.expired():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("way", ["closed", "idle", "busy"])
def test_weights_that_a_caller_lets_go_are_freed(
    way: str, subject: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "idle":
        monkeypatch.setattr(scheduler, "IDLE_SECONDS", 0.05)
    model, tokenizer = subject
    layer = model.model.layers[0].mlp
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        before = follows(lm, model)
        replaced, halved = (StorageWeakRef(each.weight.untyped_storage()) for each in (layer.down_proj, layer.up_proj))
        layer.down_proj = copy.deepcopy(layer.down_proj)
        layer.up_proj.weight.data = layer.up_proj.weight.data.clone()
        if way == "closed":
            lm.close()
        elif way == "busy":
            follows(lm, model)
        assert freed(replaced)
        assert freed(halved)
        if way != "closed":
            assert follows(lm, model) == before


def test_after_a_rest_known_prefixes_are_known_still(subject: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "IDLE_SECONDS", 0.01)
    model, tokenizer = subject
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        for change in (None, None, in_place, through_data):
            if change is not None:
                change(model)
            reused = lm.engine.prefixes.reused_tokens
            follows(lm, model)
            assert lm.engine.prefixes.reused_tokens > reused
            while lm.engine._thread is not None:
                time.sleep(0.01)


# -- accelerate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_model_reuses_prefixes_and_is_followed(
    where: str, subject: tuple[Any, Any], tmp_path: Any
) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, tokenizer = subject
    for at, layer in enumerate(model.model.layers):
        if where == "cpu":
            accelerate.cpu_offload(layer, torch.device("cpu"))
        else:
            accelerate.disk_offload(layer, str(tmp_path / str(at)), torch.device("cpu"))
    assert model.model.layers[0].mlp.up_proj.weight.is_meta
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        before = follows(lm, model)
        reused = lm.engine.prefixes.reused_tokens
        assert reused > 0
        if where == "cpu":
            with torch.no_grad():
                model.model.layers[0].self_attn.k_proj._hf_hook.weights_map["weight"].mul_(-1.0)
            assert follows(lm, model) != before


def test_without_prefixes_nothing_is_looked_at(subject: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightState, "current", lambda self: pytest.fail("looked"))
    with ContrastiveLM.from_model(*subject, options=EngineOptions(prefix_bytes=0)) as lm:
        assert lm.generate(ASKED, max_tokens=2).token_ids


# -- PEFT --------------------------------------------------------------------------------------------------------------


def adapted(model: Any, name: str, seed: int) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(seed)
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
        return model.eval()
    return peft.get_peft_model(model, config, adapter_name=name).eval()


def test_peft_adapters_are_followed(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    both = adapted(adapted(model, "first", 1), "second", 2)
    off: AbstractContextManager[Any] = both.disable_adapter()
    with ContrastiveLM.from_model(both, tokenizer) as lm:
        both.set_adapter("first")
        first = follows(lm, both)
        both.set_adapter("second")
        second = follows(lm, both)
        with off:
            third = follows(lm, both)
        assert len({tuple(each) for each in (first, second, third)}) == 3
        both.set_adapter("first")
        reused = lm.engine.prefixes.reused_tokens
        assert follows(lm, both) == first
        assert lm.engine.prefixes.reused_tokens > reused
        both.merge_adapter()
        merged = follows(lm, both)
        both.unmerge_adapter()
        follows(lm, both)
        assert merged == first
        assert "first" in str(adapter_settings(both))
        for layer in both.modules():
            if isinstance(getattr(layer, "scaling", None), dict):
                layer.scaling = {name: -value for name, value in layer.scaling.items()}
        assert follows(lm, both) != first


def test_transformers_own_adapters_are_followed(subject: tuple[Any, Any], tmp_path: Any) -> None:
    model, tokenizer = subject
    adapted(copy.deepcopy(model), "default", 3).save_pretrained(tmp_path)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        plain = follows(lm, model)
        model.load_adapter(str(tmp_path), adapter_name="x")
        model.eval()
        under = follows(lm, model)
        assert under != plain
        model.disable_adapters()
        assert follows(lm, model) == plain
        model.enable_adapters()
        assert follows(lm, model) == under
