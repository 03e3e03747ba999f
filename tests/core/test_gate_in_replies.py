"""A gate that opens in a reply: the reply is closed, and the method answers anew."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from acd_core.engine import TextPiece
from acd_core.params import TextDelta
from tests.core.gated import ALWAYS, BEGUN, NEVER, NEW, PROMPTS, TURNS, gate, lm_params, open_lm, pause


@pytest.mark.parametrize("method", ["acd", "adacd"])
def test_a_gate_that_opens_in_a_reply_goes_on_from_what_was_said(method: str) -> None:
    with open_lm(found=gate(NEVER, ALWAYS)) as lm:
        for conversation in (PROMPTS[2], TURNS):
            alone = lm.generate(conversation, method="none", max_tokens=NEW)
            gated = lm.generate(conversation, method=method, max_tokens=NEW, recheck=6)
            assert gated.report.gate is not None
            assert gated.report.gate.opened_at == 6
            assert gated.token_ids[:6] == alone.token_ids[:6]
            # From there on: what the method says where those six tokens are a turn of their own, in a new paragraph.
            plan = lm._planner.plan(conversation, lm_params(max_tokens=NEW - 6), method)
            said: list[Any] = []
            request = plan.make(None, said.append)
            before = (*gated.token_ids[:6], *lm._planner._chat.appended_header)
            assert request.gating is not None
            request.branches = tuple(replace(each, ids=(*each.ids, *before)) for each in request.gating.branches)
            request.gating = None
            lm.engine.submit(request)
            while not said or isinstance(said[-1], TextPiece):
                pause()
            assert gated.token_ids[6:] == said[-1].token_ids
            first, _, rest = gated.text.partition("\n\n")
            assert alone.text.startswith(first)
            assert rest == "".join(each.text for each in said[:-1])


def test_a_begun_reply_whose_gate_opens_is_answered_anew_in_a_paragraph_of_its_own() -> None:
    answered = [BEGUN[0], {**BEGUN[1], "prefix": False}]
    with open_lm(found=gate(ALWAYS)) as lm:
        chat = lm._planner._chat
        gated = lm.generate(BEGUN, max_tokens=NEW)
        assert gated.text.startswith("\n\n")
        streamed = [each for each in lm.stream(BEGUN, max_tokens=NEW) if isinstance(each, TextDelta)]
        assert "".join(each.text for each in streamed) == gated.text
        assert chat.layout(answered).ids == (*chat.layout(BEGUN).ids, *chat.appended_header)
        # A grammar has to be ended where it stands.
        form = {"type": "json_object"}
        assert "\n" not in lm.generate(BEGUN, max_tokens=NEW, response_format=form).text


@pytest.mark.parametrize("room", [2, 14])
def test_a_reply_that_turns_stays_within_the_context(room: int) -> None:
    """Near the end of the context the header takes its room from the reply; where there is none it is left out."""
    with open_lm(found=gate(NEVER, ALWAYS)) as lm:
        context, asked = lm.backbone.context_length, lm_params(max_tokens=6 + room, recheck=6)

        def longest(count: int) -> int:
            gating = lm._planner.plan("fox " * count, lm_params(max_tokens=1), "acd").make(None, print).gating
            assert gating is not None
            return max(len(branch.ids) for branch in gating.branches)

        count = 10
        while longest(count + 1) + 6 + room <= context:
            count += 1
        found: list[Any] = []
        lm.engine.submit(lm._planner.plan("fox " * count, asked, "acd").make(None, found.append))
        while not found or isinstance(found[-1], TextPiece):
            pause()
        left = context - longest(count) - len(lm._planner._chat.appended_header)
        turned = left > 6
        assert turned == (room == 14)
        assert found[-1].gate.opened_at == 6
        assert found[-1].finish == "length"
        assert len(found[-1].token_ids) == (left if turned else 6 + room) <= 6 + room
        assert ("\n\n" in "".join(each.text for each in found[:-1])) == turned


def test_a_reply_carries_some_of_its_prompts_reading() -> None:
    found = replace(gate(NEVER, NEVER), carried=0.5)
    assert found.of_reply(4.0, 1.0) == 3.0
    assert found.of_reply(None, 1.0) == found.of_reply(math.nan, 1.0) == 1.0
    with open_lm(found=gate(NEVER, NEVER)) as lm:
        alone = lm.generate(PROMPTS[0], max_tokens=9, recheck=8).report.gate
        first = lm.generate(PROMPTS[0], max_tokens=2).report.gate
    with open_lm(found=found) as lm:
        carried = lm.generate(PROMPTS[0], max_tokens=9, recheck=8).report.gate
    assert alone is not None and alone.reading is not None
    assert first is not None and first.reading is not None
    assert carried is not None
    assert carried.reading == pytest.approx(alone.reading + 0.5 * first.reading, abs=1e-3)


def test_without_readings_in_the_reply_it_stays_closed() -> None:
    with open_lm(found=gate(NEVER, ALWAYS)) as lm:
        said = lm.generate(PROMPTS[0], max_tokens=NEW, recheck=0)
        assert said.report.gate is not None
        assert (said.report.gate.opened_at, said.report.gate.readings) == (None, 1)


def test_a_begun_reply_is_read_at_an_appended_header() -> None:
    with open_lm(found=gate(NEVER, NEVER)) as lm:
        said = lm.generate(BEGUN, max_tokens=4).report.gate
        assert said is not None
        assert (said.opened, said.readings) == (False, 2)
    with open_lm(found=gate(NEVER, ALWAYS)) as lm:
        said = lm.generate(BEGUN, max_tokens=4).report.gate
        assert said is not None
        assert said.opened_at == 0
        raw = lm.generate([{"role": "text", "content": "hello world"}], max_tokens=4).report.gate
        assert raw is not None
        assert raw.opened_at == 0
