"""TSDI: the bias written out without a cache, its row and no other, decoding, and the folder that it lies in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, LMSpec
from acd_core.artifacts import learnt
from acd_core.artifacts.refusal_bias import RefusalBias, output_layer
from acd_core.chat import Chat
from acd_core.errors import ExpertError, TuningError, UsageError
from acd_core.methods.prompts import SAFE_PROMPT
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import by_rows
from acd_core.tuning import AnchorPair, Instruction, bundled_instructions, refusal_bias
from acd_core.tuning.refusal_bias import TsdiSettings, estimated, random_prompts, train_refusal_bias
from acd_core.tuning.trainers import TRAINERS, TrainingData
from tests.core.test_experts import TARGETS, random_expert
from tests.core.tiny import family, stock_greedy

Make = Callable[..., Backbone]
POOL = [Instruction("s0", "bake warm bread"), Instruction("s1", "fold a blue shirt twice")]
FEW = TsdiSettings(prompts=5, words=3, tokens=4)


def written_out(model: Any, chat: Chat, asked: list[str], tokens: int, ends: frozenset[int]) -> torch.Tensor:
    """b by whole forwards: one prompt and one token at a time."""
    total = torch.zeros(model.config.vocab_size, dtype=torch.float64)
    for text in asked:
        under, bare = (list(chat.layout(text, prompt).ids) for prompt in (SAFE_PROMPT, None))
        said: list[int] = []
        changes = []
        with torch.no_grad():
            while len(said) < tokens:
                kept, plain = (
                    model(torch.tensor([[*ids, *said]]), use_cache=False).logits[0, -1].double().log_softmax(-1)
                    for ids in (under, bare)
                )
                changes.append(kept - plain)
                said.append(int(kept.argmax()))
                if said[-1] in ends:
                    break
        total += torch.stack(changes).mean(0) / len(asked)
    return (total - total.mean()).float()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_the_bias_is_the_mean_change_over_random_prompts(
    tiny: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny(kind)
    chat = Chat(backbone.tokenizer)
    asked = random_prompts(POOL, 5, 3, seed=0)
    wanted = written_out(backbone.model, chat, asked, 4, backbone.eos_ids)
    torch.testing.assert_close(estimated(backbone, asked, 4), wanted, atol=2e-4, rtol=1e-3)
    monkeypatch.setattr(refusal_bias, "ROWS", 2)
    torch.testing.assert_close(estimated(backbone, asked, 4), wanted, atol=2e-4, rtol=1e-3)
    ending = replace_ends(backbone, int(wanted.argmax()))
    once = written_out(backbone.model, chat, asked, 4, ending.eos_ids)
    torch.testing.assert_close(estimated(ending, asked, 4), once, atol=2e-4, rtol=1e-3)


def replace_ends(backbone: Backbone, token: int) -> Backbone:
    """The same model, whose replies end at another token too."""
    other = Backbone.wrap(backbone.model, backbone.tokenizer, "ending")
    other.eos_ids = frozenset({*backbone.eos_ids, token})
    return other


def test_random_prompts_are_words_without_sense() -> None:
    first = random_prompts(POOL, 4, 5, seed=1)
    assert first == random_prompts(POOL, 4, 5, seed=1) != random_prompts(POOL, 4, 5, seed=2)
    known = sorted("bake warm bread fold a blue shirt twice".split())
    assert all(len(text.split()) == 5 and set(text.split()) <= set(known) for text in first)
    assert sorted(random_prompts(POOL, 1, 8, seed=0)[0].split()) == known
    with pytest.raises(TuningError, match="hold 8 words; 9"):
        random_prompts(POOL, 1, 9, seed=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt-neox"])
def test_it_acts_on_its_rows_only(name: str) -> None:
    model, tokenizer = family(name)
    backbone = Backbone.wrap(model, tokenizer, name)
    bias = drawn(backbone)
    bias.check(backbone)
    ids = torch.randint(20, 300, (4, 6), generator=torch.Generator().manual_seed(0))
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.inference_mode():
        plain = backbone.forward(ids).logits
        mixed = backbone.forward(ids, interventions=by_rows([[], [bias], [], [bias]])).logits
        assert torch.equal(backbone.forward(ids).logits, plain)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(mixed[[1, 3]], plain[[1, 3]] - 0.5 * bias.bias, atol=1e-5, rtol=1e-5)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def drawn(backbone: Backbone) -> RefusalBias:
    vector = torch.randn(backbone.vocab_size, generator=torch.Generator().manual_seed(3)) * 8
    return RefusalBias(vector, 0.5, backbone.model_id, backbone.fingerprint)


def test_decoding_subtracts_it(tmp_path: Path) -> None:
    """The row "tsdi", greedy and scored, against the equation written out without a cache; alone and in a batch."""
    model, tokenizer = family("llama")
    backbone = Backbone.wrap(model, tokenizer, "llama")
    bias = drawn(backbone)
    asked = ["hello world", "the quick brown fox jumps"]
    with ContrastiveLM(backbone, expert=bias) as lm:
        assert lm.method == "tsdi"
        together = lm.generate(asked, max_tokens=8)
        for text, reply in zip(asked, together):
            ids, said = list(lm.chat.layout(text, SAFE_PROMPT).ids), []
            with torch.no_grad():
                while len(said) < 8:
                    scores = model(torch.tensor([[*ids, *said]]), use_cache=False).logits[0, -1] - 0.5 * bias.bias
                    said.append(int(scores.argmax()))
                    if said[-1] in backbone.eos_ids:
                        said.pop()
                        break
            assert list(reply.token_ids) == said != stock_greedy(model, ids, 8)
            assert lm.generate(text, max_tokens=8).token_ids == reply.token_ids
            assert lm.loglikelihood(text, said).is_greedy
        plain = lm.generate(asked[0], max_tokens=8, method="safe-prompt").token_ids
        assert list(plain) == stock_greedy(model, list(lm.chat.layout(asked[0], SAFE_PROMPT).ids), 8)
        with pytest.raises(UsageError, match="needs a LoRA adapter and TSDI's bias was given"):
            lm.generate("hello", method="adapter")
    expert = random_expert(backbone, TARGETS["llama"])
    with pytest.raises(UsageError, match="acd train tsdi --model llama"):
        ContrastiveLM(backbone, expert=expert, method="tsdi")
    folder = bias.save(tmp_path / "bias")
    assert LMSpec(model="reference", expert=folder).method_name == "tsdi"


def test_a_run_is_fixed_by_its_seed_and_kept(tiny: Make, tmp_path: Path) -> None:
    backbone, out = tiny(), tmp_path / "bias"
    made = [
        train_refusal_bias(backbone, safe=POOL, settings=replace(FEW, seed=seed), progress=False) for seed in (0, 0, 1)
    ]
    assert made[0].id == made[1].id != made[2].id
    saved = train_refusal_bias(backbone, out, safe=POOL, settings=FEW, progress=False)
    found = learnt.load(out)
    assert isinstance(found, RefusalBias)
    assert (found.id, found.fingerprint, found.strength) == (made[0].id, backbone.fingerprint, 1.0)
    assert found.metrics["prompts"] == 5
    assert found.metrics["raised"].count("'") >= 16
    assert learnt.digest(out) == found.digest is not None
    found.check(backbone)
    saved.save(out)  # one that is there is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bias"]
    with ContrastiveLM(backbone, expert=out) as lm:
        assert lm.generate("a wish", max_tokens=2).report.method == "tsdi"


def test_a_safe_texts_own_push_is_taken_back(tiny: Make) -> None:
    """On the random prompts themselves the debiased first token is, on the mean, the model's own."""
    backbone = tiny()
    chat, asked = Chat(backbone.tokenizer), random_prompts(POOL, 6, 4, seed=0)
    bias = RefusalBias(estimated(backbone, asked, 1))
    changes = []
    for text in asked:
        under, bare = (torch.tensor([chat.layout(text, prompt).ids]) for prompt in (SAFE_PROMPT, None))
        with torch.no_grad():
            kept = backbone.forward(under, last=1, interventions=[(bias, None)]).logits[0, -1]
            changes.append(kept - backbone.forward(bare, last=1).logits[0, -1])
    mean = torch.stack(changes).mean(0)
    torch.testing.assert_close(mean - mean.mean(), torch.zeros_like(mean), atol=1e-4, rtol=0.0)


def test_what_cannot_be(tiny: Make, tmp_path: Path) -> None:
    backbone = tiny()
    for wrong in ({"prompts": 0}, {"tokens": 0}, {"strength": 0.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            TsdiSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ExpertError, match="no vector of finite"):
        RefusalBias(torch.tensor([1.0, float("nan")]))
    bias = RefusalBias(torch.ones(backbone.vocab_size - 1))
    with pytest.raises(ExpertError, match=f"{backbone.vocab_size - 1} tokens"):
        bias.check(backbone)
    folder = drawn(backbone).save(tmp_path / "bias")
    with pytest.raises(ExpertError, match="was made for 'tiny-llama'"):
        learnt.load(folder).check(tiny("qwen3"))
    (folder / "expert.json").write_text("{}")
    with pytest.raises(ExpertError, match=r"a bias \(refusal_bias.json\) and a LoRA adapter \(expert.json\)"):
        learnt.load(folder)
    document = json.loads((folder / "refusal_bias.json").read_text())
    for change, said in (({"format_version": 9}, "format version 9"), ({"strength": "much"}, "strength 'much'")):
        (folder / "refusal_bias.json").write_text(json.dumps(document | change))
        with pytest.raises(ExpertError, match=said):
            RefusalBias.load(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    with pytest.raises(ExpertError, match="diary"):
        train_refusal_bias(backbone, tmp_path / "mine", safe=POOL, settings=FEW, progress=False)


def test_a_model_that_caps_its_logits_is_refused(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    forward = type(backbone.model).forward

    def capped(self: Any, *args: Any, **named: Any) -> Any:
        found = forward(self, *args, **named)
        found.logits = torch.tanh(found.logits / 5.0) * 5.0
        return found

    bias = drawn(backbone)
    monkeypatch.setattr(type(backbone.model), "forward", capped)
    with pytest.raises(ExpertError, match="a cap or a scale"):
        bias.check(backbone)
    monkeypatch.setattr(type(backbone.model), "get_output_embeddings", lambda _: None)
    with pytest.raises(ExpertError, match="no output layer"):
        output_layer(backbone.model)


def test_the_command_row(tiny: Make, pairs: list[AnchorPair]) -> None:
    row = TRAINERS["tsdi"]
    found = row.values(["prompts=3", "words=2", "tokens=2", "strength=0.5"], seed=1)
    made = row.run(tiny(), None, data=TrainingData(pairs=tuple(pairs)), seed=1, settings=found, progress=False)
    assert (made.strength, made.metrics["pool"], made.metrics["seed"]) == (0.5, 12, 1)
    bare = row.run(tiny(), None, data=TrainingData(), seed=1, settings=found, progress=False)
    assert bare.metrics["pool"] == len(bundled_instructions("safe"))
    for more in (TrainingData(unsafe=tuple(POOL)), TrainingData(refusals=("No.",))):
        with pytest.raises(UsageError, match="random words"):
            row.run(tiny(), None, data=more, seed=0, settings=found, progress=False)
