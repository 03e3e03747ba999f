"""GGUF files as models: config, tokenizer and weights out of one file, by transformers, without a network.

The weights are dequantised as they are read. Tuning needs gradients through them, LoRA experts and soft prompts need
ordinary layers, and transformers keeps blocks packed for three architectures only, with kernels it downloads and runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from acd_core.errors import ACDError, ModelError, missing_extra, one_line
from acd_core.locks import ForkSafeLock
from acd_core.model import weights
from acd_core.model.gguf_header import NOT_A_FILE, Header, Tensor, read_header

EMBEDDING = "token_embd.weight"
WHY = "tuning, soft prompts and LoRA experts need ordinary weights"
_LONGEST_USED = 4096
_IN_LAYER = re.compile(r"blk\.(\d+)\.(?!.*(rot_embd|rope_freqs|rope_factors))")
_SCALED = ("linear", "yarn")  # kinds of scaled positions that are said by numbers alone
_WIDE_GEMMA = {"gemma2": 46, "gemma3": 62}  # layers of the 27B models, which scale attention by another width
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_reading = ForkSafeLock()


class Loaded(NamedTuple):
    """A model out of a file. kinds: the quantisation types in it, as "Q4_1, F32"; notes: what `acd doctor` prints."""

    model: Any
    tokenizer: Any
    kinds: str
    notes: dict[str, str]


def read_config_and_tokenizer(path: Path, name: str) -> tuple[Any, Any]:
    """Return config and tokenizer out of the file at `path`, which is called `name`, without its weights.

    Raises ModelError for a file that is not usable, MissingExtraError where the packages for GGUF are not installed.
    """
    header = _read_checked_header(path)
    with _as_model_error(header, name), _reading_fast_and_offline(), tempfile.TemporaryDirectory() as empty:
        return _config(header, name, empty), _tokenizer(header, name, empty)


def load(path: Path, name: str, dtype: torch.dtype, **placed: Any) -> Loaded:
    """Return the model of the file at `path`, dequantised to `dtype`. placed: a device_map, if any. Raises as above."""
    header = _read_checked_header(path)
    with _as_model_error(header, name), _reading_fast_and_offline(), tempfile.TemporaryDirectory() as empty:
        config, tokenizer = _config(header, name, empty), _tokenizer(header, name, empty)
        packing = getattr(transformers, "GgufConfig", None)  # releases without it know nothing but dequantising
        if packing is not None:
            placed["quantization_config"] = packing(dequantize=True)
        model = weights.build_checked(
            lambda: AutoModelForCausalLM.from_pretrained(
                empty, gguf_file=str(header.path), config=config, dtype=dtype, output_loading_info=True,
                trust_remote_code=False, **placed,
            ),
            f"The GGUF file {name!r}", NOT_A_FILE,
        )  # fmt: skip
        _check_foreign(header, model, name)
    model.config._name_or_path = model.name_or_path = name
    counted = Counter(_kind(header, tensor).name for tensor in header.tensors.values())
    notes = {
        "file": f"{header.path} (GGUF, {header.size / 1e6:.1f} MB)",
        "weights": f"{', '.join(f'{kind} in {count} tensors' for kind, count in counted.most_common())}; "
        f"dequantised to {str(dtype).removeprefix('torch.')}: {WHY}",
    }
    return Loaded(model, tokenizer, ", ".join(kind for kind, _ in counted.most_common()), notes)


def _check_foreign(header: Header, model: Any, name: str) -> None:
    """Raise where the file has weights inside of layers that the model has no place for: transformers leaves them out.

    Layers beyond the last are told by their number (but those that guess further tokens); what is within one, by gguf's
    table of names, and only of an architecture where that gives every weight of ours a name that the file has.
    """
    import gguf

    layers = int(model.config.get_text_config().num_hidden_layers)
    more = header.own("nextn_predict_layers")
    last = layers + (more if isinstance(more, int) else 0)
    inside = {each: int(found[1]) for each in header.tensors if (found := _IN_LAYER.match(each))}
    foreign = [each for each, number in inside.items() if number >= last]
    kind = next((key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == header.architecture), None)
    if kind is not None:
        table = gguf.get_tensor_name_map(kind, layers)
        named = {table.get_name(key, try_suffixes=(".weight", ".bias")) for key in model.state_dict()}
        if {each for each in named if each is None or each.startswith("blk.")} <= inside.keys():
            foreign += [each for each, number in inside.items() if number < layers and each not in named]
    if foreign:
        raise ModelError(
            f"The GGUF file {name!r} holds {len(foreign)} weights that its architecture {header.architecture!r} has no "
            f"place for, for example {sorted(foreign)[0]}: without them the model would be another one.",
            hint="Use the model's safetensors, or a file whose metadata are those of its weights.",
        )


def embedding_rows(path: Path, rows: Sequence[int]) -> torch.Tensor:
    """Return these rows of the embedding in float32 [rows, width], as the file has them whatever the model is loaded
    in.
    """
    return _values(read_header(path), EMBEDDING, rows)


# -- what is checked before transformers sees a file -------------------------------------------------------------------


def _read_checked_header(path: Path) -> Header:
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "gguf")
    header = read_header(path.resolve())
    parts = header.fields.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{str(path)!r} is one of {parts} parts of a split GGUF file, and transformers reads whole files only.",
            hint=f"Merge them with llama.cpp: gguf-split --merge {_first_part(path)} whole.gguf",
        )
    for name, tensor in header.tensors.items():
        missing = tensor.start + prod(tensor.shape[:-1]) * _row_bytes(header, tensor) - header.size
        if missing > 0:
            raise ModelError(
                f"The GGUF file {str(path)!r} is truncated: it ends {missing} bytes before the tensor {name!r} does.",
                hint="Download it again; a complete file has the size its publisher names.",
            )
    if not header.vocabulary:
        raise ModelError(f"The GGUF file {str(path)!r} holds no tokenizer.", hint=NOT_A_FILE)
    if EMBEDDING not in header.tensors or header.own("embedding_length") != header.tensors[EMBEDDING].shape[-1]:
        raise ModelError(
            f"The GGUF file {str(path)!r} holds no token embedding of the width it names, so it is no language model.",
            hint=NOT_A_FILE,
        )
    return header


def _first_part(path: Path) -> str:
    return re.sub(r"-\d{5}-of-(\d{5})(?=\.gguf$)", r"-00001-of-\1", str(path))


def _kind(header: Header, tensor: Tensor) -> Any:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(tensor.kind)
    except ValueError:
        raise ModelError(
            f"The GGUF file {str(header.path)!r} holds tensors of the type {tensor.kind}, which gguf does not know.",
            hint="pip install --upgrade gguf, or take a file of a common type such as Q4_K_M or Q8_0.",
        ) from None


def _row_bytes(header: Header, tensor: Tensor) -> int:
    from gguf import GGML_QUANT_SIZES

    elements, size = GGML_QUANT_SIZES[_kind(header, tensor)]
    return (tensor.shape[-1] if tensor.shape else 1) // elements * size


def _values(header: Header, name: str, rows: Sequence[int]) -> torch.Tensor:
    from gguf import dequantize

    tensor = header.tensors[name]
    shape = (prod(tensor.shape[:-1]), _row_bytes(header, tensor))
    packed = np.memmap(header.path, mode="r", offset=tensor.start, shape=shape, dtype=np.uint8)
    found = dequantize(np.array(packed[list(rows)]), _kind(header, tensor))
    return torch.from_numpy(np.array(found, dtype=np.float32))


# -- config and tokenizer ----------------------------------------------------------------------------------------------

# transformers is pointed at an empty folder and at the file by its whole path: from the file's own folder it would also
# take a tokenizer.json or a chat template that lies beside it and belongs to another model.


def _config(header: Header, name: str, empty: str) -> Any:
    config = AutoConfig.from_pretrained(empty, gguf_file=str(header.path), trust_remote_code=False)
    config._name_or_path = name
    text = config.get_text_config()
    text.eos_token_id = list(header.end_ids) or text.eos_token_id
    _complete_config(header, text)
    _scale_positions(header, text)
    return config


def _tokenizer(header: Header, name: str, empty: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file=str(header.path), trust_remote_code=False)
    tokenizer.name_or_path = name
    return tokenizer


def _complete_config(header: Header, config: Any) -> None:
    """Take over what transformers (5.23) leaves at the value of another model of the family."""
    width, window = header.own("attention.key_length"), header.own("attention.sliding_window")
    if isinstance(width, int) and getattr(config, "head_dim", None):
        config.head_dim = width
    if isinstance(window, int) and header.architecture == "phi3":
        config.sliding_window = window or None
    if header.architecture in _WIDE_GEMMA:  # the file does not say it, llama.cpp goes by the layers too
        wide = config.num_hidden_layers == _WIDE_GEMMA[header.architecture]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if wide else config.head_dim


def _scale_positions(header: Header, config: Any) -> None:
    """Take over how the file stretches rotary positions, which transformers (5.23) leaves out of most configs."""
    known = getattr(config, "rope_parameters", None)
    scaled = _position_scaling(header)
    if scaled is None or not isinstance(known, dict) or known.get("rope_type", "default") != "default":
        return
    if "original_max_position_embeddings" in scaled and hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = scaled["original_max_position_embeddings"]  # Phi-3 looks here too
    if "full_attention" in known:  # Gemma 3: layers with a window keep theirs
        config.rope_parameters = {**known, "full_attention": {**known["full_attention"], **scaled}}
    else:
        config.rope_parameters = {**known, **scaled}
    if "rope_freqs.weight" in header.tensors:
        _check_llama3(header, config)


def _position_scaling(header: Header) -> dict[str, Any] | None:
    factors = {end: f"rope_factors_{end}.weight" for end in ("short", "long")}
    if "rope_freqs.weight" in header.tensors:  # Llama 3.1 and later
        return {"rope_type": "llama3", "factor": float(_values(header, "rope_freqs.weight", [0]).max()), **_LLAMA3}
    original = header.own("rope.scaling.original_context_length")
    if factors["long"] in header.tensors and factors["short"] in header.tensors:  # Phi-3 with a long context
        found: dict[str, Any] = {
            f"{end}_factor": _values(header, name, [0])[0].tolist() for end, name in factors.items()
        }
        found["original_max_position_embeddings"] = original
        found["attention_factor"] = header.own("rope.scaling.attn_factor")
        return {"rope_type": "longrope", **{key: value for key, value in found.items() if value is not None}}
    kind, factor = header.own("rope.scaling.type"), header.own("rope.scaling.factor")
    if kind in _SCALED and isinstance(factor, float) and factor > 1:
        said = {"original_max_position_embeddings": original} if kind == "yarn" and original else {}
        return {"rope_type": kind, "factor": factor, **said}
    return None


def _check_llama3(header: Header, config: Any) -> None:
    """Raise where the file's factors of frequencies are not those that transformers computes from four numbers."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    listed = _values(header, "rope_freqs.weight", [0])[0]
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    plain = config.rope_parameters["rope_theta"] ** (-torch.arange(len(scaled), dtype=torch.float32) / len(scaled))
    if listed.shape != scaled.shape or not torch.allclose(plain / scaled, listed, rtol=1e-3):
        raise ModelError(
            f"The GGUF file {str(header.path)!r} stretches its positions in a way transformers cannot follow.",
            hint="Use the model's safetensors, or another file of it.",
        )


# -- what is borrowed --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _as_model_error(header: Header, name: str) -> Iterator[None]:
    """Whatever transformers or gguf raise, as a ModelError."""
    try:
        yield
    except ACDError:
        raise
    except Exception as error:
        said = one_line(error, 300)
        hint = f"Check the file with: acd doctor --model {name}"
        if "not supported" in said or "Unrecognized configuration class" in said:
            said = f"transformers {transformers.__version__} does not read its architecture {header.architecture!r}"
            hint = "Use the model's safetensors (a hub id or a folder), or pip install --upgrade transformers."
        raise ModelError(f"The GGUF file {name!r} cannot be loaded: {said}", hint=hint) from error


@contextlib.contextmanager
def _reading_fast_and_offline() -> Iterator[None]:
    """While it lasts, transformers reads GGUF faster, silently and offline; what it gives is the same.

    It parses the file anew for the config, the tokenizer and the weights, and builds gguf's table of names once for
    every module of the model (397 times for SmolLM2). And for the architectures it can keep packed, it asks the hub for
    kernels and runs them, also where nothing is to be packed. One file at a time: what transformers keeps while it
    reads one is the module's.
    """
    from transformers.utils import logging

    with _reading:
        swaps = [each for each in _replacements() if hasattr(each[0], each[1])]
        theirs = [(module, name, getattr(module, name)) for module, name, _ in swaps]
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            for module, name, own in swaps:
                setattr(module, name, own)
            yield
        finally:
            for module, name, own in theirs:
                setattr(module, name, own)
            if bars:
                logging.enable_progress_bar()


def _replacements() -> list[tuple[Any, str, Any]]:
    """Return what takes the place of what: a module, the name in it, ours."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as conversion

    class Reader(gguf.GGUFReader):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            for key, field in self.fields.items():  # merges, scores: parsed at every reading, and used at none
                if len(field.data) > _LONGEST_USED and key != "tokenizer.ggml.tokens":
                    self.fields[key] = field._replace(data=[])

        def __setattr__(self, name: str, value: Any) -> None:
            # A memmap makes an object of Python's for each of its thousands of slices, a plain view four times faster.
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    swaps: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", functools.lru_cache(maxsize=1)(Reader)),
        (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        (conversion, "tqdm", lambda items, **_: items),
    ]
    with contextlib.suppress(ImportError):
        from transformers.integrations.gguf import kernels

        swaps += [(kernels, "get_gguf_kernel", lambda: False), (kernels, "kernelize_ggml_layers", lambda model: None)]
    return swaps
