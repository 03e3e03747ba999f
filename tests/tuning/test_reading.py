"""Learning a gate: the regressions, the states they see, and what comes of them on the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import Gate
from acd_core.chat import Chat
from acd_core.model.backbone import Backbone
from acd_core.tuning import pooled_regression, reading
from acd_core.tuning.anchors import bundled_instructions
from acd_core.tuning.dresses import begun, dress_named, dresses, texts
from acd_core.tuning.pooled_regression import auc, fit_pooled, pool
from acd_core.tuning.refusals import REFUSALS, language_of
from tests.core.tiny import family


def test_with_one_token_a_row_it_is_ridge_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(300) % 3 == 0).float()
    states = torch.randn(300, 6, generator=generator) + labels[:, None] * torch.tensor([1.0, 0.5, 0, 0, -1.0, 0])
    ridge = 0.05
    weight, bias = fit_pooled([row[None] for row in states], labels, ridge)
    # sklearn sums the loss and halves the penalty; its "balanced" weights add up to the number of rows.
    oracle = LogisticRegression(C=1 / (2 * ridge * 300), class_weight="balanced", tol=1e-8, max_iter=2000)
    scaled = StandardScaler()
    oracle.fit(scaled.fit_transform(states.numpy()), labels.numpy())
    found = states @ weight + bias
    expected = torch.tensor(oracle.decision_function(scaled.transform(states.numpy()))).float()
    assert float((found - expected).abs().max()) < 0.02
    assert auc(found, labels) == pytest.approx(roc_auc_score(labels.numpy(), found.numpy()))


def test_a_row_counts_as_its_highest_tokens() -> None:
    """One harmful stretch among harmless tokens is found, wherever it stands."""
    generator = torch.Generator().manual_seed(1)
    rows, labels = [], []
    for at in range(200):
        row = torch.randn(20 + at % 13, 8, generator=generator)
        if at % 2:
            row[at % 15 : at % 15 + 3, 0] += 4.0
        rows.append(row)
        labels.append(float(at % 2))
    weight, bias = fit_pooled(rows[:120], torch.tensor(labels[:120]), 0.01)
    assert auc(pool(rows[120:], weight, bias), torch.tensor(labels[120:])) > 0.97


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
def test_states_are_the_models_own(name: str) -> None:
    model, tokenizer = family(name)
    backbone, chat = Backbone.wrap(model, tokenizer), Chat(tokenizer)
    said = ["hello world", "the quick brown fox", "answer questions about user data", "a"]
    kinds = ("bare", "system text", "retrieval", "request first")
    some = [next(dress for dress in dresses() if dress.kind == kind) for kind in kinds]
    worn = [reading._worn(chat, text, dress, False) for text in said for dress in some]
    worn.append(replace(worn[0], ids=(*worn[0].ids, 5, 6, 7)))
    found = reading.hidden_states(backbone, worn, [1, 2], lambda _: None)
    for request, states in zip(worn, found):
        with torch.no_grad():
            whole = model(torch.tensor([request.ids]), output_hidden_states=True).hidden_states
        for layer, state in states.items():
            assert torch.allclose(state.float(), whole[layer][0, request.start :], atol=2e-2, rtol=1e-2)


def test_a_model_that_cannot_tell_gets_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = family("llama")
    few = {name: bundled_instructions(name)[:16] for name in ("safe", "unsafe", "more_safe", "more_unsafe")}
    monkeypatch.setattr(reading.anchor_data, "bundled_instructions", lambda name: few[name])
    validation = (bundled_instructions("validation_safe")[:12], bundled_instructions("validation_unsafe")[:12])
    monkeypatch.setattr(reading, "LEAST_AUC", 1.01)
    assert reading.gate_for(Backbone.wrap(model, tokenizer), validation, progress=False) is None


@pytest.mark.slow
def test_the_bundled_model_gets_a_gate_that_is_kept_while_a_run_lasts(tmp_path: Path) -> None:
    backbone = Backbone.load("reference", dtype="float32", device="cpu")
    safe, unsafe = bundled_instructions("validation_safe"), bundled_instructions("validation_unsafe")
    gate = reading.gate_for(backbone, (safe, unsafe), tmp_path, progress=False)
    assert isinstance(gate, Gate)
    assert gate.metrics["auc"] > 0.9
    assert gate.prompt.share() <= 2 * reading.SHARE + 0.01
    again = reading.gate_for(backbone, (safe, unsafe), tmp_path, progress=False)
    assert again is not None
    assert again.id == gate.id
    kept = reading.kept_gate(tmp_path)
    assert reading._read(kept, reading._made_of(backbone, (safe, unsafe), seed=1)) is None  # another run's
    kept.write_bytes(kept.read_bytes()[:-9])
    assert reading._read(kept, reading._made_of(backbone, (safe, unsafe), seed=0)) is None  # torn
    # What was learnt is what the engine reads.
    chat = Chat(backbone.tokenizer)
    worn = [reading._worn(chat, row.text, dresses()[0], False) for row in (*safe[:8], *unsafe[:8])]
    expected = reading.readings(backbone, gate, [row.ids for row in worn], [row.start for row in worn])
    with ContrastiveLM(backbone, PromptPair("be safe", "be bad", gate=gate)) as lm:
        for row, value in zip((*safe[:8], *unsafe[:8]), expected):
            said = lm.generate(row.text, max_tokens=1).report.gate
            assert said is not None
            assert said.reading == pytest.approx(value, abs=0.02)


def test_a_fit_in_small_parts_and_in_half_precision_is_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([float(at % 2) for at in range(40)])
    rows = [torch.randn(1 + at % 7, 16, generator=draw) + label for at, label in enumerate(labels)]
    weight, bias = fit_pooled(rows, labels, 0.1)
    whole = pool(rows, weight, bias)
    assert auc(whole, labels) > 0.9
    monkeypatch.setattr(pooled_regression, "PART", 1)  # less than one row: every row is a part of its own
    assert torch.allclose(pool(rows, *fit_pooled(rows, labels, 0.1)), whole, atol=1e-3)
    monkeypatch.setattr(pooled_regression, "HALVED", 0)
    assert torch.allclose(pool(rows, *fit_pooled(rows, labels, 0.1)), whole, atol=2e-2)
    halves = [row.half() for row in rows]
    assert torch.allclose(pool(halves, *fit_pooled(halves, labels, 0.1)), whole, atol=2e-2)


def test_dresses_hold_the_request_word_for_word_and_documents_say_nothing_of_it() -> None:
    for dress in dresses():
        messages = dress.wear("Name three rivers")
        assert messages[-1]["role"] == "user"
        assert "Name three rivers" in messages[-1]["content"]
        assert "{" + "request}" not in str(messages)
        assert "{" + "context}" not in str(messages)
        assert dress_named(dress.name).wear("x") == dress.wear("x")
    assert len({dress.name for dress in dresses()}) == len(dresses())
    data = texts()
    assert all(template.count("{request}") == template.count("{context}") == 1 for template in data["retrieval"])
    assert all(frame.count("{request}") == 1 for frame in data["frames"])
    for name in ("documents", "system_texts", "long_system_texts", "retrieval", "frames"):
        assert len(set(data[name])) == len(data[name])


def test_supplied_refusals_are_in_the_requests_language() -> None:
    for text, language in {
        "How do I bake bread?": "en",
        "Wie kann ich einen Kuchen backen?": "de",
        "Comment puis-je cuire du pain sans four ?": "fr",
        "¿Cómo puedo hacer pan sin horno?": "es",
        "Come posso fare il pane senza forno?": "it",
        "Como posso fazer pão sem forno?": "pt",
        "Hoe kan ik brood bakken zonder oven?": "nl",
        "12345": "en",
    }.items():
        assert language_of(text) == language
    assert all(len(texts) >= 2 for texts in REFUSALS.values())


def test_begun_replies_are_a_function_of_the_seed() -> None:
    from acd_core.tuning.anchors import AnchorPair

    pairs = [AnchorPair(f"u{n}", f"request {n}", True, "null", "No.", "refused") for n in range(60)]
    said = {f"u{n}": "one two three four five six seven eight nine ten" for n in range(60)}
    made = begun(pairs, said, 0)
    assert made == begun(pairs, said, 0) != begun(pairs, said, 1)
    assert 6 <= sum(bool(pair.begun) for pair in made) <= 26
    assert all(said[pair.id].startswith(pair.begun) and pair.begun != said[pair.id] for pair in made)
