"""Anchor files: what is bundled, what is refused, and a generation that can be killed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acd_core import bundled
from acd_core.errors import TuningError
from acd_core.lm import ContrastiveLM
from acd_core.model.backbone import Backbone
from acd_core.tuning import (
    OBJECTIVES,
    AnchorPair,
    Instruction,
    bundled_instructions,
    generate_anchors,
    load_instructions,
    load_pairs,
    save_pairs,
    split_pairs,
)
from acd_core.tuning.anchors import ANCHOR_DIR, check_disjoint, check_split

SPLITS = ("safe", "unsafe", "validation_safe", "validation_unsafe")
EVALUATION = bundled.SETS


class OddJudge:
    """Refused where the reply has an odd number of characters: both labels occur, whatever a random model says."""

    name = "odd"

    def judge(self, prompt: str, completion: str) -> Any:
        return SimpleNamespace(refused=len(completion) % 2 == 1)


def test_the_bundled_sets_are_complete_and_disjoint() -> None:
    sets = {name: bundled_instructions(name) for name in SPLITS}  # type: ignore[arg-type]
    check_disjoint(sets)
    for name, rows in sets.items():
        lines = (ANCHOR_DIR / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(rows) == len(lines) >= 100, "no text stands there twice"
        # Harmless ones that look harmful, and harmful ones in the same words: what a pair must learn to tell apart.
        kind = "contrast" if "unsafe" in name else "look-alike"
        assert sum(row.category.startswith(kind) for row in rows) / len(rows) >= 0.1
        assert len({row.category for row in rows}) > 10
        assert len({row.text.split()[0] for row in rows}) > 8, "many sentence forms"


@pytest.mark.parametrize("name", ["everyday.jsonl", "held_out_harmful.jsonl", "look_alikes.jsonl"])
def test_the_bundled_sets_share_nothing_with_evaluation(name: str) -> None:
    path = EVALUATION / name
    if not path.exists():
        pytest.skip("the evaluation set is not there yet")
    ours = {_normal(row.text) for split in SPLITS for row in bundled_instructions(split)}  # type: ignore[arg-type]
    theirs = {_normal(value) for line in path.read_text().splitlines() for value in json.loads(line).values()}
    assert not ours & theirs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json", "line 1 is not JSON"),
        ('{"id": "a", "text": "x"}\n[1]', "line 2 is a JSON list"),
        ('{"id": "a"}', "line 1 has no 'text'"),
        ('{"id": "a", "text": " "}', "line 1 has no 'text'"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "'a' appears twice"),
        ("\n\n", "no instruction"),
    ],
)
def test_bad_instructions(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(TuningError, match=re.escape(message)):
        load_instructions(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=re.escape("gone.jsonl")):
        load_instructions(tmp_path / "gone.jsonl")


def test_repeated_texts_are_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "Say hello"}\n{"id": "b", "text": "say  hello"}\n')
    assert [row.id for row in load_instructions(path)] == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "perhaps"}, "label 'perhaps'"),
        ({"reply": None}, "no 'reply'"),
        ({"harmful": "yes"}, "no 'harmful'"),
        ({"text": ""}, "no 'text'"),
    ],
)
def test_bad_pairs(tmp_path: Path, pairs: list[AnchorPair], change: dict[str, Any], message: str) -> None:
    path = save_pairs(pairs[:1], tmp_path / "pairs.jsonl")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}) + "\n")
    with pytest.raises(TuningError, match=re.escape(message)):
        load_pairs(path)


def test_pairs_come_back_as_written_and_corrections_count(tmp_path: Path, pairs: list[AnchorPair]) -> None:
    path = save_pairs(pairs, tmp_path / "pairs.jsonl")
    assert load_pairs(path) == tuple(pairs)
    path.write_text(path.read_text().replace('"label": "accepted"', '"label": "refused"', 1))
    assert split_pairs(load_pairs(path)).counts["refused"] == 13


def test_a_pair_without_a_label_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"id": "a", "text": "x", "harmful": true, "reply": "I\'m sorry, but I cannot help with that."}\n')
    assert load_pairs(path)[0].label == "refused"


def test_empty_and_repeated_replies_are_left_out_and_counted(pairs: list[AnchorPair]) -> None:
    extra = [replace(pairs[0], prompt="null"), replace(pairs[1], prompt="opposite", reply="  ")]
    counts = split_pairs([*pairs, *extra]).counts
    assert counts == {"refused": 12, "accepted": 12, "harmless": 12, "empty": 1, "repeated": 1}


def test_requests_never_refused_are_lent_a_refusal(pairs: list[AnchorPair]) -> None:
    stubborn = [replace(pairs[1], id=f"x{index}", text=f"worse {index}") for index in range(3)]
    common = replace(pairs[0], id="y", text="worst", reply=pairs[0].reply)
    found = split_pairs([*pairs, *stubborn, common]).of("refusals")
    lent = [pair for pair in found if pair.text.startswith("worse")]
    assert len(found) == 12 + 1 + 3
    assert {(pair.reply, pair.label) for pair in lent} == {(pairs[0].reply, "refused")}


def test_a_class_that_is_too_small_is_named_with_all_counts(pairs: list[AnchorPair]) -> None:
    split = split_pairs([pair for pair in pairs if pair.label == "accepted"])
    with pytest.raises(TuningError, match=r"refused\): 0, .*complied with\): 12, .*harmless request\): 12") as caught:
        check_split(split, OBJECTIVES["paper"])
    assert caught.value.hint is not None
    assert "refusals" in caught.value.hint


def test_a_text_in_two_sets_is_an_error() -> None:
    with pytest.raises(TuningError, match="'a' of harmless"):
        check_disjoint({"harmless": [Instruction("a", "x")], "harmful": [Instruction("b", " X")]})


def test_generation_can_be_killed_and_repeats_nothing(tmp_path: Path, tiny: Callable[..., Backbone]) -> None:
    safe = [Instruction(f"s{index}", f"kind {index}", "c") for index in range(3)]
    unsafe = [Instruction(f"u{index}", f"unkind {index}", "c") for index in range(3)]
    settings: dict[str, Any] = {"judge": OddJudge(), "max_tokens": 5, "chunk": 4, "progress": False}
    with ContrastiveLM(tiny()) as lm:
        whole = generate_anchors(lm, safe, unsafe, **settings)
        assert len(whole) == 18
        assert {pair.prompt for pair in whole} == {"safe", "opposite", "null"}
        assert len({pair.reply for pair in whole}) > 6

        path, calls = tmp_path / "anchors.jsonl", [0]

        def dying(*args: Any, **keywords: Any) -> Any:
            calls[0] += 1
            if calls[0] == 10:
                raise KeyboardInterrupt
            return lm.generate(*args, **keywords)

        stub: Any = SimpleNamespace(generate=dying)
        with pytest.raises(KeyboardInterrupt):
            generate_anchors(stub, safe, unsafe, out=path, **settings)
        assert len(load_pairs(path)) == 8
        with path.open("a") as file:
            file.write('{"id": "s0", "torn')

        asked: list[int] = []

        def counting(messages: Any, **keywords: Any) -> Any:
            asked.append(1)
            return lm.generate(messages, **keywords)

        stub = SimpleNamespace(generate=counting)
        assert generate_anchors(stub, safe, unsafe, out=path, **settings) == whole
        assert sum(asked) == 10
        assert sorted(load_pairs(path), key=lambda pair: pair.key) == sorted(whole, key=lambda pair: pair.key)

        with pytest.raises(TuningError, match="another run"):
            generate_anchors(lm, [Instruction("s0", "other")], unsafe, out=path, **settings)


def _normal(text: Any) -> str:
    return " ".join(str(text).split()).casefold()
