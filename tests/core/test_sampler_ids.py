"""The ids that penalties and the model's own processors look at: at every step those that stock `generate` gives them,
without reading the prompt again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
)

from acd_core.engine import Branch
from acd_core.methods.sampling import Sampler
from acd_core.model.model_defaults import ModelDefaults
from acd_core.params import GenerationParams

VOCAB = 50
CPU = torch.device("cpu")


class Prompt(tuple[int, ...]):
    """A prompt that knows how often it was read from its beginning."""

    read = 0

    def __iter__(self) -> Iterator[int]:
        self.read += 1
        return super().__iter__()


def sampler(**settings: Any) -> Sampler:
    defaults = ModelDefaults(
        after=(
            (False, NoRepeatNGramLogitsProcessor(3)),
            (True, SuppressTokensAtBeginLogitsProcessor([3, 4], 0)),
            (True, MinNewTokensLengthLogitsProcessor(0, 5, torch.tensor([7]))),
        )
    )
    return Sampler(GenerationParams(**settings), CPU, defaults)


def expected(scores: torch.Tensor, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """What stock `generate` makes of them: all ids for all, the prompt's length known to what counts new tokens."""
    ids, start = torch.tensor([[*prompt, *reply]]), len(prompt)
    scores = RepetitionPenaltyLogitsProcessor(1.3)(ids, scores)
    scores = NoRepeatNGramLogitsProcessor(3)(ids, scores)
    scores = SuppressTokensAtBeginLogitsProcessor([3, 4], start)(ids, scores)
    bent: torch.Tensor = MinNewTokensLengthLogitsProcessor(start, 5, torch.tensor([7]))(ids, scores)
    return bent


@pytest.mark.parametrize("length", [1, 40, 700])
def test_a_growing_reply_is_seen_as_generate_sees_it_and_the_prompt_is_read_once(length: int) -> None:
    draw = torch.Generator().manual_seed(length)
    prompt = Prompt(torch.randint(0, VOCAB, (length,), generator=draw).tolist())
    mine, reply = sampler(repetition_penalty=1.3), list[int]()
    for step in range(600):
        scores = torch.randn(1, VOCAB, generator=draw)
        for _ in range(1 + step % 2):  # some steps look twice
            bent = mine.adjusted(scores, prompt, reply)
        if step % 7 == 0 or step < 10:
            read = prompt.read
            assert torch.equal(bent, expected(scores, list(prompt), reply))
            prompt.read = read
        reply += torch.randint(0, VOCAB, (1 + step % 3 // 2,), generator=draw).tolist()
    assert prompt.read <= 1


def test_another_prompt_or_reply_is_never_taken_for_the_one_before() -> None:
    """A gate that opens brings a prompt that holds the reply so far; a second request of equal length other ids."""
    mine = sampler(repetition_penalty=1.3)
    scores = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    reply = [1, 2, 9, 9]
    mine.adjusted(scores, (5, 6), reply)
    opened = (8, 8, *reply, 30)
    for more in ([], [31], [31, 8]):
        said = [*reply, *more]
        bent = mine.adjusted(scores, opened, said, len(reply))
        behind = expected(scores, list(opened), more)
        behind[0, [3, 4]] = expected(scores, list(opened), [0])[0, [3, 4]]  # the whole reply has begun already
        if len(said) >= 5:
            behind[0, 7] = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[*opened, *more]]), scores)[0, 7]
        assert torch.equal(bent, behind)
    for other in ([1, 2, 9, 8], [1], []):
        assert torch.equal(mine.adjusted(scores, (6, 5), other), expected(scores, [6, 5], other))
    changed = [5, 6]
    mine.adjusted(scores, changed, reply)
    changed.append(11)
    assert torch.equal(mine.adjusted(scores, changed, reply), expected(scores, changed, reply))


def test_a_branch_shows_its_real_ids_as_one_object() -> None:
    branch = Branch((1, -5, -6, 2))
    assert branch.visible == (1, 2)
    assert branch.visible is branch.visible
    assert branch == Branch((1, -5, -6, 2))
