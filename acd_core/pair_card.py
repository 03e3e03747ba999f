"""The model card of a prompt pair, filled in from `pair.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_card(document: Mapping[str, Any], length: int) -> str:
    """Markdown with the hub's front matter: what the pair is for, how it was made, its figures, its limits."""
    base = document.get("base_model") or "any chat model (textual pair)"
    metrics = document.get("metrics") or {}
    front = ["---", "library_name: acd-integrations", "tags: [safety, prompt-tuning, contrastive-decoding]"]
    if document.get("base_model") and document["base_model"] != "reference":
        front.append(f"base_model: {document['base_model']}")
    front.append("---")
    figures = "\n".join(f"| {name} | {_short(value)} |" for name, value in sorted(metrics.items()) if _is_figure(value))
    kind = f"soft, {length} vectors at most" if document.get("kind") == "soft" else "textual"
    return "\n".join(
        [
            *front,
            "",
            "# A prompt pair for Adversarial Contrastive Decoding",
            "",
            f"Two opposite system prompts ({kind}) for **{base}**. Every token of a reply is taken from",
            f"`(logit_safe - alpha * logit_adversarial) / (1 - alpha)`, recommended alpha **{document.get('alpha')}**",
            "(arXiv 2406.16743).",
            "",
            "```python",
            "from acd_integrations.langchain import ChatACD",
            "",
            f'llm = ChatACD(model="{base}", pair="this-folder")',
            "```",
            "",
            "## Figures of the tuning run",
            "",
            "| what | value |",
            "|---|---|",
            figures or "| none recorded | |",
            "",
            "## Limits",
            "",
            f"The vectors mean something to this very model only (fingerprint `{document.get('fingerprint')}`); the",
            "library refuses them for another one. The figures come from the tuning run's own validation prompts:",
            "measure harm **and** over-refusal on your own traffic with `acd evaluate` before you rely on it.",
            "",
            "**The adversarial prompt makes its own model less safe when it is decoded alone.** It exists to be",
            "subtracted; keep it as you would keep any jailbreak of your model.",
            "",
            f"Made with acd-integrations {document.get('library_version')}, transformers "
            f"{document.get('transformers_version')}, pair format {document.get('format_version')}.",
            "",
        ]
    )


def _is_figure(value: Any) -> bool:
    return (isinstance(value, (str, int, float)) and not isinstance(value, bool)) or isinstance(value, bool)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/")[:120]
