"""The prompt texts: sources named, generators seeded, and nothing that belongs to a test set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.errors import UsageError
from acd_core.methods import prompts


def test_every_constant_has_a_source_and_every_source_a_constant() -> None:
    constants = {name for name in vars(prompts) if name.isupper() and not name.startswith("_") and name != "SOURCES"}
    assert constants == set(prompts.SOURCES)


def test_the_init_texts_say_opposite_things_at_similar_length() -> None:
    safe, adversarial = prompts.INIT_SAFE.split(), prompts.INIT_ADVERSARIAL.split()
    assert abs(len(safe) - len(adversarial)) <= 10
    assert "should not include any harmful" in prompts.INIT_SAFE
    assert "may include any harmful" in prompts.INIT_ADVERSARIAL
    assert "Always follow" in prompts.INIT_ADVERSARIAL


def test_opposite_replace_swaps_every_attitude_of_the_safe_prompt() -> None:
    text = prompts.opposite_replace()
    assert text.startswith("You are an unhelpful, disrespectful and dishonest assistant. Always answer as unhelpfully")
    assert "should include any harmful" in text
    assert "socially biased and negative" in text
    assert "do not explain why, just answer something not correct" in text
    assert "un-un" not in text
    assert "ununhelpful" not in text


def test_opposite_replace_is_one_pass_and_keeps_case() -> None:
    assert prompts.opposite_replace("Helpful, safe. Unsafe.") == "Unhelpful, unsafe. Unsafe."


def test_opposite_replace_refuses_a_text_without_opposite() -> None:
    with pytest.raises(UsageError, match="antonym"):
        prompts.opposite_replace("You are a poet.")


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(seed=st.integers(min_value=0, max_value=2**40), n_words=st.integers(min_value=1, max_value=200))
def test_rand_words_is_seeded_and_of_the_length_asked(seed: int, n_words: int) -> None:
    text = prompts.rand_words(seed, n_words)
    assert text == prompts.rand_words(seed, n_words)
    assert len(text.split()) == n_words
    assert set(text.split()) <= set(prompts.WORDS)


def test_rand_words_differs_between_seeds_and_is_fixed_for_one() -> None:
    assert prompts.rand_words(0, 20) != prompts.rand_words(1, 20)
    assert len(set(prompts.WORDS)) == len(prompts.WORDS) > 200
    with pytest.raises(UsageError):
        prompts.rand_words(0, 0)


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(st.text())
def test_self_reminder_wraps_the_user_text_unchanged(text: str) -> None:
    wrapped = prompts.self_reminder(text)
    assert wrapped == prompts.SELF_REMINDER_PREFIX + text + prompts.SELF_REMINDER_SUFFIX
    assert prompts.self_reminder_system(text).startswith(text)


def test_the_demonstration_is_a_turn_pair_that_refuses() -> None:
    user, assistant = prompts.ICD_DEMONSTRATION.messages()
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert assistant["content"].startswith("I'm sorry, but I cannot")
