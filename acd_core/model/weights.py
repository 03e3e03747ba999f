"""Weights out of files into models, and whether they are all there.

transformers fills what it does not find with random numbers and passes over what it has no place for, with a warning
each: the first makes every reply noise, the second may mean that the model computes something else than was trained.
Both are errors here, as are values that are not finite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from acd_core.errors import ModelError
from acd_core.locks import ForkSafeLock

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = (
    "Download or save it again, whole: every file that model.safetensors.index.json names, of one and the same model."
)
_TOGETHER = "Its config.json and its weights belong to two models; take both from one place."
_SHOWN = 3
# What earlier releases of transformers saved of masks and positions; models compute them.
_COMPUTED = re.compile(r"(^|\.)(inv_freq|original_inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$")

_building = ForkSafeLock()
"""Held while transformers builds a model: it sets torch's default dtype and replaces torch's initialisers, for every
thread of the process, and two at once would leave them changed for good. What can be done outside is (downloads)."""


def build_checked(make: Callable[[], Any], subject: str, hint: str = _AGAIN) -> Any:
    """Return the model that `make` loads, checked. make: gives the model and transformers' loading info. subject: what
    is loaded, as a sentence begins.

    Raises ModelError.
    """
    with _building:
        model, report = make()
    absent = sorted(str(each) for each in report["missing_keys"])
    if absent:
        raise ModelError(
            f"{subject} lacks {len(absent)} weights of its architecture {_architecture(model)!r}, "
            f"for example {_some_names(absent)}.",
            hint=hint,
        )
    other = sorted(str(each[0]) for each in report.get("mismatched_keys") or ())
    if other:
        raise ModelError(
            f"{subject} holds {len(other)} weights of another shape than its config gives, "
            f"for example {_some_names(other)}.",
            hint=_TOGETHER,
        )
    if getattr(model.config, "quantization_config", None) is None:  # packings bring tensors of their own
        _check_foreign(model, report["unexpected_keys"], subject)
    return model


def change_adapters(change: Callable[[], None]) -> None:
    """Run `change`, which builds adapters into a model, while nothing else builds."""
    with _building:
        change()


def check_loaded(model: nn.Module, subject: str) -> None:
    """Raise ModelError for a model with weights that were never loaded; those offloaded by accelerate were."""
    for name, weight in model.named_parameters():
        if weight.is_meta and not _is_offloaded(model, name):
            raise ModelError(
                f"{subject} has weights that were never loaded: {name} lies on the meta device.",
                hint="Load it with from_pretrained, or give it to Backbone.load by its folder.",
            )


def check_finite(model: nn.Module, subject: str, known: Collection[int] = ()) -> None:
    """Raise ModelError for a model with weights that hold NaN or infinity; all are read, where they lie, but those
    whose ids are `known`: they were read before."""
    largest: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
    for name, weight in model.named_parameters():
        if weight.is_meta or id(weight) in known:
            continue
        if weight.is_floating_point() and weight.numel() and type(weight) in (torch.Tensor, nn.Parameter):
            try:
                found = torch.linalg.vector_norm(weight.detach(), float("inf"))  # reads all of it, and copies nothing
            except RuntimeError:  # a type that is only stored (float8), or a layout without norms
                continue
            largest.setdefault(weight.device, []).append((name, found.float()))
    for found_there in largest.values():
        finite = torch.stack([norm for _, norm in found_there]).cpu().isfinite().tolist()
        wrong = [name for (name, _), good in zip(found_there, finite) if not good]
        if wrong:
            half = next(iter(model.parameters())).dtype == torch.float16
            raise ModelError(
                f"{subject} holds values that are not finite (NaN or infinity) in {len(wrong)} weights, "
                f"for example {_some_names(wrong)}.",
                hint="float16 ends at 65504: try --dtype bfloat16 or float32." if half else _AGAIN,
            )


def weight_files(source: str, revision: str | None) -> list[Path]:
    """Return the safetensors files of a folder or hub id, downloaded where they are not here; empty where that cannot
    be told: loading says why, and says it better.
    """
    folder = Path(source)
    try:
        if folder.is_dir():
            single = folder / _SINGLE
            return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
        from transformers.utils.hub import cached_file, get_checkpoint_shard_files

        quiet = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        one = cached_file(source, _SINGLE, **quiet)
        if one is not None:
            return [Path(one)]
        index = cached_file(source, _INDEX, **quiet)
        if index is None:
            return []
        return [Path(each) for each in get_checkpoint_shard_files(source, index, revision=revision)[0]]
    except Exception:
        return []


def check_files(files: Sequence[Path], config: Any, subject: str) -> None:
    """Raise ModelError where `files` cannot be the weights of a model with this config: it would be built at the
    size that the config names before its weights are looked at. Only their headers are read.

    Files that cannot be read are left to transformers, which says why.
    """
    sizes: set[int] = set()
    count, whole = 0, []
    try:
        for path in files:
            with safe_open(str(path), framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (no dict)
                    part = file.get_slice(key)
                    count += 1
                    sizes.update(part.get_shape())
                    if part.get_dtype().startswith(("I", "U", "BOOL")) and key.endswith(".weight"):
                        whole.append(key)
    except Exception:
        return
    if not count or getattr(config, "quantization_config", None) is not None:
        return
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    given = {name: getattr(text, name, None) for name in ("hidden_size", "vocab_size")}
    absent = [name for name, size in given.items() if isinstance(size, int) and size not in sizes]
    if isinstance(layers, int) and layers > count:
        wrong = f"its config claims {layers} layers, and there are {count} weights"
    elif absent:
        wrong = f"its config gives {given[absent[0]]} as {absent[0]}, and no weight has that size"
    elif whole:
        wrong = f"{len(whole)} weights are whole numbers and no config says how to unpack them, for example {whole[0]}"
    else:
        return
    raise ModelError(f"{subject} is not usable: {wrong}.", hint=_TOGETHER)


def embedding_rows(model: Any, files: Iterable[Path], rows: Sequence[int]) -> torch.Tensor | None:
    """Return these rows of the embedding as `files` have them, float32 [rows, width]; None where they are not found
    there.

    For a model that holds them rounded to float16: rounded again, they would not be what bfloat16 gives.
    """
    held = model.get_input_embeddings().weight
    if held.is_meta:
        return None
    name = next((name for name, weight in model.named_parameters() if weight is held), "")
    ending = "." + ".".join(name.split(".")[-2:])
    try:
        for path in files:
            with safe_open(str(path), framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (no dict)
                    if not f".{key}".endswith(ending) or list(file.get_slice(key).get_shape()) != list(held.shape):
                        continue
                    part = file.get_slice(key)
                    found = torch.cat([part[row : row + 1] for row in rows]).float()
                    here = held.detach()[torch.tensor(rows, device=held.device)].cpu()
                    return found if torch.equal(found.to(here.dtype), here) else None
    except Exception:  # read once already by transformers: what fails here is a way of storing we do not know
        return None
    return None


def _check_foreign(model: Any, keys: Iterable[Any], subject: str) -> None:
    """Raise where the file has weights for places inside of what the model computes: a layer more, a bias, a scale.
    What stands beside it (an image tower, a value head) is no part of a language model, and may stay away."""
    modules, buffers = dict(model.named_modules()), {name for name, _ in model.named_buffers()}
    wrong = []
    for key in map(str, keys):
        if _COMPUTED.search(key) or key in buffers:
            continue
        parts = key.split(".")
        around = [modules[path] for at in range(1, len(parts)) if (path := ".".join(parts[:at])) in modules]
        layered = any(isinstance(module, nn.ModuleList) for module in around)
        own = bool(around) and next(around[-1].children(), None) is None  # a linear layer, a norm, the embedding
        if (layered or own) and not _predicts_more(model, parts):
            wrong.append(key)
    if wrong:
        raise ModelError(
            f"{subject} holds {len(wrong)} weights that its architecture {_architecture(model)!r} has no place for, "
            f"for example {_some_names(sorted(wrong))}: without them the model would be another one.",
            hint="Its config.json belongs to another model (layers, biases, quantisation); take both from one place.",
        )


def _predicts_more(model: Any, parts: Sequence[str]) -> bool:
    """Return whether a weight is of the layers behind the last that guess further tokens (multi-token prediction)."""
    getter = getattr(model.config, "get_text_config", None)
    config = getter() if callable(getter) else model.config
    more, layers = getattr(config, "num_nextn_predict_layers", None), getattr(config, "num_hidden_layers", None)
    if not isinstance(more, int) or not isinstance(layers, int):
        return False
    return any(part.isdecimal() and layers <= int(part) < layers + more for part in parts)


def _is_offloaded(model: nn.Module, name: str) -> bool:
    parts = name.split(".")
    return any("_hf_hook" in model.get_submodule(".".join(parts[:at])).__dict__ for at in range(len(parts)))


def _architecture(model: Any) -> str:
    return str(getattr(model.config, "model_type", type(model).__name__))


def _some_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
