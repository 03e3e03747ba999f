"""Keys and values are used again only under the weights that made them: whatever a caller changes between requests,
the reply is that of the model as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from acd_core.backbone import Backbone
from acd_core.engine import EngineOptions
from acd_core.experts import applied
from acd_core.lm import ContrastiveLM
from acd_core.weight_state import WeightState, adapter_settings
from tests.core.test_experts import random_expert
from tests.core.tiny import family, stock_greedy

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


@pytest.mark.parametrize("change", [in_place, through_data, new_data, new_module, hooked, replaced])
def test_a_change_of_the_model_is_followed(change: Callable[[Any], None], subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        before = follows(lm, model)
        assert lm.engine.prefixes.reused_tokens > 0
        change(model)
        assert follows(lm, model) != before, "the change changes nothing here"


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
