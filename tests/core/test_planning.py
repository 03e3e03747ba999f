"""A request is rendered no more often than it has different texts, also where its reply's marks are read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import Gate
from acd_core.toolcalls import response_template_for
from tests.core.gated import ALWAYS, gate
from tests.core.tiny import family
from tests.scripted import HERMES, make_tokenizer

ASKED = [{"role": "system", "content": "be safe"}, {"role": "user", "content": "hello"}]


def open_lm(found: Gate | None) -> ContrastiveLM:
    model, tokenizer = family("qwen3")
    reading = copy.deepcopy(tokenizer)
    reading.response_template = response_template_for(make_tokenizer(HERMES))
    generator = torch.Generator().manual_seed(1)
    safe, adversarial = (torch.randn(count, 48, generator=generator) * 0.25 for count in (9, 13))
    return ContrastiveLM.from_model(model, reading, PromptPair(safe, adversarial, alpha=0.4, gate=found))


@pytest.mark.parametrize(
    ("method", "found", "texts"),
    [
        ("none", None, 1),  # what the model reads is what its reply is read behind
        ("acd", None, 2),  # with a place for the vectors, and without
        ("acd", gate(ALWAYS), 3),  # and once to find where the user's turn begins
        ("safe-prompt", None, 2),
    ],
)
def test_a_text_is_rendered_once_a_request(
    method: str, found: Gate | None, texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lm(found) as lm:
        lm.generate(ASKED, max_tokens=1, method=method)  # what is looked at once a model has been by now
        seen: list[Any] = []
        original = lm.chat.template.rendering

        def counted(*given: Any) -> Any:
            seen.append(given)
            return original(*given)

        monkeypatch.setattr(lm.chat.template, "rendering", counted)
        lm.generate(ASKED, max_tokens=1, method=method)
    assert len(seen) == texts


@pytest.mark.parametrize(
    "turns", [ASKED, [*ASKED, {"role": "assistant", "content": "so"}], [{"role": "text", "content": "a"}]]
)
def test_a_layout_knows_the_text_it_was_made_of(turns: list[dict[str, Any]]) -> None:
    with open_lm(None) as lm:
        layout = lm.chat.layout(turns)
        assert layout.text == lm.chat.text(turns)
        assert lm.chat.tokenizer.decode(layout.ids) == layout.text
