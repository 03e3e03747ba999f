"""Reads multiple-choice questions and scores answers by log-likelihood, not by text.

TruthfulQA's MC1 and MC2, MMLU's form, and a bundled set of ours whose replies are whole sentences: small models tell
them apart where letters are beyond them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acd_core import bundled
from acd_core.errors import UsageError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """`prompt` is the user's turn, `choices` are what the reply may be, `correct` the places of the true ones.

    best: the one right choice of MC1 (TruthfulQA), among `best_choices`, the places that stand in MC1's comparison.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    correct: tuple[int, ...]
    category: str = ""
    best: int | None = None
    best_choices: tuple[int, ...] = ()


@dataclass(frozen=True)
class QuestionSet:
    """A named set of questions. `truthful`: scored as TruthfulQA (MC1, MC2), else by accuracy."""

    name: str
    questions: tuple[Question, ...]
    truthful: bool = False

    def sample(self, n: int | None, seed: int = 0) -> QuestionSet:
        """`n` questions drawn without replacement with `seed`, in the set's own order; None gives all."""
        if n is None or n >= len(self.questions):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.questions)), n))
        return replace(self, questions=tuple(self.questions[at] for at in chosen))


def read_truthfulqa(path: str | Path) -> QuestionSet:
    """TruthfulQA's CSV (Lin et al. 2022): the question as the user's turn, every listed answer as a reply.

    MC1: the best answer against all false ones. MC2: all true ones against all false ones. Raises UsageError.
    """
    file = _existing(path)
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
    columns = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    if not rows or any(column not in rows[0] for column in columns):
        raise UsageError(f"{file.name} is not TruthfulQA's CSV.", hint=f"Columns: {', '.join(columns)}")
    questions = []
    for number, row in enumerate(rows, start=1):
        best = _answer(row["Best Answer"])
        true = list(dict.fromkeys([best, *map(_answer, _parts(row["Correct Answers"]))]))
        false = [each for each in dict.fromkeys(map(_answer, _parts(row["Incorrect Answers"]))) if each not in true]
        if best and false:
            wrong = tuple(range(len(true), len(true) + len(false)))
            questions.append(
                Question(
                    f"truthfulqa-{number:04d}",
                    row["Question"].strip(),
                    (*true, *false),
                    tuple(range(len(true))),
                    row.get("Category") or "",
                    0,
                    (0, *wrong),
                )
            )
    return QuestionSet("truthfulqa-mc", tuple(questions), truthful=True)


def read_choices(path: str | Path) -> QuestionSet:
    """JSON lines of {"question", "choices": [...], "answer": place, letter or text, "category"?}, asked as MMLU is.

    The user's turn holds the question and the lettered choices; the letters are the replies compared. With "replies" in
    the place of "choices" it holds the question alone, and the replies themselves are compared.
    Raises UsageError naming the line, never its text.
    """
    file = _existing(path)
    return _choices_of(file.stem, file.name, file.read_text(encoding="utf-8-sig"))


def general_questions() -> QuestionSet:
    """120 easy questions of ours over twelve subjects, four replies of one form each."""
    text = (bundled.SETS / "general_questions.jsonl").read_text(encoding="utf-8")
    return _choices_of("general-questions", "general_questions.jsonl", text)


def _choices_of(name: str, file: str, text: str) -> QuestionSet:
    questions = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            lettered = "replies" not in row
            question = str(row["question"])
            choices = [str(each) for each in row["choices" if lettered else "replies"]]
            answer = _place(row["answer"], choices)
        except (ValueError, KeyError, TypeError):
            answer, choices, question, lettered = None, [], "", True
        if answer is None or not 2 <= len(choices) <= len(LETTERS):
            raise UsageError(
                f"{file}, line {number}: not a question with 2 to 26 choices and an answer among them.",
                hint='{"question": "...", "choices": ["...", "..."], "answer": 0}',
            )
        category = str(row.get("category") or row.get("subject") or "")
        if lettered:
            listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
            question = f"{question}\n{listed}\nAnswer with the letter of the right choice only."
            choices = list(LETTERS[: len(choices)])
        questions.append(Question(f"{name}-{number:04d}", question, tuple(choices), (answer,), category))
    if not questions:
        raise UsageError(f"{file} holds no questions.", hint="One JSON object a line is expected.")
    return QuestionSet(name, tuple(questions))


def accuracy(question: Question, logprobs: Sequence[float]) -> bool:
    """Whether the likeliest choice is a correct one (MC1's own choices where the question names them). Ties count as
    wrong: a model that gives all the same has not answered."""
    places = question.best_choices or range(len(question.choices))
    right = (question.best,) if question.best is not None else question.correct
    wrong = max((logprobs[at] for at in places if at not in right), default=-math.inf)
    return max(logprobs[at] for at in right if at is not None) > wrong


def true_share(question: Question, logprobs: Sequence[float]) -> float:
    """MC2: the probability of the true choices as a share of all choices', in [0, 1]; 0.5 where all have none."""
    top = max(logprobs)
    if top == -math.inf:
        return 0.5
    shares = [math.exp(each - top) for each in logprobs]
    return sum(shares[at] for at in question.correct) / sum(shares)


def _place(answer: Any, choices: Sequence[str]) -> int | None:
    if isinstance(answer, bool):
        return None
    if isinstance(answer, int):
        return answer if 0 <= answer < len(choices) else None
    text = str(answer).strip()
    if text in choices:
        return choices.index(text)
    if len(text) == 1 and text.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(text.upper())
    return int(text) if text.isdigit() and int(text) < len(choices) else None


def _parts(text: str) -> list[str]:
    return [part for part in (each.strip() for each in text.split(";")) if part]


def _answer(text: str) -> str:
    """With a full stop at its end, as the original's prompt writes answers."""
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else text + "."


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r}.", hint="Give a .jsonl of questions, or TruthfulQA's .csv.")
    return file
