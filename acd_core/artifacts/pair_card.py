"""The model card of a prompt pair, filled in from `pair.json`.

Every text in it comes from somewhere else (a model's name, a judge's, a licence): it is quoted for the place it stands
in, so that none can add a line to the front matter, end a fence or a cell, or bring markup of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from acd_core.artifacts.gate import Levels
from acd_core.files.reading import visible
from acd_core.model.on_disk import is_hub_id

_RECOMMENDED = ("alpha", "plausibility", "contrast_tokens")
_FIGURES = ("validation", "test", "harmless", "over_refusal")


def model_card(document: Mapping[str, Any], length: int, name: str = "this-folder") -> str:
    """Markdown with the hub's front matter: what the pair is for, how it was made, its figures, its limits.

    document: what stands in `pair.json`. length: vectors of the longer prompt. name: how a reader would load the pair,
    a hub id or a folder.
    """
    base = str(document.get("base_model") or "any chat model (textual pair)")
    recorded = dict(_flat(document.get("metrics") or {}))
    figures = {key: value for key, value in recorded.items() if key.startswith(_FIGURES)}
    made = {key: value for key, value in recorded.items() if key not in figures and key not in _RECOMMENDED}
    judged = f", judged by {_code(recorded['judge'])}" if recorded.get("judge") else ""
    alpha, licence = _inline(document.get("alpha")), document.get("license")
    kind = f"soft, {length} vectors at most" if document.get("kind") == "soft" else "textual"
    revision = f" (revision {_code(document['base_revision'])})" if document.get("base_revision") else ""
    return "\n".join(
        [
            *_front_matter(document),
            "",
            "# A prompt pair for Adversarial Contrastive Decoding",
            "",
            f"Two opposite system prompts ({kind}) for **{_inline(base)}**{revision}.",
            "Every token of a reply is taken from",
            f"`(logit_safe - alpha * logit_adversarial) / (1 - alpha)`, recommended alpha **{alpha}**",
            f"{_head_and_window(document)}(arXiv 2406.16743).",
            "",
            "```python",
            "from acd_integrations.langchain import ChatACD  # or acd_integrations.llama_index.ACDLLM",
            "",
            f"llm = ChatACD(model={_literal(base)}, pair={_literal(name)})",
            "```",
            "",
            "`safe/` and `adversarial/` are also PEFT prompt-tuning adapters of the base model.",
            "",
            *_gate(document.get("gate")),
            "## Figures",
            "",
            f"On prompts that the tuning run held out{judged}; names with `plain` are the model alone.",
            "",
            *_table(figures),
            "",
            "## How it was made",
            "",
            *_table(made),
            "",
            "## Limits",
            "",
            *_limits(document),
            "",
            "**The adversarial prompt makes its own model less safe when it is decoded alone.** It exists to be",
            "subtracted; keep it as you would keep any jailbreak of your model.",
            "",
            "## Licence",
            "",
            f"Stated as {_inline(licence)}." if licence else "None was stated; ask who published the pair.",
            "The base model's own licence applies to its use.",
            "",
            f"Made with acd-integrations {_inline(document.get('library_version'))}, transformers "
            f"{_inline(document.get('transformers_version'))}, pair format {_inline(document.get('format_version'))}.",
            "",
        ]
    )


def _head_and_window(document: Mapping[str, Any]) -> str:
    """The recommended settings beside alpha, where there are any."""
    said = [f"plausibility **{document['plausibility']:g}**"] if document.get("plausibility") else []
    if document.get("contrast_tokens") is not None:
        said.append(f"contrast_tokens **{document['contrast_tokens']}**")
    return f"and {', '.join(said)} " if said else ""


def _gate(described: Mapping[str, Any] | None) -> Iterator[str]:
    if described is None:
        return
    found = described["prompt"]
    levels = Levels(tuple(found["harmless"]), tuple(found["harmful"]), found["threshold"])
    yield "**The pair has a gate.** The prompts act only on requests that the model itself reads as harmful (in layers"
    yield f"{', '.join(map(str, described['layers']))}); to every other one it replies as if there were no pair. At the"
    yield f"recommended threshold the gate opens for {levels.share():.1%} of the harmless requests and"
    yield f"{levels.caught():.1%} of the harmful ones it was validated on; `gate=False` has the prompts always act."
    yield ""


def _front_matter(document: Mapping[str, Any]) -> Iterator[str]:
    yield from ("---", "library_name: acd-integrations", "tags: [safety, prompt-tuning, contrastive-decoding, peft]")
    if is_hub_id(document.get("base_model")):  # the hub checks that it exists
        yield from (f"base_model: {_yaml(document['base_model'])}", "base_model_relation: adapter")
    if document.get("license"):
        yield f"license: {_yaml(document['license'])}"
    yield "---"


def _limits(document: Mapping[str, Any]) -> Iterator[str]:
    if document.get("kind") == "soft":
        yield f"The vectors mean something to this very model only (fingerprint {_code(document.get('fingerprint'))});"
        yield "the library refuses them for another one."
    yield "The figures come from the tuning run's own held-out prompts, in English, read by the judge named above:"
    yield "measure harm **and** over-refusal on your own traffic with `acd evaluate` before you rely on it."


def _table(rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return ["Nothing was recorded."]
    return ["| what | value |", "|---|---|", *(f"| {_cell(name)} | {_cell(rows[name])} |" for name in sorted(rows))]


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers, texts and flags, those of nested tables under `outer.inner`; curves and other lists stay in the file."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (str, int, float)):
            yield prefix + name, value


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _inline(text.replace("|", "/")[:120])


def _inline(value: Any) -> str:
    """As text within a line of Markdown: what would be markup is escaped; "_" within a word is none."""
    return re.sub(r"([\\`*\[\]<>~|#]|(?<!\w)_|_(?!\w))", r"\\\1", _line(value))


def _code(value: Any) -> str:
    """As a code span."""
    return f"`{_line(value).replace('`', chr(39))}`"


def _literal(value: str) -> str:
    """As a text in Python, on one line."""
    return visible(json.dumps(value, ensure_ascii=False))


def _yaml(value: Any) -> str:
    """As a YAML scalar that is read as this very text: plain where no YAML could read it otherwise, else quoted."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([./+-][A-Za-z0-9]+|_[A-Za-z0-9]+)+", text)
    return text if plain else visible(json.dumps(text, ensure_ascii=False))


def _line(value: Any) -> str:
    return visible(" ".join(str(value).split()))
