"""One error tree. A message says what is wrong with the offending value; the hint is the next command to run."""

from __future__ import annotations

_SHOWN = 100  # letters of a refusal in an error's text


class ACDError(Exception):
    """Base of every error this package raises on purpose.

    `hint` is what to do next (usually a command); it is part of the text of the error.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\n  -> {hint}" if hint else message)


class UsageError(ACDError, ValueError):
    """A value the caller gave is impossible, unknown or contradicts another one."""


class PolicyError(UsageError):
    """A call asks for what the operator's policy does not allow (`acd_core.reply.policy.Policy`)."""


class ContextLengthError(UsageError):
    """The prompt (with the prompt pair and at least one new token) does not fit the model's context."""


class ModelError(ACDError):
    """The model or its tokenizer cannot be found, loaded, or used by this engine."""


class TemplateError(ACDError):
    """The model's chat template is missing or cannot render the conversation."""


class PairError(ACDError):
    """A prompt pair cannot be found, read, or trusted (truncated, tampered with, not finite)."""


class PairMismatchError(PairError):
    """The prompt pair was made for another model."""


class GateError(PairError):
    """A gate cannot be read or trusted (damaged, not finite), or none is there where one was asked for."""


class ExpertError(ACDError):
    """A LoRA expert cannot be found, read or trusted, or it does not fit the model."""


class TuningError(ACDError):
    """The pair or the expert cannot be tuned on this model or from these anchors."""


class MissingExtraError(ACDError, ImportError):
    """A feature needs an optional package; the hint names the install command."""


class EngineError(ACDError):
    """The engine could not serve a request."""


class EngineClosedError(EngineError):
    """The engine was closed before or while the request was served."""


class QueueFullError(EngineError):
    """Too many requests are waiting; try again later or raise `max_queue`."""


class DeadlineError(EngineError, TimeoutError):
    """The request's own deadline passed."""


class OutOfMemoryError(EngineError):
    """The device has no room even for this request alone."""


class RefusalError(ACDError, ValueError):
    """The model refused where a forced format (tool call, JSON schema) was asked for.

    `refusal` is the model's own text. A ValueError too: that is what hosts catch around one piece of a larger job (one
    chunk of an index, one step of a refinement), so that one refusal does not end the others.
    """

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal
        words = " ".join(refusal.split())
        super().__init__(
            "The model refused instead of filling the requested format"
            + (f": {words[:_SHOWN]!r}{'...' if len(words) > _SHOWN else ''}" if words else "."),
            hint="Read `error.refusal`, or ask with include_raw=True to get the message itself.",
        )


def one_line(error: object, most: int = 200) -> str:
    """What a foreign error says, on one line of at most so many letters; its type's name where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional `package` that is not installed, naming the command for `extra`."""
    return MissingExtraError(
        f"This needs the package {package!r}, which is not installed.",
        hint=f'pip install "acd-integrations[{extra}]"',
    )
