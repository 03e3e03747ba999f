"""What a gate may be set to, who decides, and how a pair keeps it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import GateRules, Levels
from acd_core.errors import GateError, PairError, PairMismatchError, UsageError
from acd_core.params import ContrastParams
from tests.core.gated import NEVER, gate, open_lm
from tests.core.tiny import family


def test_shares_and_thresholds() -> None:
    levels = Levels(tuple(float(each) for each in range(100)), (150.0, 50.0), 97.5)
    assert levels.share() == pytest.approx(0.02)
    assert levels.caught() == 0.5
    for share in (0.01, 0.02, 0.05, 0.5):
        assert levels.share(levels.at(share)) == pytest.approx(share)
    assert levels.at(1.0) == -math.inf


def test_the_operators_floor() -> None:
    rules = GateRules(gate(0.5), None, 0.34, 32)
    assert rules.of(ContrastParams()) is not None
    with pytest.raises(UsageError, match="floor"):
        rules.of(ContrastParams(gate=0.1))
    with pytest.raises(UsageError, match="recheck"):
        rules.of(ContrastParams(recheck=0))
    assert rules.of(ContrastParams(gate=False)) is None  # stricter: the method acts on all
    opening = GateRules(gate(NEVER), None, 0.34, 32).of(ContrastParams())
    assert opening is not None
    assert opening.threshold == gate(NEVER).prompt.at(0.34)  # the pair's own threshold would open for fewer
    assert opening.again == gate(NEVER).prompt.at(0.34)
    with pytest.raises(GateError):
        GateRules(None, True)
    with pytest.raises(GateError):
        GateRules(None).of(ContrastParams(gate=0.05))
    with pytest.raises(UsageError):
        GateRules(gate(0.0), 1.5)
    with open_lm(found=gate(0.5), gate_floor=0.34) as lm, pytest.raises(UsageError, match="floor"):
        lm.generate("hello", gate=0.1)
    with open_lm(found=gate(0.5), gate_floor=0.34) as lm:
        with pytest.raises(UsageError, match="without a method"):
            lm.generate("hello", method="none")
        with pytest.raises(UsageError, match="graded"):
            lm.generate("hello", graded=True)


def test_a_pair_keeps_its_gate(tmp_path: Path) -> None:
    found = replace(gate(0.25, 0.5), metrics={"auc": 0.98}, base_model="m")
    pair = PromptPair(torch.ones(2, 48), torch.ones(3, 48), gate=found)
    pair.save(tmp_path / "pair")
    again = PromptPair.load(tmp_path / "pair")
    assert again.gate is not None
    assert torch.equal(again.gate.weights, found.weights)
    assert again.gate.document() == found.document()
    assert again.id == pair.id != replace(pair, gate=None).id
    text = PromptPair("be safe", "be bad", gate=found)
    text.save(tmp_path / "text")
    assert PromptPair.load(tmp_path / "text").gate is not None


@pytest.mark.parametrize("harm", ["missing", "truncated", "nan", "layers", "levels", "older", "no dict"])
def test_a_damaged_gate_is_refused(tmp_path: Path, harm: str) -> None:
    folder = PromptPair(torch.ones(2, 48), torch.ones(3, 48), gate=gate(0.25)).save(tmp_path / "pair")
    weights, described = folder / "gate" / "reading.safetensors", folder / "pair.json"
    document = json.loads(described.read_text())
    if harm == "missing":
        weights.unlink()
    elif harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-20])
    elif harm == "nan":
        PromptPair(torch.ones(2, 48), torch.ones(3, 48), gate=gate(0.25)).save(tmp_path / "pair")
        document["gate"]["biases"][0] = float("nan")
    elif harm == "layers":
        document["gate"]["layers"] = [1]
    elif harm == "older":  # whose two readings of a prompt were not meant to be added up
        del document["gate"]["carried"]
    elif harm == "levels":
        document["gate"]["prompt"] = {"threshold": 0.0}
    else:
        document["gate"] = ["gate"]
    described.write_text(json.dumps(document))
    with pytest.raises(PairError):
        PromptPair.load(folder)


def test_a_gate_of_another_model_is_refused() -> None:
    model, tokenizer = family("llama")
    wide = replace(gate(0.0), weights=torch.ones(3, 2, 64))
    deep = gate(0.0, layers=(2, 9))
    other = replace(gate(0.0), fingerprint="0" * 64)
    for found, why in ((wide, "width 64"), (deep, "layer 9"), (other, "fingerprint")):
        with pytest.raises(PairMismatchError, match=why):
            ContrastiveLM.from_model(model, tokenizer, PromptPair("be safe", "be bad", gate=found))
