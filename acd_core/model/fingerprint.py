"""What tells one model's weights from another's, in whatever dtype either was loaded.

A fingerprint is a short text, to show and to use as a key. With it goes a sample: a few values of every parameter, each
with the dtype it was read in. Two are equal if the samples agree up to the rounding of these dtypes, which a hash of
rounded values could not tell: a value beside a rounding border falls to either side of it.

What equality promises. float32 against float32, and a half type against itself: every sampled value is the same, so a
merged LoRA or a light fine-tune is told apart where it changed one. Otherwise: no sampled value moved by more than
the coarser type's rounding (2**-8 of it for bfloat16, 2**-11 for float16), and a smaller change cannot be seen.
Weights that are packed (bitsandbytes, torchao, GPTQ, float8) or offloaded to disk are left out: of such a model only
the rest is compared, which is its norms, biases and mostly its embedding. Adapters are left out too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from acd_core.errors import ACDError
from acd_core.model.weight_state import kept_elsewhere

_SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_ROWS = 64  # of the embedding, whole, in the head
_EMBEDDED = 64  # values of the embedding in the sample: it stands for the head where that cannot be compared
_VALUES = 1024  # in a sample, roughly, and at most _MOST of one parameter, at least one
_MOST = 8
_GOLDEN = 0x9E3779B1  # steps of this through [0, 2**32) spread, and fewer of them are the beginning of more
_CODES = {torch.float32: 0, torch.float64: 0, torch.bfloat16: 1, torch.float16: 2}
# By code: the largest relative error of rounding to the type, and the absolute one near zero.
_RELATIVE = (0.0, 2.0**-8, 2.0**-11)
_ABSOLUTE = (0.0, 2.0**-133, 2.0**-25)
_SINGLE = 1e-6  # between two float32: none but the last bit, which libraries that unpack a file may set differently
_FORMAT, _HEAD, _ENTRY = 1, struct.Struct("<B8sB"), struct.Struct("<IBB")
_LARGEST = 1 << 24  # bytes of a sample that is read from a file


class Values(NamedTuple):
    """A few values of one parameter, float32, and the code of the dtype they were read in."""

    code: int
    found: np.ndarray


@dataclass(frozen=True)
class Sample:
    """shape: a digest of the architecture's sizes (and of an adapter's files). exact: whether the head is what every
    dtype gives. values: by a checksum of the parameter's name and shape."""

    shape: bytes
    exact: bool
    values: Mapping[int, Values] = field(default_factory=dict)

    def packed(self) -> str:
        parts = [_HEAD.pack(_FORMAT, self.shape, self.exact)]
        for key, (code, found) in sorted(self.values.items()):
            parts += [_ENTRY.pack(key, code, len(found)), found.astype("<f4").tobytes()]
        return base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()

    @classmethod
    def unpacked(cls, text: str) -> Sample:
        """Raises ValueError for what `packed` did not give."""
        try:
            unpacking = zlib.decompressobj()
            data = unpacking.decompress(base64.b64decode(text, validate=True), _LARGEST)
            kind, shape, exact = _HEAD.unpack_from(data)
            at, values = _HEAD.size, {}
            while at < len(data):
                key, code, count = _ENTRY.unpack_from(data, at)
                at += _ENTRY.size
                values[key] = Values(code, np.frombuffer(data, "<f4", count, at))
                at += 4 * count
        except (binascii.Error, zlib.error, struct.error, ValueError) as error:
            raise ValueError(f"the sample of weights is damaged ({error})") from None
        if kind != _FORMAT or exact > 1 or not unpacking.eof or any(code > 2 for code, _ in values.values()):
            raise ValueError("the sample of weights is damaged, or of a later version")
        return cls(shape, bool(exact), values)


class Fingerprint(str):
    """Its text is one id for float32 and bfloat16; equality holds for float16 too, and sees what the id cannot.

    head: a sha256 over the architecture, the vocabulary and rows of the embedding: the whole fingerprint in files of
    earlier versions, which are equal if only it is. As with all comparing up to a tolerance, a = b = c does not make
    a = c: compare what was stored with what is loaded.
    """

    head: str
    sample: Sample

    def __new__(cls, head: str, sample: Sample) -> Fingerprint:
        values = hashlib.sha256()
        for key, (_, found) in sorted(sample.values.items()):
            rounded = torch.from_numpy(np.array(found)).bfloat16().float()
            values.update(struct.pack("<I", key) + rounded.numpy().tobytes())
        text = head[:32] + values.hexdigest()[:32] if sample.values else head
        made = super().__new__(cls, text)
        made.head, made.sample = head, sample
        return made

    def __getnewargs__(self) -> tuple[str, Sample]:  # type: ignore[override]
        return self.head, self.sample

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and difference(self, other) is None

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.sample.shape)  # the one part that is the same wherever two are equal

    def under(self, adapter: bytes) -> Fingerprint:
        """That of the same weights under an adapter, of which `adapter` says everything."""
        head = hashlib.sha256(self.head.encode() + adapter).hexdigest()
        return Fingerprint(head, replace(self.sample, shape=hashlib.sha256(self.sample.shape + adapter).digest()[:8]))


def difference(one: str, other: str) -> str | None:
    """Say why two fingerprints are not of one model, in words that continue a sentence; None if they may be."""
    if not isinstance(one, Fingerprint) or not isinstance(other, Fingerprint):
        texts = [{each.head, str(each)} if isinstance(each, Fingerprint) else {each} for each in (one, other)]
        return None if texts[0] & texts[1] else "another architecture or other embeddings"
    mine, theirs = one.sample, other.sample
    if mine.shape != theirs.shape:
        return "another architecture, vocabulary or adapter"
    if mine.exact and theirs.exact and one.head != other.head:
        return "other embeddings"
    common = mine.values.keys() & theirs.values.keys()
    if not common:  # nothing that both could read: the heads alone speak
        return None if one.head == other.head else "other embeddings"
    changed = sum(not _agree(mine.values[key], theirs.values[key]) for key in common)
    return f"{changed} of {len(common)} weights compared differ" if changed else None


def another_model(known: str | None, base_model: str | None, backbone: Any, made: str = "made for") -> str | None:
    """Why what was `made` for the model of the fingerprint `known`, which it calls `base_model`, is not for `backbone`,
    in words that follow "The pair was"; None where it may be, or nothing is known."""
    why = None if known is None else difference(known, backbone.fingerprint)
    if known is None or why is None:
        return None
    return (
        f"{made} {base_model!r} (fingerprint {known[:12]}), not {made.split()[-1]} {backbone.model_id!r} "
        f"(fingerprint {backbone.fingerprint[:12]}): {why}"
    )


def fields(fingerprint: str | None) -> dict[str, str | None]:
    """Return what a file keeps of a fingerprint: what earlier versions of this library compare, and the sample."""
    if isinstance(fingerprint, Fingerprint):
        return {"fingerprint": fingerprint.head, "weights_sample": fingerprint.sample.packed()}
    return {"fingerprint": fingerprint}


def of_fields(document: Mapping[str, Any]) -> Any:
    """Return the fingerprint that `fields` made part of `document`; one without a sample as it stands.

    Raises ValueError.
    """
    head, packed = document.get("fingerprint"), document.get("weights_sample")
    if packed is None:
        return head
    if not isinstance(head, str) or not isinstance(packed, str):
        raise ValueError("the sample of weights is damaged: it is no text, or its fingerprint is none")
    return Fingerprint(head, Sample.unpacked(packed))


def read_fields(document: Mapping[str, Any], name: str, error: type[ACDError], hint: str) -> str | None:
    """`of_fields` of the file called `name`. Raises `error` with `hint` for one that cannot be read."""
    try:
        found: str | None = of_fields(document)
    except ValueError as wrong:
        raise error(f"The fingerprint in {name} cannot be read: {wrong}.", hint=hint) from None
    return found


def fingerprint_of(model: Any, config: Any, rows: torch.Tensor | None = None) -> Fingerprint:
    """That of `model`, whose text config is `config`; it is read on its devices, with one transfer from each.

    rows: `sampled_rows` of its embedding as the file has them, where the model holds them rounded to float16.
    """
    shape = json.dumps({name: getattr(config, name, None) for name in _SHAPE}, sort_keys=True, default=str).encode()
    module = model.get_input_embeddings()
    embedding: Any = module.weight if not module.weight.is_meta else kept_elsewhere(module, "weight")
    # Rows that were rounded to float16, or cannot be read, are not what others have of the same weights.
    exact = rows is not None or (_is_plain(embedding) and embedding.dtype != torch.float16)
    if rows is None and _is_plain(embedding):
        rows = embedding.detach()[torch.tensor(sampled_rows(embedding.shape[0]), device=embedding.device)]
    head = hashlib.sha256(shape)
    if rows is not None:
        # Through bf16, so that the same weights loaded in another dtype give the same head. Not so through float16
        # first, which rounds twice.
        head.update(rows.to("cpu", torch.bfloat16).float().numpy().tobytes())
    return Fingerprint(head.hexdigest(), Sample(hashlib.sha256(shape).digest()[:8], exact, _values(model, embedding)))


def sampled_rows(count: int) -> list[int]:
    """Return the rows of an embedding of `count` rows that the head reads."""
    # Whatever torch's default dtype is at this moment: another thread's load may have changed it.
    return [int(row) for row in torch.linspace(0, count - 1, min(_ROWS, count), dtype=torch.float32).long()]


def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters that are the model's own, under the names they have without adapters around them."""
    base = model.get_base_model() if callable(getattr(model, "get_base_model", None)) else model
    modules = dict(base.named_modules())
    for name, weight in base.named_parameters():
        path, own, around = [], True, base
        for at, part in enumerate(name.split(".")):
            if "_active_adapter" in around.__dict__:
                own = own and part in ("base_layer", "original_module")
            else:
                path.append(part)
            around = modules.get(".".join(name.split(".")[: at + 1]), around)
        if own:
            kept = kept_elsewhere(around, name.rpartition(".")[2]) if weight.is_meta else None
            yield ".".join(path), weight if kept is None else kept


def _values(model: Any, embedding: torch.Tensor | None) -> dict[int, Values]:
    readable = [(name, weight) for name, weight in named_weights(model) if _is_plain(weight)]
    each = min(_MOST, max(1, _VALUES // max(1, len(readable))))
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, list[torch.Tensor]]]] = {}
    for name, weight in readable:
        key = zlib.crc32(f"{name} {tuple(weight.shape)}".encode())
        views = _views(weight.detach(), _EMBEDDED if weight is embedding else each)
        groups.setdefault((weight.device, weight.dtype), []).append((key, views))
    values: dict[int, Values] = {}
    for (_, dtype), parts in groups.items():
        found = torch.cat([view for _, views in parts for view in views]).cpu().float().numpy()
        at = 0
        for key, views in parts:
            values[key] = Values(_CODES[dtype], found[at : at + len(views)])
            at += len(views)
    return values


def _is_plain(weight: Any) -> bool:
    """Return whether its values can be read one by one: an ordinary tensor of a type that is no packing."""
    ordinary = type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.layout is torch.strided
    return ordinary and weight.dtype in _CODES and not weight.is_meta and weight.numel() > 0


def _views(weight: torch.Tensor, many: int) -> list[torch.Tensor]:
    """Return the same few elements of a tensor however it is laid out, as views of one element each."""
    count = prod(weight.shape)
    found = []
    for number in range(1, min(many, count) + 1):
        place = (count * (number * _GOLDEN & 0xFFFFFFFF)) >> 32
        offset = weight.storage_offset()
        for size, stride in zip(reversed(weight.shape), reversed(weight.stride())):
            place, inner = divmod(place, size)
            offset += inner * stride
        found.append(weight.as_strided((1,), (1,), offset))
    return found


def _agree(one: Values, other: Values) -> bool:
    many = min(len(one.found), len(other.found))
    a, b = (each.found[:many].astype(np.float64) for each in (one, other))
    if one.code == other.code:
        relative, absolute = (_SINGLE if one.code == 0 else 0.0), 0.0
    else:
        relative = 1.01 * (_RELATIVE[one.code] + _RELATIVE[other.code])
        absolute = _ABSOLUTE[one.code] + _ABSOLUTE[other.code]
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= relative * np.maximum(np.abs(a), np.abs(b)) + absolute
    return bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())
