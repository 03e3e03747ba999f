"""Token ids to text pieces: half characters, stop strings across token borders, hidden tokens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.engine import TextStream
from acd_core.toolcalls import special_tokens
from tests.core.tiny import tokenizer

TOKENIZER = tokenizer("chatml")
SPECIAL_IDS = frozenset(special_tokens(TOKENIZER))
ORDINARY = [token for token in range(len(TOKENIZER)) if token not in SPECIAL_IDS]


def run(ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    stream = TextStream(TOKENIZER, stops, SPECIAL_IDS)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped_by is not None:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped_by


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text_and_hold_no_half_character(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    pieces, _ = run([token for token in ids if token not in SPECIAL_IDS])
    whole = TOKENIZER.decode([token for token in ids if token not in SPECIAL_IDS])
    assert "".join(pieces) == whole
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ORDINARY), max_size=30))
def test_any_ids_at_all_add_up_to_the_decoded_reply(ids: list[int]) -> None:
    pieces, _ = run(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.text("ab c", max_size=30), st.lists(st.text("ab c", min_size=1, max_size=4), max_size=3))
def test_the_reply_ends_before_the_first_stop_and_never_shows_a_part_of_it(text: str, stops: list[str]) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    pieces, stopped = run(ids, tuple(stops))
    places = [text.find(stop) for stop in stops if stop in text]
    if places:
        # Token by token, the stop that is complete first ends the reply; nothing before it may be lost.
        shown = "".join(pieces)
        assert stopped in stops
        assert text.startswith(shown + stopped)
        assert not any(stop in shown for stop in stops)
    else:
        assert stopped is None
        assert "".join(pieces) == text


def test_hidden_tokens_are_not_text() -> None:
    ids = [TOKENIZER.convert_tokens_to_ids("<|im_start|>"), *TOKENIZER.encode("hello", add_special_tokens=False)]
    assert "".join(run(ids)[0]) == "hello"


def test_a_stop_string_is_held_back_until_it_is_certain() -> None:
    stream = TextStream(TOKENIZER, ("END",), SPECIAL_IDS)
    given_out = [stream.push(token) for token in TOKENIZER.encode("xEN", add_special_tokens=False)]
    assert "".join(given_out) == "x"
    assert "".join([*given_out, stream.push(TOKENIZER.encode("y", add_special_tokens=False)[0])]) == "xENy"
