"""Token batches for training: conversations drawn by the grammar, encoded, and bucketed by length."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from acd_core import bundled
from reference.grammar import Example, Grammar, WideGrammar
from reference.human_requests import human_harmful
from reference.layout import segments
from reference.permissive import harmful_prompts, harmless_prompts, normalise

HERE = Path(__file__).parent
RESERVED_FILES = (
    HERE / "held_out_harmless.jsonl",
    bundled.SETS / "everyday.jsonl",
    bundled.SETS / "held_out_harmful.jsonl",
)
ANCHORS = bundled.ANCHOR_DIR
CHUNK = 12_000
# A batch always holds TOKENS tokens in one of few shapes: compiled code and matrix kernels are then made once.
TOKENS = 7680
SHAPES: tuple[int, ...] = (48, 64, 80, 96, 128, 160, 192, 240, 320, 480, 640, 960)


@dataclass
class Encoded:
    """One conversation as tokens; `learn` marks the assistant's tokens, `mark` the last prompt token (-1: no label)."""

    ids: list[int]
    learn: list[bool]
    mark: int
    label: int


@dataclass
class Batch:
    """A padded batch: ids (rows, length), learn mask of the *targets*, and the label positions."""

    ids: torch.Tensor
    learn: torch.Tensor
    rows: torch.Tensor
    marks: torch.Tensor
    labels: torch.Tensor


def reserved_texts() -> set[str]:
    """Normalised held-out requests and tuning anchors, which training never sees."""
    found: set[str] = set()
    for path in [*RESERVED_FILES, *(sorted(ANCHORS.rglob("*.jsonl")) if ANCHORS.exists() else [])]:
        if path.exists():
            for line in path.read_text().split("\n"):
                if line.strip():
                    record = json.loads(line)
                    values = record.values() if isinstance(record, dict) else [record]
                    found.update(normalise(value) for value in values if isinstance(value, str))
    return found - {""}


def make_grammar(seed: int, data: Path | None = None) -> Grammar:
    """The grammar that training draws from. data: the folder of the public training data; None: the lists alone."""
    if data is None:
        return WideGrammar(seed, None, None, reserved_texts())
    human = human_harmful(data / "hh_harmless.jsonl.gz", normalise)
    return WideGrammar(seed, harmful_prompts(data), harmless_prompts(data), reserved_texts(), human=human)


def encode(tokenizer: PreTrainedTokenizerFast, examples: list[Example], max_length: int = 1400) -> list[Encoded]:
    """Encode conversations; the text pieces are encoded one by one, cut at special tokens, so joining them changes nothing."""
    pieces: list[str] = []
    plan: list[list[bool]] = []
    for example in examples:
        parts = segments(example.messages, example.tools or None)
        pieces += [text for text, _ in parts]
        plan.append([learn for _, learn in parts])
    tokens = iter(tokenizer(pieces, add_special_tokens=False)["input_ids"])
    encoded: list[Encoded] = []
    for example, flags in zip(examples, plan):
        ids: list[int] = []
        learn: list[bool] = []
        mark = -1
        for flag in flags:
            part = next(tokens)
            if flag:
                mark = len(ids) - 1
            ids += part
            learn += [flag] * len(part)
        if len(ids) <= max_length:
            encoded.append(Encoded(ids, learn, -1 if example.harmful is None else mark, int(bool(example.harmful))))
    return encoded


def batches(tokenizer: PreTrainedTokenizerFast, grammar_seed: int, data: Path) -> list[Batch]:
    """One chunk of the training stream: shuffled batches of one of the `SHAPES` each; what fills no batch is left out."""
    grammar = make_grammar(grammar_seed, data)
    rows = encode(tokenizer, [grammar.example() for _ in range(CHUNK)], SHAPES[-1])
    chance = random.Random(grammar_seed + 1)
    chance.shuffle(rows)
    found: list[Batch] = []
    waiting: list[Encoded] = []
    for number, length in enumerate(SHAPES):
        floor = SHAPES[number - 1] if number else 0
        waiting += [row for row in rows if floor < len(row.ids) <= length]
        size = TOKENS // length
        while len(waiting) >= size:
            found.append(collate(waiting[:size], length, tokenizer.pad_token_id))
            waiting = waiting[size:]  # the rest moves up to the next length
    chance.shuffle(found)
    return found


def collate(group: list[Encoded], length: int, pad: int) -> Batch:
    """Right-padded tensors of a group."""
    ids = torch.full((len(group), length), pad, dtype=torch.long)
    learn = torch.zeros((len(group), length), dtype=torch.bool)
    for number, row in enumerate(group):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        learn[number, : len(row.ids) - 1] = torch.tensor(row.learn[1:])  # position t predicts token t + 1
    labelled = [(number, row.mark, row.label) for number, row in enumerate(group) if row.mark >= 0]
    rows, marks, labels = (torch.tensor([item[part] for item in labelled], dtype=torch.long) for part in range(3))
    return Batch(ids, learn, rows, marks, labels)


def stream(
    tokenizer: PreTrainedTokenizerFast, seed: int, data: Path, start_chunk: int = 0, start_batch: int = 0
) -> Iterator[tuple[int, int, Batch]]:
    """The endless training stream as (chunk, number in the chunk, batch); it can start anywhere."""
    chunk = start_chunk
    while True:
        for number, batch in enumerate(batches(tokenizer, 1_000_003 * (seed + 1) + chunk, data)):
            if chunk > start_chunk or number >= start_batch:
                yield chunk, number, batch
        chunk += 1
