"""The public JSON-Schema test suite (draft 2020-12) against forced JSON: what is enforced, refused, or wrong.

    pip download --no-binary jsonschema --no-deps jsonschema && tar xf jsonschema-*.tar.gz
    python -m benchmarks.json_schema_coverage jsonschema-*/json/tests/draft2020-12

No model: a tokenizer of single bytes, and the grammar as every request gets it. Each instance is written in the style
that the grammar writes (", " and ": " between things) and fed to it byte by byte.

- A valid instance is *right* if the grammar lets it through as it stands. It is a *stated departure* if it is let
  through with its properties in another order ("order"), if it has properties that a closed object does not list
  ("closed"), if a whole number was spelled as a fraction, 1.0 for 1 ("number"), or if it fits but for a `format`,
  which is held to here and only a note by the standard ("format"). Everything else that is kept out is *too strict*.
- An invalid instance is *right* if no spelling of it is let through: every order of its properties (up to 24), letters
  beyond ASCII as they are and escaped. Otherwise it is *accepted but wrong*, the one number that has to be 0.
- A schema that is refused is counted with the reason that the caller reads.

A keyword is *covered* to the share of its cases that are right or a stated departure. The folders `optional` and
`optional/format` are counted apart; in the latter `format` is asked for. Nothing of the suite is kept. Writes OUT as
JSON and, beside it, as Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from acd_core.errors import EngineError, UsageError
from acd_core.evaluation.page import table
from acd_core.grammar.compiled import GrammarSpec
from acd_core.grammar.compiler import Grammar
from acd_core.grammar.schemas import closed, mapped

ROOT = Path(__file__).parents[1]
ORDERS = 24
DEPARTURES = ("order", "closed", "number", "format")
KINDS = ("right", *DEPARTURES, "too strict", "accepted but wrong", "refused")
PARTS = {"keywords": ".", "optional": "optional", "formats": "optional/format"}


@dataclass
class Keyword:
    """One file of the suite."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    schemas: int = 0
    refused_schemas: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Counts, and the share of cases that are right or a stated departure, in per cent."""
        return {**shares([self]), "reasons": dict(self.reasons.most_common())}


def shares(keywords: Sequence[Keyword]) -> dict[str, Any]:
    """Counts of several keywords together, and what per cent of their cases is covered, refused, wrong."""
    counts = sum((keyword.counts for keyword in keywords), Counter[str]())
    cases = sum(counts.values())
    kept = counts["right"] + sum(counts[kind] for kind in DEPARTURES)
    taken = cases - counts["refused"]
    return {
        "schemas": sum(keyword.schemas for keyword in keywords),
        "refused schemas": sum(keyword.refused_schemas for keyword in keywords),
        "cases": cases,
        **{kind: counts[kind] for kind in KINDS},
        "covered, per cent": round(100 * kept / max(cases, 1), 1),
        "covered of what is accepted, per cent": round(100 * kept / max(taken, 1), 1),
    }


class Bytes:
    """A grammar over single bytes."""

    def __init__(self) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.add_special_tokens(["<end>"])
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
        self._end = int(self._tokenizer.eos_token_id)
        self.grammar = Grammar(self._tokenizer, len(self._tokenizer), [self._end])

    def takes(self, spec: GrammarSpec, text: str) -> bool:
        """Whether `text`, and then the end, fits."""
        matcher = spec.matcher()
        try:
            for token in self._tokenizer(text, add_special_tokens=False)["input_ids"]:
                if matcher.finished:
                    return False
                matcher.consume(token)
            return matcher.finished or bool(torch.isfinite(matcher.mask(torch.zeros(len(self._tokenizer)))[self._end]))
        except EngineError:
            return False

    def takes_without_formats(self, schema: Mapping[str, Any], data: Any) -> bool:
        """Whether `data` fits once no `format` is asked for."""
        plain = _without_formats((), schema)
        return bool(plain != schema) and self.takes(self.grammar.for_schema(plain), written(data))


def _without_formats(_: Any, schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    return {key: value for key, value in mapped(schema, _without_formats).items() if key != "format"}


def written(value: Any, escaped: bool = False) -> str:
    return json.dumps(value, ensure_ascii=escaped)


def orders(value: Any) -> Iterator[Any]:
    """`value` with the properties of its objects in every order, its own first."""
    if isinstance(value, dict) and value:
        inner = [list(itertools.islice(orders(each), 6)) for each in value.values()]
        for chosen in itertools.product(*inner):
            for order in itertools.permutations(zip(value, chosen)):
                yield dict(order)
    elif isinstance(value, list) and value:
        for chosen in itertools.product(*[list(itertools.islice(orders(each), 6)) for each in value]):
            yield list(chosen)
    else:
        yield value


def whole(value: Any) -> Any:
    """`value` with 1 for 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, list) else value


def judged(bytes_: Bytes, spec: GrammarSpec, schema: Mapping[str, Any], data: Any, valid: bool) -> str:
    """Which of KINDS one case is."""
    several = list(itertools.islice(orders(data), ORDERS))
    if not valid:
        through = any(bytes_.takes(spec, written(each, escaped)) for each in several for escaped in (False, True))
        return "accepted but wrong" if through else "right"
    if bytes_.takes(spec, written(data)):
        return "right"
    if any(bytes_.takes(spec, written(each)) for each in several):
        return "order"
    if whole(data) is not data and any(bytes_.takes(spec, written(whole(each))) for each in several):
        return "number"
    if not _fits(closed(schema), data):
        return "closed"
    return "format" if bytes_.takes_without_formats(schema, data) else "too strict"


def _fits(schema: Mapping[str, Any], data: Any) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(data))
    except Exception:  # a reference that only the suite's own server knows; then it is no matter of closed objects
        return True


def _kind_of_reason(message: str) -> str:
    """A complaint without what it quotes of the schema."""
    plain = re.sub(r"Resource '.*", "a reference to another document", message)
    plain = re.sub(r"regexes .* are not disjoint", "regexes are not disjoint", plain)
    return " ".join(re.sub(r"-?\d{5,}|-?\d\S*e\d+", "N", plain).split())


def run(bytes_: Bytes, path: Path, name: str) -> Keyword:
    """All cases of one file."""
    keyword = Keyword(name)
    for group in json.loads(path.read_text(encoding="utf-8")):
        keyword.schemas += 1
        schema = group["schema"]
        try:
            spec = bytes_.grammar.for_schema(schema)
        except UsageError as error:
            keyword.refused_schemas += 1
            keyword.reasons[_kind_of_reason(error.message)] += 1
            keyword.counts["refused"] += len(group["tests"])
            continue
        for test in group["tests"]:
            kind = judged(bytes_, spec, schema, test["data"], test["valid"])
            keyword.counts[kind] += 1
            if kind in ("accepted but wrong", "too strict"):
                keyword.examples.append(f"{kind}: {group['description']} / {test['description']}")
    return keyword


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown: a table of keywords for each part, then what is refused and why."""
    columns = ("schemas", "refused schemas", "cases", *KINDS, "covered, per cent")
    head = f"llguidance {result['llguidance']}, suite of {result['suite']}."
    lines = ["# JSON-Schema test suite, draft 2020-12\n", f"{head} Columns: see benchmarks/json_schema_coverage.py.\n"]
    for part in PARTS:
        rows = [*result[part]["by keyword"].items(), ("all", result[part]["all"])]
        cells = [[name, *(str(row[key]) for key in columns)] for name, row in rows]
        reasons: Counter[str] = Counter()
        for row in result[part]["by keyword"].values():
            reasons.update(row["reasons"])
        listed = [f"- {count}: {reason}" for reason, count in reasons.most_common()]
        lines += [f"## {part}\n", table(("", *columns), cells), f"\nRefused, by reason ({part}):\n", *listed, ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path, help="the folder draft2020-12 of the suite")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/json_schema.json")
    asked = parser.parse_args()
    bytes_ = Bytes()
    parts = {
        part: [run(bytes_, path, path.stem) for path in sorted((asked.suite / folder).glob("*.json"))]
        for part, folder in PARTS.items()
    }
    result = {
        "llguidance": version("llguidance"),
        "suite": asked.suite.resolve().parents[2].name,
        **{
            part: {"all": shares(keywords), "by keyword": {keyword.name: keyword.row() for keyword in keywords}}
            for part, keywords in parts.items()
        },
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    asked.out.with_suffix(".md").write_text(page(result), encoding="utf-8")
    for part, keywords in parts.items():
        print(part, result[part]["all"])
        for line in (line for keyword in keywords for line in keyword.examples):
            print(f"  {line}")


if __name__ == "__main__":
    main()
