"""The application: its verbs, its two global options, and how an error reaches a person.

An error of our own tree is printed as its message and its hint, without a traceback: exit code 2 for a mistake in what
was asked (UsageError), 1 for everything else, 130 for Ctrl-C. What the system says (a full disk, a forbidden folder) is
printed likewise with code 1, and a fault of ours with code 70. `--debug`, anywhere on the line, shows the traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from acd_core.cli.chat import chat
from acd_core.cli.console import say, stderr
from acd_core.cli.demo import demo
from acd_core.cli.doctor import doctor, version_of
from acd_core.cli.evaluate import evaluate
from acd_core.cli.expert import expert
from acd_core.cli.gate import gate
from acd_core.cli.pair import pair_app
from acd_core.cli.train import train
from acd_core.cli.tune import tune
from acd_core.errors import ACDError, UsageError
from acd_core.files.reading import reason_of, visible

INTERRUPTED = 130


FAULT = 70
"""Exit code of an error that nobody raised on purpose (EX_SOFTWARE of sysexits.h)."""
_COMMANDS_OWN = (typer.Exit, typer.Abort)


class _Verbs(TyperGroup):
    """Shows our errors as text, and takes --debug before or after the verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["acd.debug"] = "--debug" in args
        return super().parse_args(ctx, [argument for argument in args if argument != "--debug"])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ACDError as error:
            if ctx.meta["acd.debug"]:
                raise
            _show(error)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except KeyboardInterrupt:
            if ctx.meta["acd.debug"]:
                raise
            stderr().print("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if ctx.meta["acd.debug"] or isinstance(error, (*_COMMANDS_OWN, BrokenPipeError)) or _of_typer(error):
                raise
            _show(_as_ours(error))
            raise typer.Exit(1 if isinstance(error, OSError) else FAULT) from None


def _of_typer(error: Exception) -> bool:
    """Whether typer shows `error` itself: a mistake on the command line."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def _as_ours(error: Exception) -> ACDError:
    """An error that is none of ours, as one of ours."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return ACDError(f"The system says: {reason_of(error)}{where}.", hint="--debug shows where this came from.")
    return ACDError(
        f"acd failed: {type(error).__name__}: {reason_of(error)}",
        hint="This is a fault of acd. Run the same command with --debug, and report what it prints with the output of "
        "`acd doctor`.",
    )


def _show(error: ACDError) -> None:
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), visible(error.message)), soft_wrap=True)
    if error.hint:
        console.print(Text.assemble(("next:  ", "bold"), visible(error.hint)), soft_wrap=True)


app = typer.Typer(
    name="acd",
    cls=_Verbs,
    help="Safer decoding for any local chat model: two opposite prompts, tuned once, contrasted at every token.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is for --debug and for bugs, and then in Python's own form
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"acd {version_of('acd-integrations') or 'unknown'}")
        raise typer.Exit()


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_print_version, is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. Works after the verb too."),
) -> None:
    """What can be said before the verb. The help is the application's own (`app`)."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of transformers and of downloads are noise in a log


app.command()(demo)
app.command()(tune)
app.command()(gate)
app.command()(expert)
app.command()(train)
app.command()(chat)
app.command()(evaluate)
app.command()(doctor)
app.add_typer(pair_app)


def main() -> None:
    """The console script."""
    _open_streams()
    try:
        app()
    except BrokenPipeError:  # `acd doctor | head`
        sys.stderr.close()
        sys.exit(1)


def _open_streams() -> None:
    """Where a caller closed a standard stream (`acd chat <&-`), there is none in its place: nothing to read, and what
    is written goes nowhere. In this order the new ones take the free descriptors 0, 1 and 2, so that no other file
    gets one of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (for the process's life)
