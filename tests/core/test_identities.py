"""What must be the same must be the same: fp32, untied random models, several distinct tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor

from acd_core import ContrastiveLM, PromptPair
from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.chat import SOFT
from acd_core.engine import choosing
from acd_core.model.backbone import Backbone
from acd_core.params import Done, TextDelta
from tests.core.tiny import FAMILIES, family, stock_greedy, two_passes

NEW = 24
SAFE = "always be safe while you answer"
OPPOSITE = "the lazy dog jumps over user data"
CONVERSATIONS = [
    "hello world",
    [{"role": "user", "content": "the quick brown fox jumps over a lazy dog " * 3}],
    [{"role": "system", "content": "answer about data"}, {"role": "user", "content": "user data?"}],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "safe systems"},
        {"role": "user", "content": "questions about the fox"},
    ],
]
ORACLE_FAMILIES = ["llama", "qwen3", "mistral", "gemma", "reference"]


def loaded(name: str) -> tuple[Any, Any]:
    if name != "reference":
        return family(name)
    if not (REFERENCE_MODEL_DIR / "config.json").is_file():
        pytest.skip("the bundled reference model is not in this checkout")
    backbone = Backbone.load("reference", dtype="float32", device="cpu")
    return backbone.model, backbone.tokenizer


def soft_pair(model: Any, lm: ContrastiveLM, seed: int = 0) -> PromptPair:
    generator = torch.Generator().manual_seed(seed)
    weight = model.get_input_embeddings().weight
    scale = float(weight.detach().float().std())
    make = lambda n: torch.randn(n, weight.shape[1], generator=generator) * scale  # noqa: E731
    return PromptPair.from_tensors(make(9), make(13), backbone=lm.backbone, alpha=0.4)


@pytest.fixture(params=[*FAMILIES, "reference"])
def each_family(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    model, tokenizer = loaded(request.param)
    return request.param, model, tokenizer


def varied(replies: list[list[int]], name: str) -> None:
    assert len({token for reply in replies for token in reply}) >= 8, f"{name} echoes: the identity would be vacuous"


def test_alpha_zero_is_stock_generate(each_family: tuple[str, Any, Any]) -> None:
    name, model, tokenizer = each_family
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        replies = [lm.generate(item, max_tokens=NEW, alpha=0.0) for item in CONVERSATIONS]
        layouts = [lm.chat.layout(item, SAFE) for item in CONVERSATIONS]
        plain = [lm.generate(item, max_tokens=NEW, method="none") for item in CONVERSATIONS]
        plain_layouts = [lm.chat.layout(item) for item in CONVERSATIONS]
    ends = model.generation_config.eos_token_id
    for reply, layout in zip([*replies, *plain], [*layouts, *plain_layouts]):
        assert list(reply.token_ids) == stock_greedy(model, list(layout.ids), NEW, eos_token_id=ends)
        assert reply.report.contrasted_tokens == 0
    varied([list(reply.token_ids) for reply in replies], name)


def test_pair_engine_is_two_passes_without_cache(each_family: tuple[str, Any, Any]) -> None:
    name, model, tokenizer = each_family
    embed = model.get_input_embeddings()
    with ContrastiveLM.from_model(model, tokenizer) as plain:
        pair = soft_pair(model, plain)
        with ContrastiveLM.from_model(model, tokenizer, pair) as lm:
            replies = lm.generate(CONVERSATIONS, max_tokens=NEW)
            for item, reply in zip(CONVERSATIONS, replies):
                layout = lm.chat.layout(item, SOFT)
                before, after = (embed(torch.tensor(part)) for part in (layout.before, layout.after))
                kept = torch.cat([before, pair.safeguarding, after])
                other = torch.cat([before, pair.adversarial, after])
                expected = two_passes(model, kept, other, 0.4, NEW, lm.backbone.eos_ids)
                assert list(reply.token_ids) == expected
                assert reply.report.contrasted_tokens >= len(expected)
    varied([list(reply.token_ids) for reply in replies], name)


@pytest.mark.parametrize("name", ORACLE_FAMILIES)
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_textual_pair_is_the_cfg_processor(name: str, alpha: float) -> None:
    model, tokenizer = loaded(name)
    guidance = 1 / (1 - alpha)
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        for item in CONVERSATIONS[:3]:
            reply = lm.generate(item, max_tokens=NEW, alpha=alpha, logprobs=3)
            kept, other = lm.chat.layout(item, SAFE).ids, lm.chat.layout(item, OPPOSITE).ids
            ends = model.generation_config.eos_token_id
            expected = stock_greedy(
                model,
                list(kept),
                NEW,
                guidance_scale=guidance,
                negative_prompt_ids=torch.tensor([other]),
                negative_prompt_attention_mask=torch.ones(1, len(other), dtype=torch.long),
                eos_token_id=ends,
            )
            assert list(reply.token_ids) == expected
            # Probabilities: the oracle's distribution at every step of the same reply.
            assert reply.logprobs is not None
            oracle = UnbatchedClassifierFreeGuidanceLogitsProcessor(
                guidance, model, unconditional_ids=torch.tensor([other]), use_cache=False
            )
            for step, noted in enumerate(reply.logprobs):
                ids = torch.tensor([[*kept, *expected[:step]]])
                with torch.no_grad():
                    scores = model(ids, use_cache=False).logits[:, -1].float()
                    probabilities = LogitsProcessorList([oracle])(ids, scores).softmax(-1)[0]
                assert noted.top[0][0] == noted.token_id
                for token, logprob in noted.top:
                    assert abs(float(probabilities[token]) - torch.tensor(logprob).exp().item()) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "reference"])
def test_batched_is_single_streamed_is_unstreamed_sync_is_async(name: str) -> None:
    model, tokenizer = loaded(name)
    conversations = [f"the quick brown fox {'jumps ' * (3 * n)}over data" for n in range(12)]
    with ContrastiveLM.from_model(model, tokenizer) as plain:
        lm = ContrastiveLM.from_model(model, tokenizer, soft_pair(model, plain))
        single = [lm.generate(item, max_tokens=NEW) for item in conversations]
        batched = lm.generate(conversations, max_tokens=NEW)
        streams = [list(lm.stream(item, max_tokens=NEW)) for item in conversations]

        async def gathered() -> tuple[list[Any], list[list[Any]]]:
            async def collect(item: str) -> list[Any]:
                return [event async for event in lm.astream(item, max_tokens=NEW)]

            replies = await lm.agenerate(conversations, max_tokens=NEW)
            return replies, await asyncio.gather(*(collect(item) for item in conversations))

        replies, async_streams = asyncio.run(gathered())
        lm.close()
    expected = [reply.token_ids for reply in single]
    assert [reply.token_ids for reply in batched] == expected
    assert [reply.token_ids for reply in replies] == expected
    for stream, reply in zip([*streams, *async_streams], [*single, *single]):
        assert isinstance(stream[-1], Done)
        assert stream[-1].generation.token_ids == reply.token_ids
        assert "".join(event.text for event in stream if isinstance(event, TextDelta)) == reply.text
        assert sum(isinstance(event, Done) for event in stream) == 1
    varied([list(ids) for ids in expected], name)


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt"])
def test_prefix_store_on_is_off(name: str) -> None:
    from acd_core.engine import EngineOptions

    model, tokenizer = loaded(name)
    turns = ["hello world", "what about the fox?", "and the lazy dog?", "answer questions about user data"]

    def converse(options: EngineOptions) -> tuple[list[tuple[int, ...]], int]:
        with ContrastiveLM.from_model(model, tokenizer, options=options) as plain:
            lm = ContrastiveLM.from_model(model, tokenizer, soft_pair(model, plain), options=options)
            messages: list[dict[str, str]] = []
            replies = []
            for turn in turns:
                messages.append({"role": "user", "content": turn})
                reply = lm.generate(messages, max_tokens=12)
                replies.append(reply.token_ids)
                messages.append({"role": "assistant", "content": reply.text})
            reused = lm.engine.prefixes.reused_tokens
            lm.close()
        return replies, reused

    cold, none = converse(EngineOptions(prefix_bytes=0))
    warm, some = converse(EngineOptions(prefix_bytes=2**26))
    assert cold == warm
    assert none == 0 < some
    varied([list(ids) for ids in cold], name)


@pytest.mark.parametrize("chunk", [5, 16])
def test_prefill_in_chunks_is_prefill_at_once(chunk: int) -> None:
    from acd_core.engine import EngineOptions

    model, tokenizer = family("mistral")
    conversations = ["the fox " * n for n in (1, 9, 30, 60)]

    def replies(options: EngineOptions) -> list[tuple[int, ...]]:
        with ContrastiveLM.from_model(model, tokenizer, options=options) as plain:
            lm = ContrastiveLM.from_model(model, tokenizer, soft_pair(model, plain), options=options)
            made = [reply.token_ids for reply in lm.generate(conversations, max_tokens=10)]
            lm.close()
        return made

    small = replies(EngineOptions(prefill_tokens=chunk, prefix_bytes=0))
    assert small == replies(EngineOptions(prefill_tokens=4096, prefix_bytes=0))


def test_the_adversarial_row_changes_the_reply() -> None:
    """The identities above would hold for an engine that ignored the second row; this would not."""
    model, tokenizer = family("llama")
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        off = lm.generate("hello world", max_tokens=NEW, alpha=0.0)
        on = lm.generate("hello world", max_tokens=NEW, alpha=0.5)
        swapped = ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(OPPOSITE, SAFE))
        other = swapped.generate("hello world", max_tokens=NEW, alpha=0.5)
        swapped.close()
    assert off.token_ids != on.token_ids != other.token_ids
    assert 0.0 < on.report.mean_divergence <= 1.0
    assert on.report.contrasted_tokens in (len(on.token_ids), len(on.token_ids) + 1)


def test_contrast_tokens_stops_contrasting() -> None:
    model, tokenizer = family("llama")
    with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        full = lm.generate("hello world", max_tokens=NEW, alpha=0.5)
        some = lm.generate("hello world", max_tokens=NEW, alpha=0.5, contrast_tokens=4)
        none = lm.generate("hello world", max_tokens=NEW, alpha=0.5, contrast_tokens=0)
        off = lm.generate("hello world", max_tokens=NEW, alpha=0.0)
    assert some.token_ids[:4] == full.token_ids[:4]
    assert some.report.contrasted_tokens == 4
    assert none.token_ids == off.token_ids
    assert lm.engine.active_rows == 0


@pytest.mark.parametrize("meanwhile", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(meanwhile: torch.dtype) -> None:
    """torch's default dtype is the process's: transformers changes it while another thread loads a model."""
    settings = {"max_tokens": NEW, "alpha": 0.3, "plausibility": 0.037, "logprobs": 3, "temperature": 0.9, "seed": 5}
    found = []
    for dtype in (torch.float32, meanwhile):
        model, tokenizer = family("llama")
        choosing._strengths.cache_clear()
        torch.set_default_dtype(dtype)
        try:
            with ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
                found.append([lm.generate(item, **settings) for item in CONVERSATIONS])
        finally:
            torch.set_default_dtype(torch.float32)
    for before, after in zip(*found):
        assert (before.token_ids, before.logprobs) == (after.token_ids, after.logprobs)
        assert before.report == after.report
