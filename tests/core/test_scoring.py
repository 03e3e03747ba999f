"""Log-likelihoods: the engine's own figures, the model's own without a contrast, and nothing that does not belong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.errors import ContextLengthError, EngineClosedError, UsageError
from acd_core.reply import scoring
from tests.core.tiny import family

SAFE, OPPOSITE = "always be safe while you answer", "the lazy dog jumps over user data"
ASKED = [
    "hello world",
    [{"role": "system", "content": "answer about data"}, {"role": "user", "content": "user data? " * 6}],
    [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps", "prefix": True}],
]
FAMILIES = ["llama", "qwen3", "mistral", "gemma3", "gpt2", "opt", "falcon", "reference"]
METHODS: list[dict[str, Any]] = [
    {"method": "acd"},
    {"method": "acd", "alpha": 0.7, "contrast_tokens": 3},
    {"method": "acd", "rescale": False},
    {"method": "sp"},
    {"method": "rose"},
    {"method": "self-reminder"},
    {"method": "none"},
]


def loaded(name: str) -> ContrastiveLM:
    if name != "reference":
        model, tokenizer = family(name)
        generator = torch.Generator().manual_seed(1)
        weight = model.get_input_embeddings().weight
        with ContrastiveLM.from_model(model, tokenizer) as plain:
            scale = float(weight.detach().std())
            vectors = (torch.randn(n, weight.shape[1], generator=generator) * scale for n in (9, 13))
            pair = PromptPair.from_tensors(*vectors, backbone=plain.backbone, alpha=0.4)
        return ContrastiveLM.from_model(model, tokenizer, pair)
    if not (REFERENCE_MODEL_DIR / "config.json").is_file():
        pytest.skip("the bundled reference model is not in this checkout")
    return ContrastiveLM.from_pretrained("reference", "reference", dtype="float32", device="cpu")


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_model_over_several_devices_is_asked_for_the_same_positions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are kept by count there, elsewhere by index: one and the same."""
    found = []
    for spread in (False, True):
        with loaded(name) as lm:
            monkeypatch.setattr(lm.backbone, "_spread", spread)
            asked = lm.backbone._last_positions(7, 3)
            assert (asked if isinstance(asked, int) else asked.tolist()) == (3 if spread else [4, 5, 6])
            replies = lm.generate(ASKED, max_tokens=8)
            scores = lm.loglikelihoods([(each, "the fox jumps") for each in ASKED])
            found.append(([reply.token_ids for reply in replies], [score.logprobs for score in scores]))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1]):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({token for ids in found[0][0] for token in ids}) > 4


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engines_own_replies_have_the_engines_own_likelihood(name: str) -> None:
    seen: set[int] = set()
    with loaded(name) as lm:
        for chosen in METHODS:
            replies = lm.generate(ASKED, max_tokens=12, logprobs=0, **chosen)
            said = [(asked, reply) for asked, reply in zip(ASKED, replies) if reply.token_ids]
            found = lm.loglikelihoods([(asked, reply.token_ids) for asked, reply in said], **chosen)
            for (_, reply), result in zip(said, found):
                assert reply.logprobs is not None
                wanted = [each.logprob for each in reply.logprobs]
                assert result.logprobs == pytest.approx(wanted, abs=2e-4)
                assert result.logprob == pytest.approx(math.fsum(wanted), abs=1e-3)
                assert result.is_greedy
                seen.update(result.token_ids)
    assert len(seen) >= 8, "the model echoes: the identity would be vacuous"


@pytest.mark.parametrize("name", FAMILIES)
def test_alpha_zero_is_the_stock_models_likelihood(name: str) -> None:
    text = "systems answer the quick brown fox"
    with loaded(name) as textual:
        model, backbone = textual.backbone.model, textual.backbone
    with ContrastiveLM(backbone, PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        for asked in ASKED:
            said = torch.tensor(lm.token_ids(text))
            for chosen, prompt in (({"alpha": 0.0}, SAFE), ({"method": "none"}, None)):
                ids = torch.tensor(lm.chat.layout(asked, prompt).ids)
                with torch.no_grad():
                    logits = model(torch.cat([ids, said])[None]).logits[0, len(ids) - 1 : -1].float()
                wanted = logits.log_softmax(-1).gather(1, said[:, None])[:, 0]
                found = lm.loglikelihood(asked, text, **chosen)  # type: ignore[arg-type]
                assert list(found.token_ids) == said.tolist()
                assert found.logprobs == pytest.approx(wanted.tolist(), abs=2e-4)
                assert found.is_greedy == bool((logits.argmax(-1) == said).all())


def test_sampled_replies_too_and_they_are_seldom_greedy() -> None:
    with loaded("llama") as lm:
        reply = lm.generate(ASKED[0], max_tokens=12, temperature=1.5, seed=3, logprobs=0)
        assert reply.logprobs is not None
        found = lm.loglikelihood(ASKED[0], reply.token_ids)
        assert found.logprob == pytest.approx(sum(each.logprob for each in reply.logprobs), abs=1e-3)
        assert not found.is_greedy


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_distributions_are_those_the_likelihoods_are_read_from(settings: dict[str, Any]) -> None:
    texts = ("fox", "a lazy dog while safe systems")
    with loaded("llama") as lm:
        pairs = [(asked, text) for asked in ASKED for text in texts]
        found = list(lm.distributions(pairs, **settings))
        for each, scored in zip(found, lm.loglikelihoods(pairs, **settings), strict=True):
            assert each.exp().sum(-1).tolist() == pytest.approx([1.0] * len(scored.token_ids), abs=1e-4)
            at = each[range(len(scored.token_ids)), list(scored.token_ids)]
            assert at.tolist() == pytest.approx(list(scored.logprobs), abs=1e-5)
    with pytest.raises(EngineClosedError):
        lm.distributions(pairs)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_at_once_is_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neighbours with one conversation share its prompts; the others share a forward.
    texts = ("fox", "a lazy dog while safe systems", " ")
    with loaded(name) as lm:
        for chosen in ({"method": "acd"}, {"method": "none"}, {"method": "acd", "contrast_tokens": 2}):
            for pairs in (
                [(asked, text) for asked in ASKED for text in texts],
                [(asked, text) for text in texts for asked in ASKED],
            ):
                together = lm.loglikelihoods(pairs, **chosen)  # type: ignore[arg-type]
                with monkeypatch.context() as patch:
                    patch.setattr(scoring, "FORWARD_TOKENS", 1)  # every request alone
                    alone = lm.loglikelihoods(pairs, **chosen)  # type: ignore[arg-type]
                for one, many in zip(alone, together):
                    assert many.logprobs == pytest.approx(one.logprobs, abs=2e-4)
                    assert (many.is_greedy, many.token_ids) == (one.is_greedy, one.token_ids)


def test_a_question_is_read_once_for_all_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded("llama") as lm:
        seen: list[int] = []
        forward = lm.backbone.model.forward

        def counted(*given: Any, **options: Any) -> Any:
            seen.append(options["inputs_embeds"].shape[0] * options["inputs_embeds"].shape[1])
            return forward(*given, **options)

        monkeypatch.setattr(lm.backbone.model, "forward", counted)
        lm.loglikelihoods([(ASKED[1], text) for text in ("fox", "lazy dog", "safe", "user")])
        shared, prompt = sum(seen), lm.count_tokens(ASKED[1])
        assert prompt > 60
        assert shared < 2 * (prompt + 40) + 8 * 12


def test_the_plausibility_head_drops_and_renormalises() -> None:
    with loaded("llama") as lm:
        reply = lm.generate(ASKED[0], max_tokens=12, plausibility=0.3)
        plain, head = (lm.loglikelihood(ASKED[0], reply.token_ids, plausibility=beta) for beta in (0.0, 0.3))
        assert head.is_greedy
        assert all(kept >= whole for kept, whole in zip(head.logprobs, plain.logprobs))
        assert head.logprob > plain.logprob
        unlikely = min(range(lm.backbone.vocab_size), key=lambda token: lm.loglikelihood(ASKED[0], [token]).logprob)
        assert lm.loglikelihood(ASKED[0], [unlikely], plausibility=0.3).logprob == -math.inf


def test_sampling_settings_do_not_enter() -> None:
    with loaded("llama") as lm:
        plain = lm.loglikelihood(ASKED[0], "the fox the fox the fox")
        other = lm.loglikelihood(
            ASKED[0], "the fox the fox the fox", temperature=2.0, top_k=2, repetition_penalty=1.5, max_tokens=1, seed=1
        )
    assert other == plain


def test_what_cannot_be_scored_is_said() -> None:
    with loaded("llama") as lm:
        with pytest.raises(UsageError, match="continuation is empty"):
            lm.loglikelihood("hello", "")
        with pytest.raises(UsageError, match="no token 99999"):
            lm.loglikelihood("hello", [99999])
        with pytest.raises(UsageError, match="forced format"):
            lm.loglikelihood("hello", "world", response_format={"type": "json_object"})
        with pytest.raises(ContextLengthError):
            lm.loglikelihood("hello", "fox " * 600)
    with pytest.raises(EngineClosedError):
        lm.loglikelihood("hello", "world")
