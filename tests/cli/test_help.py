"""The help is short, complete and does not need torch."""

from __future__ import annotations

import pytest

from acd_core.cli.app import app

VERBS = {
    "demo": ("--model", "--out", "--requests", "--seed"),
    "tune": ("--model", "--out", "--gate", "--refusals"),
    "gate": ("--model", "--pair", "--out", "--seed"),
    "expert": ("--model", "--out", "--anchors", "--unsafe"),
    "train": ("method", "--model", "--out", "--anchors", "--set", "--no-resume"),
    "chat": ("--model", "--pair", "--expert", "--method", "--alpha", "--stream", "--no-stream", "--system"),
    "evaluate": ("--model", "--pair", "--methods", "--sets", "--data", "--limit", "--alphas", "--out", "--seed"),
    "doctor": ("--model", "--pair", "--device", "--dtype"),
}


def test_the_list_of_verbs(acd):
    result = acd("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert f"  {verb} " in result.stdout
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_explained(acd, verb: str):
    result = acd(verb, "--help")
    assert result.exit_code == 0
    for option in VERBS[verb]:
        assert option in result.stdout


def test_nothing_at_all_shows_the_help(acd):
    assert "tune" in acd().output


def test_version(acd):
    result = acd("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("acd 0.")
