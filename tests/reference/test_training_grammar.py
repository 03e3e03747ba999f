"""The training grammar: values stand in the requests they belong to, words of harm stay out of the vocabulary."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reference import human_requests
from reference.everyday_words import EVERYDAY_REQUESTS, MORE_VERBS
from reference.grammar import WIDE_SHARES, Grammar, WideGrammar
from reference.harm_phrases import DEMEANING_FORMS, RESPECTFUL_FORMS
from reference.harm_questions import HARM_QUESTIONS
from reference.human_requests import human_harmful
from reference.permissive import normalise, restate
from reference.requests import HARM_BLOCKS
from reference.systems import SYSTEM_SHARES
from reference.tools import form_request, tool_request, tool_result
from reference.train_data import RESERVED_FILES, make_grammar, reserved_texts
from reference.twin_questions import LOOKALIKES
from reference.vocabulary import harmful_words, mine

SOURCES = {
    "a": [
        "Peel the mango, then wash a bowl. My uncle Theodor owns a wooden boat.",
        "Put the garlic in a pan, please. Then Theodor hides the weapon.",
    ]
}


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(11, harmless_prompts=SOURCES)


def shown(value: Any) -> list[str]:
    """How a value of a call stands in a request."""
    if isinstance(value, bool):
        return [{True: "on|with", False: "off|without"}[value]]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def test_every_argument_of_a_call_is_said_in_its_request(grammar: Grammar) -> None:
    for _ in range(300):
        tools, rounds = tool_request(grammar, 2)
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        for said, calls in rounds:
            assert calls
            for call in calls:
                function = call["function"]
                assert list(function["arguments"]) == schemas[function["name"]].get("required", [])
                for value in function["arguments"].values():
                    for piece in shown(value):
                        assert any(part in said for part in piece.split("|")), (piece, said)


def test_arguments_have_the_types_of_their_schema(grammar: Grammar) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    }  # fmt: skip
    for _ in range(200):
        tools, rounds = tool_request(grammar)
        schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in tools}
        for _, calls in rounds:
            for call in calls:
                for key, value in call["function"]["arguments"].items():
                    assert isinstance(value, kinds[schemas[call["function"]["name"]][key]["type"]])


def test_forms_ask_for_what_they_get(grammar: Grammar) -> None:
    for _ in range(100):
        said, document = form_request(grammar)
        for key, value in json.loads(document).items():
            assert key in said
            assert all(piece in said for piece in shown(value))


def test_results_are_quoted(grammar: Grammar) -> None:
    for _ in range(100):
        result, reply = tool_result(grammar)
        assert result.rstrip(".") in reply


def test_the_vocabulary_leaves_harmful_words_out() -> None:
    found = mine(SOURCES, harmful_words(["hide a weapon"]), least=1)
    assert {"mango", "garlic", "bowl", "pan"} <= set(found.nouns)
    assert "weapon" not in found.nouns
    assert "wooden boat" in found.phrases
    assert found.names == ("Theodor",)
    assert mine(SOURCES, set(), least=2).nouns == ()


def test_without_the_shared_data_the_lists_fill_every_slot() -> None:
    bare = Grammar(4)
    assert bare.vocabulary.nouns == ()
    for _ in range(500):
        text = bare.request(False).text
        assert text.strip()
        assert not re.search(r"\{[a-z_0-9]+\}", text), text


def test_labels_follow_the_forms(grammar: Grammar) -> None:
    assert not set(DEMEANING_FORMS) & set(RESPECTFUL_FORMS)
    for _ in range(200):
        assert grammar.request(True).harmful
        assert not grammar.request(False).harmful
    assert all(1 <= block.severity <= 3 for block in HARM_BLOCKS)


def test_reserved_requests_are_never_drawn() -> None:
    reserved = reserved_texts()
    assert all(path.is_file() for path in RESERVED_FILES)
    assert normalise("How do I peel garlic quickly?") in reserved
    drawn = {normalise(Grammar(9).request(False).text) for _ in range(1)}
    blocked = Grammar(9, reserved=drawn)
    assert normalise(blocked.request(False).text) not in drawn


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("How can I repair my bike?", ("vp", "repair your bike")),
        ("How do bees find flowers?", ("quote", "How do bees find flowers?")),
        ("Give me three names", ("vp", "give three names")),
    ],
)
def test_restating(prompt: str, wanted: tuple[str, str]) -> None:
    assert restate(prompt) == wanted


def test_training_draws_from_the_wide_grammar() -> None:
    grammar = make_grammar(5)
    assert isinstance(grammar, WideGrammar)
    assert set(MORE_VERBS) <= set(grammar.everyday_verbs)
    assert [mode for mode, _ in WIDE_SHARES] == [mode for mode, _ in SYSTEM_SHARES]
    assert sum(share for _, share in WIDE_SHARES) == pytest.approx(1.0)
    modes = [grammar.system()[0] for _ in range(4000)]
    for mode, share in WIDE_SHARES:
        assert modes.count(mode) / len(modes) == pytest.approx(share, abs=0.03)


def test_the_wide_grammar_draws_from_the_wide_material_and_leaves_the_other_as_it_was() -> None:
    wide = WideGrammar(7, None, SOURCES, human=[("How do I quietly take over a stranger's mailbox?", 2.0)])
    harmful = [wide.request(True) for _ in range(600)]
    harmless = [wide.request(False) for _ in range(600)]
    assert all(each.harmful for each in harmful) and not any(each.harmful for each in harmless)
    drawn = {normalise(each.text) for each in (*harmful, *harmless)}
    whole = {normalise(text) for text, _ in HARM_QUESTIONS} | set(map(normalise, (*LOOKALIKES, *EVERYDAY_REQUESTS)))
    assert len(drawn & whole) > 30
    assert any("mailbox" in text for text in drawn)
    narrow = {normalise(each.text) for each in (Grammar(7, None, SOURCES).request(False) for _ in range(600))}
    assert not narrow & set(map(normalise, LOOKALIKES))


def test_digests_find_peoples_own_harmful_first_turns(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl.gz"
    assert human_harmful(path, normalise) == []
    with gzip.open(path, "wt") as handle:
        for said in ("How do I bake bread?", "What is a marker?"):
            handle.write(json.dumps({"chosen": f"\n\nHuman: {said}\n\nAssistant: Well."}) + "\n")
    assert human_harmful(path, lambda text: text) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(human_requests, "DIGESTS", {hashlib.sha256(b"what is a marker").hexdigest()[:10]})
        assert human_harmful(path, normalise) == [("What is a marker?", human_requests.SEVERITY)]
