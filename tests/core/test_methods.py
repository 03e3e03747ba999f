"""The table of methods: every row runs, says where it comes from, and does what its paper's equation says."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.learnt_files import KINDS
from acd_core.artifacts.refusal_bias import RefusalBias
from acd_core.artifacts.steering import Steering
from acd_core.bundled import ANCHOR_DIR
from acd_core.errors import UsageError
from acd_core.evaluation.benchmarks import BUNDLED, LOADERS, load_benchmark
from acd_core.evaluation.items import check_overlap
from acd_core.methods import prompts, rules
from acd_core.methods.rules import Strength
from acd_core.methods.table import METHODS, Fidelity, Method, Slot, Stream, method_named
from acd_core.model.backbone import Backbone
from acd_core.params import GenerationParams
from benchmarks import methods_page
from tests.core.test_experts import TARGETS, random_expert
from tests.core.tiny import BASE, stock_greedy, tokenizer
from tests.public_data import public_data

NEW = 14
ASKED = [
    "hello world",
    [{"role": "system", "content": "answer"}, {"role": "user", "content": "user data?"}],
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "safe systems"},
        {"role": "user", "content": "the fox"},
    ],
]
ROSES = ("rose", "rose-opposite-replace", "rose-rand-words")


@functools.cache
def roomy() -> tuple[Any, Any]:
    """A tiny Llama whose context holds the papers' prompts."""
    made = tokenizer("llama3")
    settings = {**BASE, "max_position_embeddings": 2048, "num_hidden_layers": 2}
    config = LlamaConfig(**settings, vocab_size=len(made) + 8, eos_token_id=made.eos_token_id, bos_token_id=1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.pad_token_id = 0
    return model, made


def given(backbone: Backbone, kind: str) -> Any:
    """What a row of `expert_kind` runs under, drawn at random."""
    if kind == "lora":
        return random_expert(backbone, TARGETS["llama"])
    generator = torch.Generator().manual_seed(4)
    if kind == "tsdi":
        return RefusalBias(torch.randn(backbone.vocab_size, generator=generator, dtype=torch.float32) * 4.0)
    one, two = (torch.randn(1, backbone.embedding_width, generator=generator, dtype=torch.float32) for _ in range(2))
    if kind == "scans":
        return Steering("scans", (1,), one, 2.0, read=(2,), transitions=two)
    return Steering("alphasteer", (1,), one, 2.0, readers=two)


def everything(kind: str = "lora", **options: Any) -> ContrastiveLM:
    """An LM with a soft pair and an expert of `kind`, so that every row that needs no other can run."""
    backbone = Backbone.wrap(*roomy(), "roomy")
    generator = torch.Generator().manual_seed(3)
    scale = float(backbone.model.get_input_embeddings().weight.detach().std())
    vectors = (torch.randn(n, backbone.embedding_width, generator=generator) * scale for n in (7, 11))
    pair = PromptPair.from_tensors(*vectors, backbone=backbone, alpha=0.4)
    return ContrastiveLM(backbone, pair, expert=given(backbone, kind), **options)


def next_logits(model: Any, ids: tuple[int, ...], said: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[*ids, *said]]), use_cache=False).logits[:, -1].float()  # type: ignore[no-any-return]


def greedy(step: Any, ends: frozenset[int]) -> list[int]:
    said: list[int] = []
    while len(said) < NEW:
        token = int(step(said).argmax())
        if token in ends:
            break
        said.append(token)
    return said


def test_every_row_names_its_source_and_a_rule_that_exists() -> None:
    for name, method in METHODS.items():
        assert name == method.name
        assert len(method.source) > 15
        assert method.rule in rules.RULES.values()
        assert 0.0 <= method.alpha < 1.0
        assert method.contrasts or method.alpha == 0.0
        if method.contrasts:
            assert "z" in method.source or "p + a" in method.source, f"{name}: no equation"
    assert {method.streams[0].prompt for method in METHODS.values()} >= {
        Slot.NOTHING,
        Slot.PAIR_SAFE,
        prompts.SAFE_PROMPT,
    }


def test_the_authors_defaults() -> None:
    assert METHODS["rose"].alpha == 0.5
    assert METHODS["instructive-opposite"].alpha == 0.3
    self_cd, adacd, safedecoding = METHODS["self-cd"], METHODS["adacd"], METHODS["safedecoding"]
    assert 1 / (1 - self_cd.alpha) == pytest.approx(2.5)
    assert (1 / (1 - adacd.alpha), adacd.plausibility, adacd.contrast_tokens) == (pytest.approx(4.5), 0.01, 10)
    assert safedecoding.alpha / (1 - safedecoding.alpha) == pytest.approx(3.0)
    assert (safedecoding.contrast_tokens, rules.COMMON_TOKENS, rules.AGREEMENT) == (2, 5, 0.9)
    assert prompts.SAFE_PROMPT.startswith(prompts.SELF_CD_SAFE)


def test_every_row_runs_and_reports_itself() -> None:
    replies = {}
    for kind in KINDS:
        with everything(kind, allow_adversarial=True) as lm:
            for name, method in METHODS.items():
                if method.expert_kind != kind:
                    continue
                reply = lm.generate(ASKED[0], max_tokens=NEW, method=name)
                replies[name] = reply.token_ids
                assert reply.report.method == name
                spoken = len(reply.token_ids) + (reply.finish_reason == "stop")
                wanted = spoken if method.contrast_tokens is None else min(spoken, method.contrast_tokens)
                assert reply.report.contrasted_tokens == (wanted if method.contrasts else 0), name
    assert set(replies) == set(METHODS)
    assert len(set(replies.values())) > len(METHODS) // 2, "most rows say the same: nothing is tested"


def test_alpha_zero_is_the_kept_prompt_alone_in_every_row() -> None:
    with everything(allow_adversarial=True) as lm:
        for name, method in METHODS.items():
            first = method.streams[0].prompt
            if not method.contrasts or first in (Slot.PAIR_SAFE, Slot.PAIR_ADVERSARIAL):
                continue
            off = lm.generate(ASKED[0], max_tokens=NEW, method=name, alpha=0.0, plausibility=0.5)
            prompt = first if isinstance(first, str) else None
            ids = list(lm.chat.layout(ASKED[0], prompt, wrap_user=method.wrap_user).ids)
            assert list(off.token_ids) == stock_greedy(lm.backbone.model, ids, NEW), name
            assert off.report.contrasted_tokens == 0


@pytest.mark.parametrize("name", ROSES)
def test_rose_is_classifier_free_guidance(name: str) -> None:
    """g = 1 / (1 - alpha), by transformers' own processor, greedily."""
    model = roomy()[0]
    method = METHODS[name]
    reverse = method.streams[1].prompt
    assert isinstance(reverse, str)
    with ContrastiveLM.from_model(*roomy(), method=name) as lm:
        replies = lm.generate(ASKED, max_tokens=NEW)
        for item, reply in zip(ASKED, replies):
            kept, other = lm.chat.layout(item, prompts.SAFE_PROMPT).ids, lm.chat.layout(item, reverse).ids
            guide = UnbatchedClassifierFreeGuidanceLogitsProcessor(
                1 / (1 - method.alpha),
                model,
                unconditional_ids=torch.tensor([other]),
                unconditional_attention_mask=torch.ones(1, len(other), dtype=torch.long),
            )
            expected = stock_greedy(model, list(kept), NEW, logits_processor=LogitsProcessorList([guide]))
            assert list(reply.token_ids) == expected
            assert expected != stock_greedy(model, list(kept), NEW)


def test_self_cd_is_its_papers_formula() -> None:
    """y - 2.5 (y - y'): y under the safety prompt, y' without."""
    model = roomy()[0]
    with ContrastiveLM.from_model(*roomy(), method="self-cd") as lm:
        for item in ASKED:
            with_prompt, without = lm.chat.layout(item, prompts.SELF_CD_SAFE).ids, lm.chat.layout(item).ids

            def step(said: list[int], y: Any = with_prompt, z: Any = without) -> torch.Tensor:
                first, second = next_logits(model, y, said), next_logits(model, z, said)
                return first - 2.5 * (first - second)

            assert list(lm.generate(item, max_tokens=NEW).token_ids) == greedy(step, lm.backbone.eos_ids)


def test_adacd_is_its_authors_loop() -> None:
    """Written out as the authors' code does: argsort for the rank, two candidate scores, the mask, ten steps."""
    model = roomy()[0]
    sides: set[bool] = set()
    with ContrastiveLM.from_model(*roomy(), method="adacd") as lm:
        for item in ASKED:
            prompted, plain = lm.chat.layout(item, prompts.ADACD_REFUSE).ids, lm.chat.layout(item).ids

            def step(said: list[int], y: Any = prompted, x: Any = plain) -> torch.Tensor:
                z = next_logits(model, x, said)
                if len(said) >= 10:
                    return z
                zp = next_logits(model, y, said)
                rank = z.argsort(dim=-1, descending=True).eq(zp.argmax(dim=-1, keepdim=True)).int().argmax(dim=-1)
                p, pp = z.softmax(-1), zp.softmax(-1)
                agrees = bool((1.0 / (rank + 1) >= 0.9).all() and (p.max() >= 0.9 * pp.max()))
                sides.add(agrees)
                scores = zp + 4.5 * (zp - z) if agrees else zp - 4.5 * (zp - z)
                return scores.masked_fill(p < 0.01 * p.max(), -torch.inf)

            reply = lm.generate(item, max_tokens=NEW)
            assert list(reply.token_ids) == greedy(step, lm.backbone.eos_ids)
            assert reply.report.contrasted_tokens == min(10, len(reply.token_ids) + (reply.finish_reason == "stop"))
    assert sides == {True, False}, "only one of the two modes was met"


def test_every_knob_of_acd_acts() -> None:
    with everything() as lm:
        plain = lm.generate(ASKED[0], max_tokens=NEW, seed=5, temperature=1.0)
        assert plain.report.alpha == 0.4
        changed = {
            "alpha": 0.8,
            "plausibility": 0.5,
            "contrast_tokens": 3,
            "rescale": False,
        }
        for knob, value in changed.items():
            reply = lm.generate(ASKED[0], max_tokens=NEW, seed=5, temperature=1.0, **{knob: value})
            assert reply.token_ids != plain.token_ids, knob
        unscaled = lm.generate(ASKED[0], max_tokens=NEW, rescale=False)
        assert unscaled.token_ids == lm.generate(ASKED[0], max_tokens=NEW).token_ids  # greedy does not see the scale


def test_a_call_may_overrule_the_methods_own_settings() -> None:
    with everything() as lm:
        own = lm.generate(ASKED[0], max_tokens=NEW, method="adacd")
        longer = lm.generate(ASKED[0], max_tokens=NEW, method="adacd", contrast_tokens=100)
        assert longer.report.contrasted_tokens > own.report.contrasted_tokens == 10
        unmasked = lm.generate(ASKED[0], max_tokens=NEW, method="adacd", plausibility=0.0)
        assert unmasked.token_ids != own.token_ids


def test_an_unknown_method_and_a_guarded_one() -> None:
    with pytest.raises(UsageError, match="self-cd"):
        method_named("selfcd")
    with pytest.raises(UsageError, match="allow-adversarial"):
        method_named("ap")


def test_a_pair_recommends_its_head_and_how_long_the_contrast_lasts() -> None:
    """Request, then the method's own, then the pair, then the default."""
    with everything() as lm:
        assert lm.pair is not None
        advised = replace(lm.pair, plausibility=0.2, contrast_tokens=3)
        asked = [lm.generate("hello world", max_tokens=NEW, plausibility=0.2, contrast_tokens=3), lm.generate("hello")]
        with ContrastiveLM(lm.backbone, advised, expert=lm.expert) as other:
            same = other.generate("hello world", max_tokens=NEW)
            assert (same.token_ids, same.report) == (asked[0].token_ids, asked[0].report)
            assert same.report.contrasted_tokens == 3
            undone = other.generate("hello", plausibility=0.0, contrast_tokens=10**6)
            assert (undone.token_ids, undone.report) == (asked[1].token_ids, asked[1].report)
            planner = other._planner
            found = {
                name: planner.head_and_window(METHODS[name], GenerationParams())
                for name in ("acd", "sp-null", "sp", "rose", "adacd", "safedecoding")
            }
    assert found["acd"] == found["sp-null"] == (0.2, 3)
    assert found["sp"] == found["rose"] == (0.0, None)
    assert found["adacd"] == (0.01, 10)
    assert found["safedecoding"] == (0.0, 2)


# --- how far each row is its paper's, and the page that says so ---


def test_every_row_states_how_far_it_is_its_papers() -> None:
    for name, method in METHODS.items():
        assert method.fidelity is not None, f"{name}: fidelity=Fidelity.FAITHFUL, SIMPLIFIED or VARIANT"
        assert bool(method.departs) == (method.fidelity is not Fidelity.FAITHFUL), name
        assert not method.departs or len(method.departs) > 25, name
    assert {method.fidelity for method in METHODS.values()} == set(Fidelity)


@pytest.mark.parametrize(("level", "departs"), [(Fidelity.FAITHFUL, "x"), (Fidelity.VARIANT, ""), (None, "x")])
def test_departures_go_with_a_row_that_departs(level: Fidelity | None, departs: str) -> None:
    with pytest.raises(UsageError, match="the two go together"):
        Method("mine", (Stream(),), "z of a test's own", fidelity=level, departs=departs)


def test_the_page_of_methods_is_up_to_date() -> None:
    written = methods_page.PAGE.read_text(encoding="utf-8")
    assert written == methods_page.current(), "python -m benchmarks.methods_page writes docs/methods.md anew"


def test_equations_are_those_that_run() -> None:
    rose, acd, safedecoding, sp = (METHODS[name] for name in ("rose", "acd", "safedecoding", "sp"))
    assert methods_page.equation(rose) == "z(SAFE_PROMPT) - 0.5 z(MANUAL_REVERSE)"
    assert methods_page.equation(acd) == "z(SP) - 0.4 z(AP)"
    assert methods_page.equation(sp) == "z(SP)"
    expert = "z(no prompt, under a LoRA adapter)"
    assert methods_page.equation(safedecoding) == f"intersect(z(no prompt), {expert}; alpha 0.75)"
    three = (Stream(), Stream("A", weight=3.0), Stream(Slot.PAIR_ADVERSARIAL))
    fading = Strength(lambda moment: 0.1, 0.0, 0.5, "fading")
    mine = Method("mine", three, "z of a test's own", alpha=0.5, strength=fading, wrap_user="<{}>")
    mix = "(0.75 z(a text, user turn framed) + 0.25 z(AP, user turn framed))"
    assert methods_page.equation(mine) == f"z(no prompt, user turn framed) - alpha_t {mix}"
    assert (methods_page.needs(mine), methods_page.rows(mine)) == ("a pair", "3")
    assert methods_page.needs(safedecoding) == "a LoRA adapter"
    assert methods_page.rows(safedecoding) == "2, first 2 tokens, then 1"


def test_figures_are_those_of_the_ungated_arm_and_a_dash_elsewhere() -> None:
    def row(arm: str, gate: str | None, benchmark: str, value: float) -> dict[str, Any]:
        rate = {"value": value, "low": 0.0, "high": 1.0, "count": 1, "total": 7}
        kind = "harmful" if benchmark == "advbench" else "harmless"
        method = arm.split()[0].partition("@")[0]
        return {"arm": arm, "method": method, "gate": gate, "benchmark": benchmark, "kind": kind, "refused": rate}

    arms = [("rose", "on"), ("rose gate=off", "off"), ("none", None), ("rose@0.3", None)]
    rows = [row(*arm, name, 0.1 * at) for at, arm in enumerate(arms) for name in ("advbench", "everyday")]
    means = [
        {"arm": arm, "harmless_rate": {"mean": 0.2 * at, "low": 0.0, "high": 1.0}} for at, (arm, _) in enumerate(arms)
    ]
    report = {"header": {"judge": "j", "max_tokens": 5}, "rows": rows, "summaries": means}
    found = methods_page.page({name: METHODS[name] for name in ("none", "rose", "sp")}, report)
    assert "| `rose` | .20 (.00-1.00) | .10 (.00-1.00) | - | - |" in found
    assert "| `none` | .40 (.00-1.00) | .20 (.00-1.00) | - | - |" in found
    assert "| `sp` | - | - | - | - |" in found


# --- exaggerated-safety prompting ---


@pytest.mark.parametrize("name", ["contextual-prompting", "few-shot-prompting"])
def test_exaggerated_safety_prompting_is_its_text_around_every_request(name: str) -> None:
    frame = METHODS[name].wrap_user
    assert frame is not None
    assert frame.count("{}") == 1
    with ContrastiveLM.from_model(*roomy(), method=name) as lm:
        for text in ("hello world", "user data?"):
            framed = frame.replace("{}", text)
            wanted = lm.generate(framed, max_tokens=NEW, method="none")
            assert lm.generate(text, max_tokens=NEW).token_ids == wanted.token_ids
            assert wanted.token_ids != lm.generate(text, max_tokens=NEW, method="none").token_ids


def test_the_few_shot_frame_is_questions_with_their_answers() -> None:
    examples = (prompts.Demonstration("q1", "a1"), prompts.Demonstration("q2", "a2"))
    wanted = "Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\nQuestion: {}\nAnswer:"
    assert prompts.few_shot_frame(examples) == wanted
    assert prompts.FEW_SHOT_FRAME.count("Question: ") == len(prompts.HARMLESS_EXAMPLES) + 1


def test_the_examples_are_in_no_test_set_and_no_anchor() -> None:
    data = public_data("eval")
    there = [name for name, each in LOADERS.items() if any((data / file).is_file() for file in each.files)]
    asked = [each.user for each in prompts.HARMLESS_EXAMPLES]
    check_overlap(asked, [load_benchmark(name) for name in (*there, *BUNDLED)])
    anchors = "".join(path.read_text(encoding="utf-8") for path in ANCHOR_DIR.glob("*.jsonl"))
    assert not any(text in anchors for text in asked)
