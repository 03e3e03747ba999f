"""What is said to fit fits to the token, and one token more is an error: for every method, template and shape of
conversation, before loading and after."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.artifacts.pair import PromptPair
from acd_core.errors import ContextLengthError
from acd_core.lm import ContrastiveLM
from acd_core.methods.table import METHODS
from acd_core.reply.facts import own_tokens, read_facts
from acd_core.spec import LMSpec
from acd_integrations.langchain import profile as profiles
from tests.core.tiny import CHATML, TEMPLATES, family
from tests.core.tiny import tokenizer as tiny_tokenizer

CONTEXT = 3000
# Qwen2.5: a system text of the template's own, which goes when there is another.
DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant made by nobody.<|im_end|>\n"
    "{% endif %}" + CHATML
)
TEMPLATES_HERE = {**{name: TEMPLATES[name] for name in ("chatml", "gemma", "llama2")}, "default system": DEFAULT}
METHODS_HERE = (
    "none", "acd", "sp-null", "null-ap", "rose", "self-cd", "self-reminder", "self-reminder-system",
    "in-context-defense",
)  # fmt: skip
SHAPES: dict[str, list[dict[str, Any]]] = {
    "user": [{"role": "user", "content": ""}],
    "system": [{"role": "system", "content": "be brief"}, {"role": "user", "content": ""}],
    "turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": ""},
    ],
    "begun": [{"role": "user", "content": ""}, {"role": "assistant", "content": "Well"}],
}


def model_with(template: str) -> tuple[Any, Any]:
    model = copy.copy(family("llama")[0])
    model.config = copy.deepcopy(model.config)
    model.config.max_position_embeddings = CONTEXT
    made = tiny_tokenizer("chatml")
    made.chat_template = template
    return model, made


def filled(shape: str, tokens: int) -> list[dict[str, Any]]:
    """The conversation with `tokens` more in its last user turn; a "~" is one token whatever stands beside it."""
    asked = copy.deepcopy(SHAPES[shape])
    next(turn for turn in reversed(asked) if turn["role"] == "user")["content"] = "~" * tokens
    return asked


@pytest.mark.parametrize("template", TEMPLATES_HERE)
def test_what_is_said_to_fit_fits_to_the_token(template: str) -> None:
    with ContrastiveLM.from_model(*model_with(TEMPLATES_HERE[template])) as lm:
        width = lm.backbone.embedding_width
        pair = PromptPair.from_tensors(torch.randn(5, width), torch.randn(9, width), backbone=lm.backbone)
        for method in METHODS_HERE:
            with ContrastiveLM(lm.backbone, pair, method) as other:
                limit = other.max_input_tokens
                assert (limit == CONTEXT) == (method == "none")
                most, beside = own_tokens(lm.chat, METHODS[method], pair, contrasts=True, gated=False)
                assert most >= beside
                for shape in SHAPES:
                    new = 1 if shape == "user" else 3
                    room = limit - new - other.count_tokens(filled(shape, 1)) + 1
                    fitting = filled(shape, room)
                    assert other.count_tokens(fitting) == limit - new, (method, shape)
                    assert other._plan(fitting, other._asked(settings_of(max_tokens=new), {})) is not None
                    # A system text of the application's shares its turn with ours, which can save that turn's marks.
                    saved = most - beside if shape == "system" else 0
                    longer = filled(shape, room + 1 + saved)
                    with pytest.raises(ContextLengthError, match=f"takes {limit - new + 1 + saved} tokens"):
                        other.generate(longer, max_tokens=new)
        with ContrastiveLM(lm.backbone, pair, "rose") as rose:
            reply = rose.generate(filled("user", rose.max_input_tokens - 1 - rose.count_tokens(filled("user", 1))))
            assert len(reply.token_ids) <= 2, "no more is asked for than fits"


def settings_of(**settings: Any) -> Any:
    from acd_core.params import GenerationParams

    return GenerationParams.of(**settings)


@pytest.mark.parametrize("template", ["chatml", "default system"])
def test_before_loading_it_is_the_same(template: str, tmp_path: Path) -> None:
    model, tokenizer = model_with(TEMPLATES_HERE[template])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    width = model.get_input_embeddings().weight.shape[1]
    with ContrastiveLM.from_pretrained(str(tmp_path), dtype="float32") as lm:
        pair = PromptPair.from_tensors(torch.randn(5, width), torch.randn(9, width), backbone=lm.backbone)
        with ContrastiveLM(lm.backbone, pair) as paired:
            for method in METHODS_HERE:
                said = paired.facts_for(method)
                assert read_facts(str(tmp_path), pair, method) == said
                for loaded in (None, paired):
                    profile = profiles.profile(LMSpec(str(tmp_path), pair, method), loaded)
                    assert profile is not None
                    assert profile["max_input_tokens"] == said.max_input_tokens
        assert profiles.profile(LMSpec(str(tmp_path)))["max_input_tokens"] == CONTEXT  # type: ignore[index]
        assert profiles.profile(LMSpec(str(tmp_path), expert="x"))["max_input_tokens"] == CONTEXT  # type: ignore[index]


def test_texts_of_the_packing_window_fit_to_the_token() -> None:
    """What LlamaIndex packs by: the input less the template's marks, with or without a system turn."""
    for template in TEMPLATES_HERE.values():
        with ContrastiveLM.from_model(*model_with(template)) as lm:
            for method in ("none", "rose", "self-reminder"):
                facts = lm.facts_for(method)
                window = facts.max_input_tokens - facts.frame_tokens
                exact = []
                for texts in (["~" * (window - 5)], ["be", "~" * (window - 5 - len(lm.token_ids("be")))]):
                    roles = ("user",) if len(texts) == 1 else ("system", "user")
                    asked = [{"role": role, "content": text} for role, text in zip(roles, texts)]
                    assert lm.generate(asked, max_tokens=5, method=method).usage.completion_tokens > 0
                    asked[-1]["content"] += "~"
                    try:
                        lm.generate(asked, max_tokens=5, method=method)
                    except ContextLengthError:
                        exact.append(roles)
                assert exact, "the window could be larger"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.needs_expert])
def test_a_profile_is_read_like_any_dict(name: str) -> None:
    found = profiles.WorkedOut({"max_input_tokens": 7, "a": 1}, LMSpec("./nowhere", method=name))
    assert dict(found) == {**found} == found == {"max_input_tokens": 7, "a": 1}


def test_what_langchain_trims_to_fits() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    from acd_integrations.langchain import ChatACD

    with ContrastiveLM.from_model(*model_with(DEFAULT), method="rose") as lm:
        llm = ChatACD.from_lm(lm)
        limit = (llm.profile or {})["max_input_tokens"]
        assert limit == lm.max_input_tokens
        turns = [messages.SystemMessage("be brief")]
        for number in range(60):
            turns += [messages.HumanMessage(f"{number} {'~' * 60}"), messages.AIMessage("yes")]
        turns.append(messages.HumanMessage("go on"))
        kept = messages.trim_messages(
            turns, max_tokens=limit - 4, token_counter=llm, include_system=True, start_on="human"
        )
        assert 10 < len(kept) < len(turns)
        assert llm.invoke(kept, max_tokens=4).usage_metadata["output_tokens"] > 0  # type: ignore[index]
