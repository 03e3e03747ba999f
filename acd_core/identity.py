"""What names a loaded model, as values to compare: for the keys of caches and of what a run keeps.

A key holds a thing only where it can act. So the replies that a plain model gave stay good when a later version knows
of more that could have changed them: adapters and a generation_config enter only where there are any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from acd_core.methods.table import METHODS, own_method_key
from acd_core.model.weight_state import adapter_settings
from acd_core.params import GenerationParams

if TYPE_CHECKING:
    from acd_core.model.backbone import Backbone
    from acd_core.model.model_defaults import ModelDefaults

_SAMPLE = 64
"""Values that are looked at of each tensor: two adapters that were trained apart differ in nearly all."""
_AS_LOADED = "digest of the weights as loaded"
"""Where a backbone keeps what `note_weights` found."""
# What transformers' processors keep of the values they were made with; the rest of them is worked out at the first use.
_VALUES = (
    "sequence_bias", "bad_word_ids", "suppress_tokens", "begin_suppress_tokens", "begin_index", "ngram_size",
    "min_length", "min_new_tokens", "regulation_start", "regulation_factor",
)  # fmt: skip


def identity(lm: Any) -> dict[str, Any]:
    """What names the model, the pair and the expert of a ContrastiveLM: their fingerprints decide which kept records
    are still valid."""
    backbone = getattr(lm, "backbone", None)
    return {
        "model": lm.model_id,
        "fingerprint": getattr(backbone, "fingerprint", None),
        "adapters": adapters_key(getattr(backbone, "model", None)),
        "generation_config": defaults_key(getattr(lm, "defaults", None)),
        "dtype": str(getattr(backbone, "dtype", "")),
        "device": str(getattr(backbone, "device", "")),
        "pair": getattr(getattr(lm, "pair", None), "id", None),
        "expert": getattr(getattr(lm, "expert", None), "id", None),
        "default alpha": getattr(lm, "alpha", None),
        "recommended": _recommended(getattr(lm, "pair", None)),
        "gate": _gate(lm),
    }


def identity_in_memory(lm: Any) -> dict[str, Any]:
    """`identity` of a ContrastiveLM whose weights no name stands for, with all else that it has for calls that say
    nothing: its method, and the weights as they are now."""
    known = identity(lm)
    weights = known["adapters"] or weights_key(lm.backbone.model)  # an adapter's key is that of all weights
    return {**known, "method": lm.method, "deterministic": lm.deterministic, "weights": weights}


def reply_facts(model: Mapping[str, Any], settings: GenerationParams) -> dict[str, Any]:
    """What decides a reply beside its prompt. A pair or expert that the method does not use is no part of it, nor is
    the device: a run may move to another machine. The dtype is: it changes replies. The pair's gate is, whatever the
    method, unless there is none to act. model: as `identity` describes it."""
    method = METHODS.get(settings.method or "")
    names = ["model", "fingerprint", "dtype"]
    names += [name for name in ("adapters", "generation_config") if model.get(name) is not None]
    if method is not None and method.needs_pair:
        names.append("pair")
    if method is not None and method.needs_expert:
        names.append("expert")
    facts = {**{name: model.get(name) for name in names}, "settings": settings.model_dump(mode="json")}
    own = own_method_key(settings.method)
    if own is not None:
        facts["own method"] = own
    if method is not None and method.needs_pair and method.contrasts:
        asked = settings.contrast.model_dump(exclude_none=True)
        facts["recommended"] = {k: v for k, v in (model.get("recommended") or {}).items() if k not in asked}
    if settings.contrast.alpha is None and model.get("default alpha") is not None:
        facts["default alpha"] = model["default alpha"]
    if gate_of(model, settings) not in ("", "off"):
        facts.update(pair=model.get("pair"), gate=model["gate"])
    return facts


def gate_of(model: Mapping[str, Any], settings: GenerationParams) -> str:
    """How the gate of a method with these settings works: "on", "off", the share of harmless requests that it may open
    for, or "" where there is none to act. model: as `identity` describes it."""
    gate = model.get("gate")
    if gate is None or settings.method == "none":
        return ""
    setting = gate["setting"] if settings.contrast.gate is None else settings.contrast.gate
    if setting is None or isinstance(setting, bool):
        return "off" if setting is False else "on"
    return f"{setting:g}"


def defaults_key(defaults: ModelDefaults | None) -> list[str] | None:
    """What a model's generation_config has its decoding do, in words and as a digest of the values themselves; None
    where it asks for nothing, or nobody follows it."""
    if defaults is None or not defaults.honoured:
        return None
    digest = hashlib.sha256(repr((defaults.repetition_penalty, defaults.stop)).encode())
    for own, processor in (*defaults.before, *defaults.after):
        values = {name: vars(processor)[name] for name in _VALUES if name in vars(processor)}
        plain = {name: value.tolist() if torch.is_tensor(value) else value for name, value in values.items()}
        digest.update(repr((type(processor).__name__, own, plain)).encode())
    return [*defaults.honoured, digest.hexdigest()[:16]]


def adapters_key(model: Any) -> str | None:
    """A digest of a model's PEFT adapters and of its weights, which may hold merged ones; None where it has none."""
    if model is None or not any(type(module).__module__.startswith("peft.") for module in model.modules()):
        return None
    return weights_key(model)


def note_weights(backbone: Backbone) -> None:
    """Keep what `changed_weights` compares with. Call it right after loading; a second call changes nothing."""
    if _AS_LOADED not in backbone.attached:
        backbone.attached[_AS_LOADED] = weights_key(backbone.model)


def changed_weights(backbone: Backbone, *, from_adapter: bool) -> str | None:
    """A digest of the weights that a backbone has now, where they are not those of the files it was loaded from; None
    where they are. from_adapter: whether those files are an adapter's, so that PEFT's modules belong to them."""
    now = weights_key(backbone.model)
    added = not from_adapter and adapters_key(backbone.model) is not None
    return now if added or now != backbone.attached.get(_AS_LOADED, now) else None


def weights_key(model: Any) -> str:
    """A digest of a model's adapter settings and of a few values of each of its weights: the same in every process
    and on every device. Quantised weights and those that are not in memory are left out."""
    digest = hashlib.sha256(repr(adapter_settings(model)).encode())
    names, tensors = [], []
    for name, tensor in _weights(model):
        plainly_stored = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if plainly_stored and tensor.device.type != "meta" and tensor.numel():
            names.append(name)
            tensors.append(tensor.detach())
    for name, sample in zip(names, _sampled(tensors)):
        digest.update(name.encode() + b"\0" + sample)
    return digest.hexdigest()[:16]


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and those buffers that are saved with them: the others are bookkeeping, which a forward changes."""
    yield from model.named_parameters()
    for place, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{place}.{name}", buffer


def _sampled(tensors: list[torch.Tensor]) -> list[bytes]:
    """A few values of each tensor as bytes, in order; one copy a device reads them all."""
    pieces = []
    for tensor in tensors:
        flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
        size = min(len(flat), _SAMPLE)
        pieces.append(flat[:: len(flat) // size][:size].contiguous().view(torch.uint8))
    found = [b""] * len(pieces)
    for device in {piece.device for piece in pieces}:
        places = [place for place, piece in enumerate(pieces) if piece.device == device]
        together = torch.cat([pieces[place] for place in places]).cpu()
        for place, piece in zip(places, together.split([len(pieces[place]) for place in places])):
            found[place] = piece.numpy().tobytes()
    return found


def _recommended(pair: Any) -> dict[str, Any]:
    """The settings a pair recommends, under their names in `ContrastParams`; nothing where there is no pair."""
    found = {"alpha": getattr(pair, "alpha", None), "plausibility": getattr(pair, "plausibility", None) or None}
    found["contrast_tokens"] = getattr(pair, "contrast_tokens", None)
    return {name: value for name, value in found.items() if value is not None}


def _gate(lm: Any) -> dict[str, Any] | None:
    """How the model's gate works where a call says nothing; None without one. Which gate it is, the pair's id says."""
    rules = getattr(lm, "gate_rules", None)
    if rules is None or rules.gate is None:
        return None
    return {"setting": rules.setting, "floor": rules.floor, "recheck": rules.recheck}
