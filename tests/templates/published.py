"""The published chat templates of the public data, each with a tokenizer that has its family's control tokens."""

from __future__ import annotations

import functools
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.public_data import public_data

FOLDER = public_data("templates")
ABSENT = "the published chat templates are not here: set ACD_DATA to the folder of the sets beside theirs"
WORDS = "hello world the quick brown fox jumps over a lazy dog while safe systems answer questions about user data"


def names() -> list[str]:
    """Families, a model's several named templates counted once; empty where the public data are absent."""
    return sorted({path.stem.partition("@")[0] for path in FOLDER.glob("*.jinja")})


@functools.cache
def tokens() -> dict[str, dict[str, Any]]:
    """What a tokenizer of each family needs: bos, eos, special, added, thinks."""
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the control tokens and the template, or templates, of one family."""
    facts = tokens()[name]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([WORDS] * 3, trainer)
    ends = [facts["bos"], facts["eos"]]
    special = dict.fromkeys([*(each for each in ends if each), *facts["special"]])
    backend.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in special])
    backend.add_tokens([AddedToken(each, special=False, normalized=False) for each in facts["added"]])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=facts["bos"], eos_token=facts["eos"])
    texts = {
        (path.stem.partition("@")[2] or "default"): path.read_text(encoding="utf-8")
        for path in FOLDER.glob("*.jinja")
        if path.stem.partition("@")[0] == name
    }
    made.chat_template = texts if len(texts) > 1 else next(iter(texts.values()))
    return made


def stock(name: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **options: Any) -> str:
    """What transformers makes of the conversation; raises whatever the template raises."""
    options = {"add_generation_prompt": True, **options}
    return str(tokenizer(name).apply_chat_template(messages, tools=tools, tokenize=False, **options))
