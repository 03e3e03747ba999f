"""The two opposite prompts and their file.

On disk a pair is a folder: `pair.json` (format version, library version, base model with revision and fingerprint,
slot, recommended alpha, plausibility and contrast_tokens, tuning metrics, licence, the gate's description, digests of
the other files), `safe/` and `adversarial/` in PEFT's prompt-tuning layout, `gate/` with the gate's weights where there
is one, and a model card. Only safetensors and JSON are read: no pickle, no code. A version is replaced as a whole
(`acd_core.files.saving`). Older formats are read and brought up to date (`acd_core.artifacts.pair_files`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from safetensors.torch import save as as_safetensors

from acd_core.artifacts.gate import Gate
from acd_core.artifacts.pair_card import model_card
from acd_core.artifacts.pair_files import (
    CARD,
    FILES,
    FORMAT_VERSION,
    GATE_FILE,
    HISTORY,
    MAIN,
    SIDE_FILES,
    SIDES,
    document_of,
    names,
    read_files,
)
from acd_core.artifacts.pair_files import RETUNE as _RETUNE
from acd_core.artifacts.pair_files import migrated as migrated  # the name it has always had
from acd_core.errors import PairError, PairMismatchError, UsageError, one_line
from acd_core.files.reading import as_tensors, is_text, read_object
from acd_core.files.saving import MixedError, check_folder, digest_of, digests, failing_as, newest_place, save_folder
from acd_core.model.fingerprint import another_model, fields, read_fields
from acd_core.model.on_disk import BUNDLED_PAIRS, known_folder, not_found, pair_folder

if TYPE_CHECKING:
    from acd_core.model.backbone import Backbone

Prompt = Union[str, torch.Tensor]


@dataclass(frozen=True)
class PromptPair:
    """A safeguarding prompt and an adversarial prompt: both texts, or both soft ([vectors, width] float32).

    alpha: the recommended strength, in [0, 1). metrics: what tuning measured. base_model, base_revision and
    fingerprint: the model the vectors belong to (None for texts, which fit every model). license: an SPDX id.
    plausibility, contrast_tokens: recommended values of the settings of those names (`ContrastParams`); 0 and None
    where the pair recommends neither. gate: the reading that says where the contrast is to act; None: everywhere.
    digest: of the files it was loaded from (`pair_files.digest`); None for a pair that was not, or was changed since.
    """

    safeguarding: Prompt
    adversarial: Prompt
    alpha: float = 0.4
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    base_revision: str | None = None
    license: str | None = None
    plausibility: float = 0.0
    contrast_tokens: int | None = None
    gate: Gate | None = None
    digest: str | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _is_share(self.alpha):
            raise UsageError(
                f"alpha is {self.alpha!r}; it must lie in [0, 1).",
                hint="0 switches the contrast off; pairs are mostly tuned for 0.3 to 0.5. "
                "In a saved pair, correct alpha in its pair.json.",
            )
        beta, tokens = self.plausibility, self.contrast_tokens
        if not _is_share(beta):
            raise UsageError(f"plausibility is {beta!r}; it must lie in [0, 1).", hint="0 switches it off.")
        if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0):
            raise UsageError(
                f"contrast_tokens is {tokens!r}; it must be a whole number, at least 0.", hint="None: every token."
            )
        if isinstance(self.safeguarding, str) != isinstance(self.adversarial, str):
            raise PairError("One prompt is a text and the other is soft; a pair is both of one kind.")
        for name, prompt in (("safeguarding", self.safeguarding), ("adversarial", self.adversarial)):
            if isinstance(prompt, str):
                if not prompt.strip():
                    raise UsageError(f"The {name} prompt is empty.", hint="Give both prompts of the pair a text.")
                if not is_text(prompt):
                    raise UsageError(f"The {name} prompt holds half a character (a lone surrogate).")
            else:
                _check_vectors(prompt, name)
        widths = [int(each.shape[1]) for each in (self.safeguarding, self.adversarial) if not isinstance(each, str)]
        if len(set(widths)) > 1:
            raise PairError(f"The prompts' vectors have different widths, {widths[0]} and {widths[1]}.", hint=_RETUNE)

    def __repr__(self) -> str:
        """Never the prompts: what holds a pair is shown in logs and traces."""
        kinds = [
            f"a text of {len(each)} letters" if isinstance(each, str) else f"{len(each)} vectors"
            for each in (self.safeguarding, self.adversarial)
        ]
        gated = "" if self.gate is None else ", with a gate"
        return f"PromptPair({kinds[0]} | {kinds[1]}, alpha={self.alpha}, base_model={self.base_model!r}{gated})"

    @classmethod
    def from_texts(cls, safeguarding: str, adversarial: str, alpha: float = 0.4) -> PromptPair:
        """A textual pair, for any model with a chat template."""
        return cls(safeguarding, adversarial, alpha)

    @classmethod
    def from_tensors(
        cls,
        safeguarding: torch.Tensor,
        adversarial: torch.Tensor,
        *,
        backbone: Backbone,
        alpha: float = 0.4,
        metrics: Mapping[str, Any] | None = None,
        plausibility: float = 0.0,
        contrast_tokens: int | None = None,
        gate: Gate | None = None,
    ) -> PromptPair:
        """A soft pair tuned for `backbone`. Tensors are copied to float32 on the CPU."""
        return cls(
            safeguarding.detach().to("cpu", torch.float32).clone(),
            adversarial.detach().to("cpu", torch.float32).clone(),
            alpha,
            backbone.model_id,
            backbone.fingerprint,
            dict(metrics or {}),
            backbone.revision,
            plausibility=plausibility,
            contrast_tokens=contrast_tokens,
            gate=gate,
        )

    @property
    def is_soft(self) -> bool:
        return not isinstance(self.safeguarding, str)

    @property
    def length(self) -> int:
        """Soft vectors of the longer prompt; 0 for a textual pair, whose length depends on the tokenizer."""
        if isinstance(self.safeguarding, str) or isinstance(self.adversarial, str):
            return 0
        return max(int(self.safeguarding.shape[0]), int(self.adversarial.shape[0]))

    @property
    def id(self) -> str:
        """A hash of the two prompts and the gate: what a cache key must hold."""
        digest = hashlib.sha256()
        for prompt in (self.safeguarding, self.adversarial):
            if isinstance(prompt, str):
                digest.update(b"text\0" + prompt.encode())
            else:
                digest.update(b"soft\0" + str(tuple(prompt.shape)).encode() + prompt.contiguous().numpy().tobytes())
        if self.gate is not None:
            digest.update(self.gate.id.encode())
        return digest.hexdigest()[:16]

    def check(self, backbone: Backbone) -> None:
        """Raise PairMismatchError unless this pair and its gate were made for `backbone`; texts fit every model.
        PairError for vectors that the backbone's dtype cannot compute with."""
        if self.gate is not None:
            self.gate.check(backbone)
        both = zip(SIDES, (self.safeguarding, self.adversarial))
        soft = [(name, each) for name, each in both if not isinstance(each, str)]
        if not soft:
            return
        for name, vectors in soft:
            width = int(vectors.shape[1])
            if width != backbone.embedding_width:
                raise PairMismatchError(
                    f"The pair's {name} prompt holds vectors of width {width}, but the model {backbone.model_id!r} "
                    f"embeds tokens in {backbone.embedding_width} dimensions: it was made for {self.base_model!r}.",
                    hint=f"Tune one for this model: acd tune --model {backbone.model_id} --out my-pair",
                )
            largest = beyond(vectors, backbone.dtype)
            if largest is not None:
                raise PairError(
                    f"The pair's {name} prompt reaches {largest:g}, beyond what "
                    f"{str(backbone.dtype).removeprefix('torch.')} can compute with.",
                    hint="Load the model with dtype='float32' or 'bfloat16', or tune a pair in the dtype it runs in.",
                )
        wrong = another_model(self.fingerprint, self.base_model, backbone)
        if wrong is not None:
            raise PairMismatchError(
                f"The pair was {wrong}. Other weights, other meaning.",
                hint=f"Tune one for this model: acd tune --model {backbone.model_id} --out my-pair",
            )

    # -- files ------------------------------------------------------------------------------------------------------

    def save(
        self, directory: str | os.PathLike[str], *, history: Mapping[str, Any] | bytes | None = None, name: str = ""
    ) -> Path:
        """Write the pair to `directory`, replacing a pair that is there as a whole; other files there stay.

        history: what happened when it was made, kept as `history.json`. name: how the card says the pair is loaded.
        A process killed at any moment leaves the old pair or the new one. Raises PairError where something else stands
        in the way, somebody else is saving there, or the disk does not take it; then the old pair is there.
        """
        target = Path(directory)
        files = self._files(history, name or "this-folder")
        with failing_as(PairError, f"The pair cannot be saved to {str(target)!r}", "a prompt pair"):
            save_folder(target, MAIN, files, names)
        return target

    def _files(self, history: Mapping[str, Any] | bytes | None, name: str) -> dict[str, bytes]:
        """The whole content of a folder, made before anything on disk changes."""
        files: dict[str, bytes] = {}
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            "transformers_version": metadata.version("transformers"),
            "kind": "soft" if self.is_soft else "text",
            "slot": "system",
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            **fields(self.fingerprint),
            "alpha": self.alpha,
            "plausibility": self.plausibility,
            "contrast_tokens": self.contrast_tokens,
            "license": self.license,
            "gate": None if self.gate is None else self.gate.document(),
            "metrics": dict(self.metrics),
        }
        if self.gate is not None:
            files[GATE_FILE] = as_safetensors({"weights": self.gate.weights.contiguous()}, metadata={"format": "pt"})
        for side, prompt in zip(SIDES, (self.safeguarding, self.adversarial)):
            if isinstance(prompt, str):
                document[side] = prompt
                continue
            adapter = _adapter_config(prompt, self.base_model)
            weights = as_safetensors({"prompt_embeddings": prompt.contiguous()}, metadata={"format": "pt"})
            files |= {f"{side}/{file}": data for file, data in zip(SIDE_FILES, (_json(adapter), weights))}
        if history is not None:
            files[HISTORY] = history if isinstance(history, bytes) else _json(history, indent=1)
        files[CARD] = model_card(document, self.length, name).encode()
        document["files"] = digests(files)
        files[MAIN] = _json(document)
        document_of(files[MAIN])  # what could not be read again is not written
        return files

    @classmethod
    def load(
        cls, source: str | os.PathLike[str], *, backbone: Backbone | None = None, revision: str | None = None
    ) -> PromptPair:
        """Read a pair from a folder, a hub id or by a name in BUNDLED_PAIRS; with `backbone`, check that it fits.

        Raises PairError for a missing, truncated or tampered pair, PairMismatchError for a pair of another model.
        """
        folder = _find(source, revision)
        wrong = ""
        try:
            files = read_files(folder)
        except MixedError as error:
            files, wrong = error.found, error.wrong
        document = document_of(files[MAIN], folder)
        if wrong:
            _check_part(files[wrong], wrong, str(source))  # damage is told better than a digest tells it
            raise PairError(
                f"{wrong} of the pair {str(source)!r} is not the one that its {MAIN} was saved with.", hint=_RETUNE
            )
        prompts: list[Prompt] = []
        for side in SIDES:
            if document.get("kind") == "text":
                text = document.get(side)
                if not isinstance(text, str):
                    raise PairError(f"{MAIN} of {str(source)!r} has no {side!r} text.", hint=_RETUNE)
                prompts.append(text)
            else:
                name = f"{side}/{SIDE_FILES[1]}"
                prompts.append(_vectors(files[name], name, str(source)))
        described = document.get("gate")
        pair = cls(
            prompts[0],
            prompts[1],
            document.get("alpha", 0.4),
            document.get("base_model"),
            read_fields(document, MAIN, PairError, _RETUNE),
            document.get("metrics") or {},
            document.get("base_revision"),
            document.get("license"),
            document.get("plausibility", 0.0),
            document.get("contrast_tokens"),
            None if described is None else Gate.of(described, _tensor(files[GATE_FILE], GATE_FILE, str(source))),
        )
        object.__setattr__(pair, "digest", digest_of(files))  # frozen, and of this very content only
        if backbone is not None:
            pair.check(backbone)
        return pair


def history_of(source: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What is told of the run that made the pair `source` (its `history.json`); None where there is none, or a damaged
    one."""
    folder = pair_folder(source)
    try:
        return None if folder is None else read_object(newest_place(folder, MAIN, HISTORY), PairError)
    except (PairError, FileNotFoundError):
        return None


def check_target(target: Path) -> None:
    """Raise PairError unless a pair could be saved to the folder `target` now: before anything takes long."""
    with failing_as(PairError, f"A pair cannot be saved to {str(target)!r}", "a prompt pair"):
        check_folder(target, MAIN, names, FILES)


def library_version() -> str:
    """The installed version of the distribution, or "unknown" in a bare checkout."""
    try:
        return metadata.version("acd-integrations")
    except metadata.PackageNotFoundError:
        return "unknown"


def _is_share(value: Any) -> bool:
    """Whether `value` is a number in [0, 1)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value < 1.0


def _json(document: Mapping[str, Any], indent: int = 2) -> bytes:
    return (json.dumps(document, indent=indent, default=str) + "\n").encode()


def beyond(vectors: torch.Tensor, dtype: torch.dtype) -> float | None:
    """The largest absolute value of vectors [n, width] that a model in `dtype` cannot compute with: infinite there, or
    with a square sum, which norms take in float32, that is. None where it can."""
    placed = vectors.detach().to(dtype).float()
    if bool(placed.square().sum(dim=-1).isfinite().all()):
        return None
    return float(vectors.detach().abs().max())


def _check_vectors(prompt: torch.Tensor, name: str) -> None:
    if prompt.ndim != 2 or 0 in prompt.shape or not prompt.dtype.is_floating_point:
        raise PairError(
            f"The {name} prompt has shape {tuple(prompt.shape)} and dtype {prompt.dtype}; "
            "it must be a float tensor [vectors, width] with at least one vector."
        )
    if not bool(torch.isfinite(prompt).all()):
        raise PairError(f"The {name} prompt holds values that are not finite (NaN or infinity).", hint=_RETUNE)


def _adapter_config(prompt: torch.Tensor, base_model: str | None) -> dict[str, Any]:
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base_model,
        "num_virtual_tokens": int(prompt.shape[0]),
        "token_dim": int(prompt.shape[1]),
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }


def _find(source: str | os.PathLike[str], revision: str | None) -> Path:
    name = os.fspath(source)
    path = BUNDLED_PAIRS.get(name) or Path(name)
    if name in BUNDLED_PAIRS and (Path(name) / "pair.json").is_file():
        raise PairError(
            f"{name!r} names a pair of this package and a pair in this folder.",
            hint=f"Write ./{name} for the folder's.",
        )
    here = known_folder("pair", name, revision)
    if here is not None and os.path.isdir(path):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        raise not_found("pair", name, one_line(error, 160)) from error


def _vectors(data: bytes, name: str, source: str) -> torch.Tensor:
    vectors = _tensor(data, name, source)
    _check_vectors(vectors, name.partition("/")[0])
    return vectors.float()


def _tensor(data: bytes, name: str, source: str) -> torch.Tensor:
    """The one tensor that the file `name` holds."""
    wanted = "weights" if name == GATE_FILE else "prompt_embeddings"
    where = f"{name} of the pair {source!r}"
    tensors = as_tensors(data, where, PairError, _RETUNE).tensors
    if set(tensors) != {wanted}:
        raise PairError(f"{where} holds {sorted(tensors)[:4]}, not the one tensor {wanted!r}.", hint=_RETUNE)
    return tensors[wanted]


def _check_part(data: bytes, name: str, source: str) -> None:
    """Raise PairError where a part of a pair is no such part at all."""
    if name.endswith(".safetensors"):
        _vectors(data, name, source) if name != GATE_FILE else _tensor(data, name, source)
