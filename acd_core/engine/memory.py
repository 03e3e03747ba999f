"""How much room there is, and what running out of it looks like."""

from __future__ import annotations

import contextlib
import os

import torch

from acd_core.errors import OutOfMemoryError


def no_room(error: BaseException) -> OutOfMemoryError:
    """The error of a request that does not even fit alone."""
    return OutOfMemoryError(
        f"The device has no room for this request alone: {' '.join(str(error).split())[:160]}",
        hint="Lower max_tokens, shorten the prompt, or load the model in a smaller dtype.",
    )


def doubled(needed: int, limit: int) -> int:
    """`needed` rounded up to a power of two, but no further than `limit`."""
    size = 16
    while size < needed:
        size *= 2
    return max(needed, min(size, limit))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that host or device memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def give_back(device: torch.device) -> None:
    """Let others have what the allocator keeps of memory that nothing uses any more. Call it where the error that said
    so is gone: while it is handled, its frames still hold what they held."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):  # a device that failed, or one that captures for somebody else
            torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Bytes free on `device` right now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30
