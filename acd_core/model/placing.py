"""Where a model computes and in which dtype, each with the reason, and whether the device is there at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from acd_core.errors import MissingExtraError, UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str = "auto") -> tuple[torch.device, str]:
    """Return the device to load on, with the reason. Raises UsageError for one that is unknown or not here,
    MissingExtraError for "map" without accelerate."""
    if device == "map":
        if importlib.util.find_spec("accelerate") is None:
            raise MissingExtraError(
                "The device 'map' needs the package 'accelerate', which is not installed.",
                hint="pip install accelerate   (or name one device)",
            )
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), "device_map='auto' over all devices"
    if device != "auto":
        return _usable_device(device), "asked for"
    if torch.cuda.is_available():
        return torch.device("cuda"), "a CUDA device is available"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple's GPU is available"
    return torch.device("cpu"), "no GPU is available"


def choose_dtype(dtype: str = "auto", device: torch.device | None = None) -> tuple[torch.dtype, str]:
    """Return the dtype to load in, with the reason."""
    if dtype != "auto":
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise UsageError(f"Unknown dtype {dtype!r}.", hint=f"Use 'auto' or one of {', '.join(_DTYPES)}.")
        return _DTYPES[dtype], "asked for"
    device = device or choose_device()[0]
    if device.type == "cuda":
        if gpu_has_bf16(device):
            return torch.bfloat16, "the GPU computes in bf16"
        return torch.float16, "the GPU has no bf16"
    if device.type == "mps":
        return torch.float16, "Apple's GPU is fastest in fp16"
    if cpu_has_fast_bf16():
        return torch.bfloat16, "the CPU has AMX or AVX512 bf16 instructions"
    return torch.float32, "the CPU has no fast bf16"


def devices_of(model: Any) -> set[str]:
    """Return the devices that hold the weights of `model`."""
    return {str(weight.device) for weight in model.parameters()}


def gpu_has_bf16(device: torch.device) -> bool:
    """Return whether this CUDA device computes in bf16 itself; before Ampere it is emulated, slower than float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_has_fast_bf16() -> bool:
    """Return whether bf16 matrix products on this CPU run in hardware (oneDNN on AMX or AVX512_BF16)."""
    check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if check is None or not check():
        return False
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(errors="replace") if flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def _usable_device(device: Any) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, ValueError, TypeError, OverflowError):
        raise UsageError(
            f"Unknown device {device!r}.", hint="Use 'auto', 'cpu', 'cuda', 'cuda:0', 'mps' or 'map'."
        ) from None
    if found.type == "meta":
        raise UsageError("The device 'meta' holds no values, so no model can reply on it.", hint=_devices_here())
    if found.type == "cpu":
        return torch.device("cpu")
    try:
        torch.zeros(1, dtype=torch.float32, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError, ValueError) as error:
        said = str(error).strip().splitlines()
        why = said[0].split(". ")[0][:160] if said else type(error).__name__
        if why.startswith("Could not run") or "INTERNAL ASSERT" in why:  # torch's words for a backend it is without
            why = "this torch has no backend for it"
        raise UsageError(f"The device {device!r} cannot be used here: {why}.", hint=_devices_here()) from None
    return found


def _devices_here() -> str:
    """Return what can be used on this machine."""
    found = ["'cpu'"]
    if torch.cuda.is_available():
        found += [f"'cuda:{number}'" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("'mps'")
    return f"Use 'auto', or what is here: {', '.join(found)}."
