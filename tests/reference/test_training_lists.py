"""The word lists are those that the bundled model was trained on."""

from __future__ import annotations

import hashlib
import importlib

import pytest

# A list that changes makes another model: it is trained anew (python -m reference.train), and its digest is renewed.
TRAINED_ON = (
    ("everyday_words", "EVERYDAY_REQUESTS", "f7fb266871ab6730"),
    ("everyday_words", "MORE_WORDS", "fa9d1c3360971097"),
    ("everyday_words", "MORE_VERBS", "8b0cf16f4caed6b8"),
    ("everyday_words", "EVERYDAY_AIMS", "36c7de62320f0c68"),
    ("harm_questions", "HARM_QUESTIONS", "5312fbde8b27a7c3"),
    ("harm_questions", "HARM_TEMPLATES", "50448c2a1dd1e90a"),
    ("harm_questions", "FIELDS", "16c3ced0860bc614"),
    ("harm_questions", "VICTIMS_OF", "9acd8c3707f3ebf5"),
    ("harm_questions", "BAD_AIMS", "28888fe8c8e38877"),
    ("harm_questions", "TOOLS_OF", "a0603856793bd16b"),
    ("harm_questions", "PLACES_OF", "0fa37f46f82681e0"),
    ("twin_questions", "LOOKALIKES", "e0e7b9cf47608e80"),
    ("twin_questions", "LOOKALIKE_TEMPLATES", "df02a660a2511aa8"),
    ("twin_questions", "LOOKALIKE_BLOCKS", "67608b53e86d6357"),
)


@pytest.mark.parametrize(("module", "name", "digest"), TRAINED_ON)
def test_a_list_is_the_one_the_model_was_trained_on(module: str, name: str, digest: str) -> None:
    entries = getattr(importlib.import_module(f"reference.{module}"), name)
    assert hashlib.sha256(repr(entries).encode()).hexdigest()[:16] == digest
