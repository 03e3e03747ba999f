"""The decode step at fixed shapes gives what free shapes give; which mode is taken, and that the reason is told.

Capturing itself needs a GPU (benchmarks/decoding_cost.py --device cuda); what is captured is tested here uncaptured.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.engine import EngineOptions
from acd_core.engine.static import LEAST_WINDOW, chosen
from acd_core.model.backbone import Backbone
from tests.core.tiny import FAMILIES, family

PAIR = PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data")
CONVERSATIONS = ["hello world", "the quick brown fox " * 8, "user data?", "questions " * 30, "a lazy dog"]


@pytest.mark.parametrize("name", FAMILIES)
def test_fixed_shapes_give_the_same_replies(name: str) -> None:
    def replies(decode: Any) -> tuple[list[tuple[int, ...]], int]:
        options = EngineOptions(decode=decode, max_rows=6)
        with ContrastiveLM.from_model(*family(name), PAIR, options=options) as lm:
            made = [reply.token_ids for reply in lm.generate(CONVERSATIONS, max_tokens=40)]
            static = lm.engine._stepper.static
            return made, 0 if static is None else static.steps

    eager, none = replies("eager")
    static, steps = replies("static")
    assert static == eager
    assert none == 0 < steps
    assert len({token for reply in eager for token in reply}) >= 8


def test_the_window_grows_and_buffers_may_move() -> None:
    """A reply that outgrows the smallest window, while a longer request makes the cache larger under it."""
    prompts = ["the quick brown fox " * 20, "hello"]
    with ContrastiveLM.from_model(*family("llama"), options=EngineOptions(decode="static")) as lm:
        stream = lm.stream("hello", max_tokens=300)
        next(stream)
        lm.generate(prompts[0], max_tokens=LEAST_WINDOW)
        rest = list(stream)
        static = lm.engine._stepper.static
        assert static is not None
        assert len({window for _, window in static._shapes}) >= 1
    with ContrastiveLM.from_model(*family("llama"), options=EngineOptions(decode="eager")) as lm:
        assert rest[-1].generation.token_ids == lm.generate("hello", max_tokens=300).token_ids  # type: ignore[union-attr]


def fake(device: str = "cuda", **config: Any) -> Backbone:
    parameters = [SimpleNamespace(device=device) for device in config.pop("devices", [device])]
    model = SimpleNamespace(parameters=lambda: parameters, is_quantized=config.pop("quantized", False))
    return SimpleNamespace(device=torch.device(device), model=model, config=SimpleNamespace(**config))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("backbone", "mode", "reason"),
    [
        (fake(), "graphs", "kernel launches"),
        (fake("cpu"), "eager", "bound by its arithmetic"),
        (fake("mps"), "eager", "on mps"),
        (fake(devices=["cuda:0", "cuda:1"]), "eager", "2 devices"),
        (fake(quantized=True), "eager", "quantised"),
        (fake(num_experts=8), "eager", "experts"),
    ],
)
def test_the_mode_is_chosen_with_a_reason(backbone: Backbone, mode: str, reason: str) -> None:
    found, why = chosen("auto", backbone)
    assert found == mode
    assert reason in why
    assert chosen("eager", backbone) == ("eager", "asked for")
    if backbone.device.type != "cuda":
        assert chosen("graphs", backbone)[0] == "static"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3"])
def test_captured_graphs_give_the_same_replies(name: str) -> None:
    model, tokenizer = family(name)
    moved = type(model)(model.config).eval()
    moved.load_state_dict(model.state_dict())
    moved.to("cuda")
    replies = {}
    for decode in ("eager", "graphs"):
        options = EngineOptions(decode=decode, max_rows=6)  # type: ignore[arg-type]
        with ContrastiveLM.from_model(moved, tokenizer, PAIR, options=options) as lm:
            replies[decode] = [reply.token_ids for reply in lm.generate(CONVERSATIONS, max_tokens=40)]
            assert lm.engine.decode_mode[0] == decode
    assert replies["graphs"] == replies["eager"]
