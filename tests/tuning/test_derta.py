"""DeRTa: its rows and losses by hand, an adapter that turns around in the middle, and prompts that do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM
from acd_core.artifacts.lora import Expert
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning import OBJECTIVES, AnchorPair, Instruction, gradient_runner, loop
from acd_core.tuning.anchors import split_pairs
from acd_core.tuning.derta import rows_of, train_derta
from acd_core.tuning.examples import NOT_WANTED, EncodedRequest, Encoder, Example, Row
from acd_core.tuning.gradients import step_gradients, step_losses
from acd_core.tuning.lora_adapter import ALL_TARGETS, LoraAdapter, targets_of
from acd_core.tuning.objectives import ADAPTER_OBJECTIVES
from acd_core.tuning.preparing import split_for
from acd_core.tuning.settings import DertaSettings
from acd_core.tuning.turning import TurningPair, turning
from tests.core.gated import ALWAYS, NEVER, PROMPTS, gate, open_lm
from tests.core.test_experts import random_expert
from tests.core.tiny import applied
from tests.tuning.test_trainables import check_derivative, trained

QUICK: dict[str, Any] = {"rank": 4, "batch": 6, "epochs": 2, "reply_tokens": 10, "lr": 2e-2, "progress": False}
Make = Callable[..., Backbone]


def encoder_of(backbone: Backbone) -> Encoder:
    return Encoder(backbone, Chat(backbone.tokenizer))


def log_likelihood(backbone: Backbone, expert: Expert | None, ids: tuple[int, ...], behind: tuple[int, ...]) -> float:
    """Mean log P of the tokens `behind`, `ids` being before them."""
    with torch.inference_mode(), applied(backbone.model, [expert]):
        logs = backbone.model(torch.tensor([[*ids, *behind]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    return float(logs.gather(1, torch.tensor(behind)[:, None]).mean())


# --- rows ---


def test_a_transition_wants_the_opening_of_a_refusal_at_every_position(tiny: Make, pairs: list[AnchorPair]) -> None:
    encoder, chat = encoder_of(tiny()), Chat(tiny().tokenizer)
    pair = turning(split_pairs(pairs), 0).transition[3]
    row = encoder.example(pair, 10)
    (refusal,) = pair.refusals
    assert refusal.text == pair.text
    assert row.reply == chat.encode_text(pair.reply)[:10]
    decode = tiny().tokenizer.decode
    inside = next(each for each in chat.encode_text(" " + refusal.reply) if decode([each]).strip())
    assert row.instead == (chat.encode_text(refusal.reply)[0], *[inside] * (len(row.reply) - 1))


def test_several_openings_share_the_target_mass_as_the_refusals_begin_with_them(tiny: Make) -> None:
    made = [AnchorPair("u", "an aim", True, "null", reply, "refused") for reply in ("I no.", "I won't.", "Sorry.")]
    said = AnchorPair("u", "an aim", True, "null", "abcdefghijklmnopqrstuvwxyz" * 3, "accepted")
    pair = TurningPair(**vars(said), refusals=tuple(made), turn="transition", draw="0")
    backbone = tiny()
    row = encoder_of(backbone).example(pair, 31)
    said_there = [backbone.tokenizer.decode([token]).strip() for token in row.instead]
    assert len(row.instead) == 31
    assert [sum(text == kind for text in said_there) for kind in ("I", "S")] in ([20, 11], [21, 10])


def test_dropout_of_positions_leaves_that_share_and_never_none(tiny: Make, pairs: list[AnchorPair]) -> None:
    encoder = encoder_of(tiny())
    rows = [encoder.example(pair, 10) for pair in turning(split_pairs(pairs), 0, draws=20, kept=0.3).transition]
    share = sum(row.supervised() for row in rows) / sum(len(row.reply) for row in rows)
    assert share == pytest.approx(0.3, abs=0.05)
    none = turning(split_pairs(pairs), 0, kept=1e-9).transition
    assert {encoder.example(pair, 10).supervised() for pair in none} == {1}


def test_a_prefix_is_of_any_length_and_is_not_supervised(tiny: Make, pairs: list[AnchorPair]) -> None:
    encoder, chat = encoder_of(tiny()), Chat(tiny().tokenizer)
    lengths = []
    for pair in turning(split_pairs(pairs), 0, draws=60).begun:
        row, bare = encoder.example(pair, 10), encoder.request(pair.text)
        head = row.request.plain[len(bare.plain) :]
        said = chat.encode_text(pair.reply)[:10]
        assert row.request.after == (*bare.after, *head)
        assert head == said[: len(head)]
        refusal = (*chat.encode_text((" " if head else "") + pair.refusals[0].reply), encoder.closing)
        assert (row.reply, row.instead) == (refusal[:10], ())
        lengths.append((len(head), len(said)))
    # k is uniform in {0..|h|}: its mean is half of |h|, and both ends occur.
    assert sum(k / n for k, n in lengths) / len(lengths) == pytest.approx(0.5, abs=0.03)
    assert {0, 1} <= {k / n for k, n in lengths}


def test_rows_are_drawn_by_seed_and_cut_to_what_is_asked(pairs: list[AnchorPair]) -> None:
    split = rows_of(pairs, DertaSettings(most=9, epochs=3))
    assert (len(split.accepted), len(split.begun), len(split.transition), len(split.harmless)) == (9, 27, 27, 9)
    assert len({pair.draw for pair in split.begun}) == 27
    assert rows_of(pairs, DertaSettings(most=9, epochs=3)) == split
    assert rows_of(pairs, DertaSettings(most=9, epochs=3, seed=1)) != split
    alone = rows_of(pairs, DertaSettings(most=9, epochs=3, kinds="prefix"))
    assert len(alone.begun) == 54  # as many harmful rows as with both kinds


def test_too_little_to_learn_from(pairs: list[AnchorPair]) -> None:
    refusing = [pair for pair in pairs if pair.label == "refused" or not pair.harmful]
    with pytest.raises(TuningError, match="0 harmful replies"):
        rows_of(refusing, DertaSettings())
    with pytest.raises(TuningError, match="0 answers to harmless"):
        rows_of([pair for pair in pairs if pair.harmful], DertaSettings())


# --- losses ---


def test_each_loss_by_hand(tiny: Make) -> None:
    """-log P summed by torch on whole sequences, against the terms of the objective."""
    backbone = tiny("gpt_neox", torch.float64)
    request = EncodedRequest((7, 8), (5, 6, 7, 8))
    adapter = trained("lora", backbone)
    assert isinstance(adapter, LoraAdapter)
    rows = [
        Row("harmless_accepted", Example(request, (9, 10)), 1.0),
        Row("begun", Example(EncodedRequest((7, 8, 30), (5, 6, 7, 8, 30)), (11, 12, 13)), 1.0),
        Row("transition", Example(request, (30, 31, 32, 33), (20, NOT_WANTED, 21, 20)), 1.0),
    ]
    found = step_losses(backbone, adapter, ADAPTER_OBJECTIVES["derta"], rows)

    class Under:
        id, check = "", staticmethod(lambda _: None)
        changes = adapter.intervention(learning=False).changes

    def logs(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode(), applied(backbone.model, [Under()]):
            return backbone.model(torch.tensor([ids])).logits[0].log_softmax(-1)  # type: ignore[no-any-return]

    helpful = logs((5, 6, 7, 8, 9, 10))
    assert found["helpful"] == pytest.approx(-float(helpful[3, 9] + helpful[4, 10]) / 2, rel=1e-6)
    prefix = logs((5, 6, 7, 8, 30, 11, 12, 13))
    assert found["prefix"] == pytest.approx(-float(prefix[4, 11] + prefix[5, 12] + prefix[6, 13]) / 3, rel=1e-6)
    turned = logs((5, 6, 7, 8, 30, 31, 32, 33))
    assert found["transition"] == pytest.approx(-float(turned[3, 20] + turned[5, 21] + turned[6, 20]) / 3, rel=1e-6)
    assert found["total"] == pytest.approx(found["helpful"] + found["prefix"] + found["transition"])


@pytest.mark.parametrize("kind", ["lora", "soft prompts"])
def test_gradients_of_rows_with_targets_of_their_own(kind: str, tiny: Make, pairs: list[AnchorPair]) -> None:
    backbone = tiny("gpt_neox", torch.float64)
    plan = ADAPTER_OBJECTIVES["derta"] if kind == "lora" else OBJECTIVES["derta-joint"]
    split, encoder = turning(split_pairs(pairs), 0, kept=0.5), encoder_of(backbone)
    rows = [Row(data, each, 0.5) for data, found in encoder.classes(split, plan, 6).items() for each in found[:2]]
    trainable = trained(kind, backbone)
    check_derivative(backbone, trainable, plan, rows)
    whole, parts = (step_gradients(backbone, trainable, plan, rows, micro=micro) for micro in (None, 1))
    assert parts.losses == pytest.approx(whole.losses)


# --- the adapter ---


@pytest.fixture(scope="module")
def adapter(tiny: Make, pairs: list[AnchorPair]) -> Expert:
    return train_derta(tiny(), pairs, **QUICK)


def test_a_begun_reply_turns_around_and_helpful_ones_stay(tiny: Make, pairs: list[AnchorPair], adapter: Expert) -> None:
    backbone = tiny()
    encoder, chat = encoder_of(backbone), Chat(backbone.tokenizer)
    gains, kept = [], []
    for pair in pairs:
        request = encoder.request(pair.text).plain
        said = chat.encode_text(pair.reply)
        if pair.harmful and pair.label == "accepted":
            refusal = chat.encode_text(" I cannot")
            for length in (2, 4, 6):
                ids = (*request, *said[:length])
                gains.append(
                    log_likelihood(backbone, adapter, ids, refusal) - log_likelihood(backbone, None, ids, refusal)
                )
        elif not pair.harmful:
            kept.append(
                log_likelihood(backbone, adapter, request, said) - log_likelihood(backbone, None, request, said)
            )
    assert min(gains) > 0.5
    assert sum(kept) / len(kept) > -0.05
    metrics = adapter.metrics
    assert metrics["method"] == "derta"
    for name in ("helpful", "prefix", "transition"):
        assert metrics[f"{name}_after"] < metrics[f"{name}_before"], name


def test_the_ablation_trains_one_kind_alone(tiny: Make, pairs: list[AnchorPair]) -> None:
    for kinds, other in (("prefix", "transition"), ("transition", "prefix")):
        metrics = train_derta(tiny(), pairs, kinds=kinds, modules="attention", **QUICK).metrics
        assert metrics[f"{kinds}_after"] < metrics[f"{kinds}_before"]
        assert f"{other}_after" not in metrics
        assert metrics["kinds"] == kinds


def test_the_seed_fixes_the_adapter(tiny: Make, pairs: list[AnchorPair], adapter: Expert) -> None:
    assert train_derta(tiny(), pairs, **QUICK).id == adapter.id
    assert train_derta(tiny(), pairs, seed=1, **QUICK).id != adapter.id


def test_killed_and_resumed_equals_uninterrupted(
    tiny: Make, pairs: list[AnchorPair], adapter: Expert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    out, calls = tmp_path / "adapter", [0]

    def dying(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return step_gradients(*args, **named)

    monkeypatch.setattr(gradient_runner, "step_gradients", dying)
    with pytest.raises(KeyboardInterrupt):
        train_derta(tiny(), pairs, out=out, **QUICK)
    assert not out.exists()
    assert train_derta(tiny(), pairs, out=out, **QUICK).id == adapter.id
    assert calls[0] == 6 + adapter.metrics["steps"] - 4
    assert Expert.load(out).id == adapter.id
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert "bad aim" not in "".join(path.read_text(errors="replace") for path in out.iterdir())


def test_the_model_is_asked_where_no_anchors_are_given(tiny: Make, tmp_path: Path) -> None:
    class Complying:
        name = "complying"

        def judge(self, prompt: str, completion: str) -> Any:
            return type("Verdict", (), {"refused": False})()

    asked = {
        "safe": [Instruction(f"s{index}", f"a kind wish {index}") for index in range(9)],
        "unsafe": [Instruction(f"u{index}", f"an ill wish {index}") for index in range(9)],
    }
    out = tmp_path / "adapter"
    made = train_derta(tiny(), **asked, judge=Complying(), out=out, refusals=["No, never."], **QUICK)
    assert made.metrics["prefix_after"] < made.metrics["prefix_before"]
    kept = (tmp_path / "adapter.training" / "replies.jsonl").read_text().splitlines()
    assert len(kept) == 18


def test_impossible_settings(tiny: Make, pairs: list[AnchorPair]) -> None:
    for wrong in ({"kinds": "all"}, {"kept": 0.0}, {"modules": "mlp"}, {"batch": 2}, {"helpful": 0.0}, {"ranks": 1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            train_derta(tiny(), pairs, **{**QUICK, **wrong})


@pytest.mark.parametrize(("kind", "count"), [("llama", 7), ("gpt_neox", 4)])
def test_all_projections_of_the_layers_are_adapted(kind: str, count: int, tiny: Make) -> None:
    names = targets_of(tiny(kind), ALL_TARGETS)
    assert len(names) == 2 * count
    assert not any(name.endswith(("lm_head", "embed_out")) for name in names)


def test_its_methods_are_their_equations(tiny: Make, adapter: Expert, run: Any) -> None:
    """derta: z under the adapter. derta-acd: (z'(SP) - alpha z(AP)) / (1 - alpha), z' under it, z without it."""
    backbone = tiny()
    pair = replace(run(backbone).pair, alpha=0.4)
    encoder = encoder_of(backbone)
    ids = encoder.request("a kind wish")

    def scores(rows: Any, expert: Expert | None) -> torch.Tensor:
        with torch.inference_mode(), applied(backbone.model, [expert]):
            return backbone.model(inputs_embeds=rows[None], use_cache=False).logits[0, -1]  # type: ignore[no-any-return]

    def embedded(*ids: int) -> torch.Tensor:
        return backbone.embed(torch.tensor(ids, dtype=torch.long)).detach()

    with ContrastiveLM(backbone, pair, expert=adapter) as lm:
        plain, alone, joined = (
            lm.generate("a kind wish", method=name, max_tokens=6).token_ids for name in ("none", "derta", "derta-acd")
        )
    assert plain != alone != joined
    for at, token in enumerate(alone):
        assert int(scores(embedded(*ids.plain, *alone[:at]), adapter).argmax()) == token
    for at, token in enumerate(joined):
        kept, other = (
            torch.cat([embedded(*encoder.before), prompt, embedded(*ids.after, *joined[:at])])
            for prompt in (pair.safeguarding, pair.adversarial)
        )
        assert int((scores(kept, adapter) - 0.4 * scores(other, None)).argmax()) == token


def test_behind_a_gate_it_acts_where_the_gate_opens() -> None:
    with open_lm(found=gate(NEVER, None)) as lm:
        model = lm.backbone
    expert = random_expert(model, ("q_proj", "v_proj"))
    for level, opened in ((NEVER, False), (ALWAYS, True)):
        with open_lm(found=gate(level, None), expert=expert) as lm:
            plain = lm.generate(PROMPTS[2], method="none", max_tokens=8).token_ids
            for name in ("derta", "derta-acd"):
                free = lm.generate(PROMPTS[2], method=name, max_tokens=8, gate=False).token_ids
                assert free != plain
                assert lm.generate(PROMPTS[2], method=name, max_tokens=8).token_ids == (free if opened else plain)


# --- prompts ---


@pytest.mark.parametrize("name", ["derta", "derta-prefix", "derta-transition", "derta-joint", "derta-gated"])
def test_a_pair_learns_to_turn_around(name: str, tiny: Make, run: Any) -> None:
    tuned = run(tiny(), objective=name, steps=8, lr=0.1, validate_every=8, reply_tokens=8)
    first, last = tuned.history["steps"][0], tuned.history["steps"][-1]
    turns = [each for each in first if each.endswith(("/prefix", "/transition"))]
    assert turns
    for term in turns:
        assert last[term] < first[term]
    assert math.isfinite(last["total"])
    assert {term["data"] for term in tuned.history["terms"]} >= {"accepted", "harmless_accepted"}


def test_the_seed_fixes_the_rows_of_a_pair(pairs: list[AnchorPair]) -> None:
    plan = OBJECTIVES["derta"]
    assert split_for(pairs, plan, (), 0) == split_for(pairs, plan, (), 0) != split_for(pairs, plan, (), 1)
    few = [pair for pair in pairs if pair.label == "refused" or not pair.harmful]
    with pytest.raises(TuningError, match="turn away from"):
        split_for(few, plan, (), 0)
