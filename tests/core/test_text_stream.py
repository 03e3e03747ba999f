"""Token ids to text pieces: half characters, stop strings across token borders, hidden tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

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


# -- tokenizers of other kinds, behind a reply that the caller began ---------------------------------------------------


def _made(model: Any, decoder: Any, unknown: str) -> Any:
    core = Tokenizer(model)
    core.decoder = decoder
    core.add_special_tokens([AddedToken("<end>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=unknown)


def _pieces() -> tuple[Any, list[list[int]]]:
    """SentencePiece-like, and the ids of its characters: some have a piece of their own, others are bytes."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁tea", "▁", "s", ",", "▁▁is"]
    at = {word: number for number, word in enumerate(words)}
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spelled = [[at[f"<0x{byte:02X}>"] for byte in letter.encode()] for letter in "é日😀"]
    return _made(models.BPE(at, [], unk_token="<unk>", byte_fallback=True), decoder, "<unk>"), [
        *([at[word]] for word in words[257:]),
        *spelled,
    ]


def _word_pieces() -> tuple[Any, list[list[int]]]:
    words = ["[UNK]", "tea", "##s", "is", "don", "'", "t", ",", ".", "n't"]
    at = {word: number for number, word in enumerate(words)}
    made = _made(models.WordPiece(at, unk_token="[UNK]"), decoders.WordPiece(), "[UNK]")
    return made, [[number] for number in range(1, len(words))]


KINDS = {"bytes": (TOKENIZER, [[each] for each in ORDINARY]), "pieces": _pieces(), "word pieces": _word_pieces()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shows_special", [False, True])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_goes_on_from_a_begun_reply_is_what_the_whole_decodes_to(
    kind: str, shows_special: bool, data: st.DataObject
) -> None:
    tokenizer, letters = KINDS[kind]
    special = sorted(special_tokens(tokenizer))
    hidden = frozenset() if shows_special else frozenset(special)
    marks = [[each] for each in special]
    # Half a character at the end of what the caller began would be his, not the reply's: no single bytes there.
    before = [[each] for each in TOKENIZER.encode("the fox, a b", add_special_tokens=False)]
    begun_of = st.lists(st.sampled_from([*(before if kind == "bytes" else letters), *marks]), max_size=6)
    begun = [token for ids in data.draw(begun_of) for token in ids]
    reply = [token for ids in data.draw(st.lists(st.sampled_from([*letters, *marks]), max_size=10)) for token in ids]
    stream = TextStream(tokenizer, hidden_ids=hidden, begun=begun)
    text = "".join([*(stream.push(token) for token in reply), stream.finish()])

    def decoded(ids: list[int]) -> str:
        kept = [each for each in ids if each not in hidden]
        return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    assert decoded(begun) + text == decoded(begun + reply)
