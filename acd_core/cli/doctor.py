"""`acd doctor`: what is installed, which device and dtype and why, what is missing and how to get it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import typer

from acd_core.cli.console import note, say, say_table
from acd_core.cli.gating import gate_facts
from acd_core.cli.loading import DEVICE_HELP, DTYPE_HELP

TRIAL_TOKENS = 8

if TYPE_CHECKING:
    from acd_core.chat import Chat
    from acd_core.model.backbone import Backbone

BASE = ("acd-integrations", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "pydantic")

# What each extra adds, and what it is for. The names are those in pyproject.toml (tests/cli compares the two).
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "langchain": (("langchain-core",), "ChatACD in chains and agents"),
    "llama-index": (("llama-index-core",), "ACDLLM in query engines"),
    "structured": (("llguidance",), "JSON schemas and forced tool calls"),
    "plots": (("matplotlib",), "figures of reports"),
    "eval": (("pyarrow",), "evaluation sets in parquet files"),
    "serve": (("fastapi", "uvicorn"), "examples/langchain_fastapi.py"),
    "lm-eval": (("lm-eval",), "tasks of lm-evaluation-harness on the joined distribution"),
    "inspect": (("inspect-ai",), "inspect-ai's evaluations"),
    "garak": (("garak",), "garak's probes"),
    "gguf": (("gguf", "accelerate"), "models in GGUF files"),
    "peft": (("peft", "accelerate"), "adapters as contrast, several devices"),
}


def doctor(
    model: str = typer.Option(
        "", "--model", "-m", help="Also check this model: folder, hub id, GGUF file, 'smollm2' or 'reference'."
    ),
    pair: str = typer.Option("", "--pair", "-p", help="Also check this pair against the model."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
) -> None:
    """Say what is installed, what would be used and why, and what is missing.

    With --model: its chat template, system slot and tools. With --pair too: whether the pair fits, and a short reply.
    """
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    say_table({"python": python} | {name: version_of(name) or "not installed" for name in BASE}, "installed")
    say("")
    say_table({extra: _extra(extra) for extra in EXTRAS}, "extras")
    say("")

    note("loading torch ...")
    from acd_core.model.backbone import choose_device, choose_dtype

    chosen_device, device_reason = choose_device(device)
    chosen_dtype, dtype_reason = choose_dtype(dtype, chosen_device)
    say_table(
        {
            "device": f"{chosen_device} ({device_reason})",
            "dtype": f"{str(chosen_dtype).removeprefix('torch.')} ({dtype_reason})",
            "threads": _threads(),
        },
        "would be used",
    )
    if not model and not pair:
        return

    from acd_core.model.backbone import Backbone

    say("")
    note(f"loading {model or 'reference'} ...")
    backbone = Backbone.load(model or "reference", device=device, dtype=dtype)
    say_table(backbone.describe() | _decoding(backbone) | _template(backbone), "model")
    if pair:
        say("")
        say_table(_pair(pair, backbone), "pair")


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _extra(extra: str) -> str:
    packages, purpose = EXTRAS[extra]
    versions = {package: version_of(package) for package in packages}
    if all(versions.values()):
        return "yes: " + ", ".join(f"{package} {version}" for package, version in versions.items())
    return f'no: {purpose}. pip install "acd-integrations[{extra}]"'


def _threads() -> str:
    import torch

    return str(torch.get_num_threads())


def _decoding(backbone: Backbone) -> dict[str, str]:
    """How a decode step runs here, tried where it is captured: what fails there is said here."""
    from acd_core.engine import Engine
    from acd_core.lm import ContrastiveLM
    from acd_core.reply.sharing import defaults_of

    engine = Engine(backbone)  # refuses what it cannot serve
    mode, reason = engine.decode_mode
    if mode == "graphs":
        with ContrastiveLM(backbone, None, "none") as lm:
            lm.generate("Hello", max_tokens=TRIAL_TOKENS)
            mode, reason = lm.engine.decode_mode
    return {
        "decode step": f"{mode} ({reason})",
        "rows": f"at most {engine.options.max_rows} in one forward",
        **defaults_of(backbone).describe(),
    }


def _template(backbone: Backbone) -> dict[str, str]:
    """How the model's own chat template treats a system message, tools, and the slot of a soft prompt."""
    from acd_core.chat import Chat
    from acd_core.chat.survey import survey

    chat = Chat(backbone.tokenizer)
    place = chat.template.tool_place
    layout = chat.layout([{"role": "user", "content": "Hello"}], "Be kind.")
    return {
        "chat template": f"renders; one short message with a text prompt is {len(layout.before)} tokens",
        "system slot": "the template's own system turn"
        if chat.supports_system_role
        else "none: prompts go to the start of the first user turn",
        "tools": f"shown {place.described}" if place else "the template does not render tools",
        **_replies(backbone, chat),
        **_conversations(survey(chat)),
    }


def _conversations(done: dict[str, str]) -> dict[str, str]:
    """What agents send and the template does not take as it is, by what is done to it."""
    by_repair: dict[str, list[str]] = {}
    for kind, repair in done.items():
        by_repair.setdefault(repair, []).append(kind)
    repairs = [f"{', '.join(kinds)}: {repair}" for repair, kinds in by_repair.items()]
    return {"agents' histories": "; ".join(repairs) or "all rendered as they are"}


def _replies(backbone: Backbone, chat: Chat) -> dict[str, str]:
    """What can be read of the model's replies, and whether a call can be forced."""
    from acd_core.toolcalls import parses_thoughts, parses_tools, response_template_for, thought_marks, tool_call_format

    rows = response_template_for(chat.tokenizer, backbone.model_type)
    marks = " or ".join(
        dict.fromkeys(f"{opening.strip()} ... {close.strip()}" for opening, close in thought_marks(rows))
    )
    read = f"read, between {marks}" if marks else "read"
    found = {"thoughts": read if parses_thoughts(rows) else "no marks of thoughts are known for it"}
    if chat.renders_tools:
        forced = tool_call_format(chat.tokenizer, backbone.eos_ids) is not None
        how = "read, and can be forced" if forced else "read, and cannot be forced: arguments are not written as JSON"
        found["tool calls"] = how if parses_tools(rows) else "cannot be read: its tokenizer has no response_template"
    return found


def _pair(name: str, backbone: Backbone) -> dict[str, str]:
    """Whether the pair fits, what was measured when it was tuned, and a trial of both branches."""
    from acd_core.artifacts.pair import PromptPair
    from acd_core.lm import ContrastiveLM

    pair = PromptPair.load(name, backbone=backbone)
    measured = {key: value for key, value in pair.metrics.items() if isinstance(value, (int, float))}
    with ContrastiveLM(backbone, pair, "acd") as lm:
        reply = lm.generate("Hello", max_tokens=TRIAL_TOKENS, gate=False)
    return {
        "pair": f"{name} ({pair.id})",
        "fits": f"yes, made for {pair.base_model}" if pair.base_model else "yes: texts fit every model",
        "alpha": f"{pair.alpha:g} (recommended)",
        "gate": gate_facts(pair.gate),
        "measured": ", ".join(f"{key} {value:g}" for key, value in measured.items()) or "nothing",
        "trial": f"{reply.usage.completion_tokens} tokens, both branches; they differ by "
        f"{reply.report.mean_divergence:.2f} on average (0: the pair does nothing, 1: nothing in common)",
    }
