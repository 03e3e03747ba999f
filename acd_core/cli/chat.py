"""`acd chat`: talk to a model, with or without the contrast. The adversarial prompt alone is never a mode of it."""

from __future__ import annotations

import sys
from typing import Any

import typer

from acd_core.cli.console import note, say, say_reply, say_table
from acd_core.cli.gating import GATE_HELP, gate_said, gate_setting
from acd_core.cli.loading import (
    DEFAULTS_HELP,
    DETERMINISTIC_HELP,
    DEVICE_HELP,
    DTYPE_HELP,
    MODEL_HELP,
    PAIR_HELP,
    RECHECK_HELP,
    REVISION_HELP,
    pair_for,
)
from acd_core.errors import ACDError, UsageError
from acd_core.params import Done, Generation, GenerationParams, TextDelta
from acd_core.spec import LMSpec

HELP = """/alpha X    strength of the contrast from now on, in [0, 1); 0 is exactly the model with the kept prompt
/method M   another method (see acd chat --help)
/system T   a system prompt of your own, kept after the safe one; starts the conversation anew
/reset      forget the conversation
/quit       leave (so does Ctrl-D)"""


def chat(
    model: str = typer.Option("reference", "--model", "-m", help=MODEL_HELP),
    pair: str = typer.Option("", "--pair", "-p", help=PAIR_HELP),
    expert: str = typer.Option("", help="Folder of a LoRA expert (acd expert) or of steering (acd train scans)."),
    method: str = typer.Option("", help="acd (default with a pair), none, safe-prompt, rose, ... "),
    alpha: float | None = typer.Option(None, help="Strength in [0, 1). Default: what the pair recommends."),
    gate: str = typer.Option("", help=GATE_HELP),
    system: str = typer.Option("", help="A system prompt of your own."),
    max_tokens: int | None = typer.Option(None, help="Longest reply, in tokens."),
    temperature: float = typer.Option(0.0, help="0 is greedy."),
    seed: int | None = typer.Option(None, help="Fixes the draws of every reply."),
    stream: bool = typer.Option(True, "--stream/--no-stream", help="Print tokens as they come."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
    revision: str = typer.Option("", help=REVISION_HELP),
    recheck: int | None = typer.Option(None, min=0, help=RECHECK_HELP),
    deterministic: bool = typer.Option(False, "--deterministic", help=DETERMINISTIC_HELP),
    generation_defaults: bool = typer.Option(
        True, "--generation-defaults/--no-generation-defaults", help=DEFAULTS_HELP
    ),
) -> None:
    """Talk to a model. Reads lines; on a pipe, every line is one turn and only the replies go to stdout."""
    # Checked before the model is loaded: a typing mistake should not cost a minute.
    params = GenerationParams.of(
        alpha=alpha, max_tokens=max_tokens, temperature=temperature, seed=seed, method=check_method(method)
    )
    wants_pair = pair or method == "acd" or not (method or expert)
    spec = LMSpec(
        model,
        pair_for(model, pair) if wants_pair else None,
        method or None,
        expert=expert or None,
        gate=gate_setting(gate),
        recheck=recheck,
        device=device,
        dtype=dtype,
        revision=revision or None,
        deterministic=deterministic,
        generation_defaults=generation_defaults,
    )
    named = spec.pair
    spec = spec.with_artifacts()
    note(f"loading {model} ...")
    with spec.load() as lm:
        conversation = Conversation(lm, params, system, stream)
        if sys.stdin.isatty():
            say_table(lm.backbone.describe() | {"pair": str(named or "none"), "method": lm.method})
            note("/help lists the commands; Ctrl-D leaves; Ctrl-C stops a reply.")
        for line in _lines():
            if line.startswith("/"):
                if line in ("/quit", "/exit"):
                    return
                _shielded(conversation.command, line)
            elif line:
                _shielded(conversation.turn, line)


def check_method(method: str) -> str | None:
    """`method`, or None for an empty one. Raises UsageError for an unknown one, before anything is loaded."""
    if not method:
        return None
    from acd_core.methods.table import method_named

    return method_named(method).name  # without the flag that lets the adversarial prompt decode alone


class Conversation:
    """The turns so far, and the settings of the next one."""

    def __init__(self, lm: Any, params: GenerationParams, system: str, stream: bool) -> None:
        self._lm = lm
        self._params = params
        self._stream = stream
        self._system = system
        self._messages: list[dict[str, str]] = []
        self._reset()

    def turn(self, text: str) -> None:
        """Ask, print the reply, remember both. After an error the question is forgotten, so that one can go on."""
        self._messages.append({"role": "user", "content": text})
        reply: str | None = None
        try:
            reply = self._streamed() if self._stream else self._whole()
        finally:
            if reply is None:
                self._messages.pop()
        if reply is not None:
            self._messages.append({"role": "assistant", "content": reply})

    def _streamed(self) -> str:
        """The reply as it comes. Ctrl-C ends it where it stands; closing the iterator frees its rows in the engine."""
        events = self._lm.stream(self._messages, self._params)
        text, reply = "", None
        try:
            for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                    say_reply(event.text, end="")
                elif isinstance(event, Done):
                    text, reply = event.generation.text, event.generation
        except KeyboardInterrupt:
            note(" [stopped]")
        finally:
            events.close()
            say("")
        _report(reply)
        return text

    def _whole(self) -> str:
        reply = self._lm.generate(self._messages, self._params)
        say_reply(reply.text)
        _report(reply)
        return str(reply.text)

    def command(self, line: str) -> None:
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            note(HELP, style="")
        elif name == "/reset":
            self._reset()
        elif name == "/system":
            self._system = value
            self._reset()
        elif name == "/alpha":
            self._params = GenerationParams.of(self._params, alpha=value)
        elif name == "/method":
            self._params = GenerationParams.of(self._params, method=check_method(value))
        else:
            raise UsageError(f"Unknown command {name!r}.", hint="/help lists the commands.")

    def _reset(self) -> None:
        self._messages = [{"role": "system", "content": self._system}] if self._system else []


def _report(reply: Generation | None) -> None:
    if reply is None or not sys.stdin.isatty():
        return
    usage, gate = reply.usage, reply.report.gate
    counts = f"[{usage.prompt_tokens} tokens in ({usage.cached_tokens} cached), {usage.completion_tokens} out]"
    note(counts if gate is None else f"{counts} {gate_said(gate)}")


def _shielded(act: Any, line: str) -> None:
    """A bad line costs the line, not the session, when a person is typing; on a pipe it ends the run."""
    try:
        act(line)
    except ACDError as error:
        if not sys.stdin.isatty():
            raise
        note(f"error: {error}", style="red")


def _lines() -> Any:
    interactive = sys.stdin.isatty()
    if interactive:
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history)
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"A line on stdin is not UTF-8 text ({error.reason}).", hint="Send UTF-8.") from None
        except EOFError:
            if interactive:
                say("")
            return
