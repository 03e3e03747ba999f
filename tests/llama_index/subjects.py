"""Subjects for the contract: ACDLLM over a scripted model, and ACDLLM or the stock class over real weights."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llama_index.core.llms import LLM

from acd_core.artifacts.pair import PromptPair
from acd_core.lm import ContrastiveLM
from acd_integrations.llama_index import ACDLLM
from tests.llama_index.contract import Subject
from tests.scripted import ADVERSARIAL, HEADER, SAFE, ScriptedModel, make_tokenizer

SECRET = "/srv/private/models"
LURE = "Bad."
LONG = "First dig a hole in the garden. Then put the young tree into it, fill it up with soil, and water it well."


def answer(prompt: str) -> str:
    """What the scripted model says to a rendered prompt: a call where a tool fits, its result, JSON, or words."""
    last = prompt.rsplit("<|im_start|>", 2)[-2]
    if last.startswith("tool"):
        return "The tool says: " + last.removeprefix("tool\n").partition("<|im_end|>")[0]
    if "get_weather" in prompt:
        cities = re.findall(r"weather in (\w+)|and (\w+)\?", last)
        calls = [{"name": "get_weather", "arguments": {"location": a or b}} for a, b in cities]
        return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls) or "Hello to you too."
    if "how many people live there" in last:
        return json.dumps({"name": "Paris", "people": 2100000})
    return LONG


def scripted_lm(
    reply: Callable[[str], str] = answer, *, lure: str | None = LURE, step_s: float = 0.0, window: int = 4096
) -> ContrastiveLM:
    """A ContrastiveLM over a scripted model whose kept branch alone would say the lure."""
    tokenizer = make_tokenizer()

    def whole(prompt: str) -> str:
        # A long prompt is computed in chunks, and the model is asked for logits at the end of each.
        return reply(prompt) if prompt.endswith(HEADER) else ""

    model = ScriptedModel(tokenizer, whole, lure=lure, step_s=step_s, max_positions=window)
    pair = PromptPair.from_texts(SAFE, ADVERSARIAL)
    return ContrastiveLM.from_model(model, tokenizer, pair, model_id=f"{SECRET}/scripted")


def scripted_subject() -> Subject:
    window = 4096
    fast, slow, failing = scripted_lm(window=window), scripted_lm(step_s=0.01), scripted_lm()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device fell over")

    failing.backbone.model.forward = fail
    # One lm is in use at a time, so the sum tells about each.
    return Subject(
        name="ACDLLM, scripted model",
        make=lambda **settings: ACDLLM.from_lm(fast, **settings),
        broken=lambda: ACDLLM.from_lm(failing, max_tokens=24),
        slow=lambda: ACDLLM.from_lm(slow, max_tokens=len(LONG)),
        forwards=lambda: fast.backbone.model.forwards + slow.backbone.model.forwards,
        secret=SECRET,
        window=window,
        letters_per_token=1,
    )


def acd_subject(folder: Path, pair: PromptPair | str | None, method: str | None = None) -> Subject:
    """ACDLLM over the model in `folder`."""
    forwards, slow_forwards, model = _counted(folder)
    failing = _counted(folder)[2]
    failing.forward = _raise

    def make(source: Any, **settings: Any) -> LLM:
        from transformers import AutoTokenizer

        tokenizer = _tokenizers.setdefault(folder, AutoTokenizer.from_pretrained(folder))
        lm = ContrastiveLM.from_model(source, tokenizer, pair, method, model_id=str(folder))
        return ACDLLM.from_lm(lm, **settings)

    return Subject(
        name=f"ACDLLM ({method or 'acd'})",
        make=lambda **settings: make(model, **settings),
        broken=lambda: make(failing, max_tokens=24),
        slow=lambda: make(_counted_into(folder, slow_forwards, pause=0.02), max_tokens=160),
        forwards=lambda: forwards[0] + slow_forwards[0],
        secret=str(folder.parent),
        window=model.config.max_position_embeddings,
    )


def stock_subject(folder: Path) -> Subject:
    """llama-index-llms-huggingface's class over the same weights, set up as its documentation says for a chat model."""
    from llama_index.llms.huggingface import HuggingFaceLLM
    from transformers import AutoTokenizer

    forwards, slow_forwards, model = _counted(folder)
    failing = _counted(folder)[2]
    failing.forward = _raise
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def make(source: Any, max_tokens: int = 256) -> LLM:
        return HuggingFaceLLM(
            model=source, tokenizer=tokenizer, model_name=str(folder), tokenizer_name=str(folder), device_map="cpu",
            max_new_tokens=max_tokens, context_window=source.config.max_position_embeddings, is_chat_model=True,
            generate_kwargs={"do_sample": False},
        )  # fmt: skip

    return Subject(
        name="HuggingFaceLLM 0.8.0",
        make=lambda **settings: make(model, **settings),
        broken=lambda: make(failing, max_tokens=24),
        slow=lambda: make(_counted_into(folder, slow_forwards, pause=0.02), max_tokens=160),
        forwards=lambda: forwards[0] + slow_forwards[0],
        secret=str(folder.parent),
        window=model.config.max_position_embeddings,
        names={"max_tokens": "max_new_tokens"},
    )


_tokenizers: dict[Path, Any] = {}
_models: dict[tuple[Path, int], Any] = {}


def _counted(folder: Path) -> tuple[list[int], list[int], Any]:
    count = [0]
    return count, [0], _counted_into(folder, count)


def _counted_into(folder: Path, count: list[int], pause: float = 0.0) -> Any:
    """The model of `folder` with its forwards counted; loaded once per counter."""
    from transformers import AutoModelForCausalLM

    key = (folder, id(count))
    if key not in _models:
        with contextlib.suppress(Exception):
            torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        inner = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            time.sleep(pause)
            return inner(*args, **kwargs)

        model.forward = forward
        _models[key] = model
    return _models[key]


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("the device fell over")
