"""The two opposite prompts and their file.

On disk a pair is a folder: `pair.json` (format version, library version, base model with revision and fingerprint,
slot, recommended alpha, plausibility and contrast_tokens, tuning metrics, licence, the gate's description), `safe/` and
`adversarial/` in PEFT's prompt-tuning layout, `gate/` with the gate's weights where there is one, and a model card.
Only safetensors and JSON are read: no pickle, no code. Older formats are read and brought up to date.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors

from acd_core.errors import PairError, PairMismatchError, UsageError
from acd_core.gate import Gate
from acd_core.on_disk import BUNDLED_PAIRS
from acd_core.pair_card import model_card

if TYPE_CHECKING:
    from acd_core.backbone import Backbone

FORMAT_VERSION = 4
SIDES = ("safe", "adversarial")
GATE_FILE = Path("gate") / "reading.safetensors"
Prompt = Union[str, torch.Tensor]


@dataclass(frozen=True)
class PromptPair:
    """A safeguarding prompt and an adversarial prompt: both texts, or both soft ([vectors, width] float32).

    alpha: the recommended strength, in [0, 1). metrics: what tuning measured. base_model, base_revision and
    fingerprint: the model the vectors belong to (None for texts, which fit every model). license: an SPDX id.
    plausibility, contrast_tokens: recommended values of the settings of those names (`ContrastParams`); 0 and None
    where the pair recommends neither. gate: the reading that says where the contrast is to act; None: everywhere.
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

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, (int, float)) and math.isfinite(self.alpha) and 0.0 <= self.alpha < 1.0):
            raise UsageError(
                f"alpha is {self.alpha!r}; it must lie in [0, 1).",
                hint="0 switches the contrast off; pairs are mostly tuned for 0.3 to 0.5. "
                "In a saved pair, correct alpha in its pair.json.",
            )
        beta, tokens = self.plausibility, self.contrast_tokens
        if not (isinstance(beta, (int, float)) and math.isfinite(beta) and 0.0 <= beta < 1.0):
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
            else:
                _check_vectors(prompt, name)

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
        """Raise PairMismatchError unless this pair and its gate were made for `backbone`; texts fit every model."""
        if self.gate is not None:
            self.gate.check(backbone)
        if isinstance(self.safeguarding, str):
            return
        width = int(self.safeguarding.shape[1])
        if width != backbone.embedding_width:
            raise PairMismatchError(
                f"The pair holds vectors of width {width}, but the model {backbone.model_id!r} embeds tokens in "
                f"{backbone.embedding_width} dimensions: it was made for {self.base_model!r}.",
                hint=f"Tune one for this model: acd tune --model {backbone.model_id} --out my-pair",
            )
        if self.fingerprint is not None and self.fingerprint != backbone.fingerprint:
            raise PairMismatchError(
                f"The pair was made for {self.base_model!r} (fingerprint {self.fingerprint[:12]}), not for "
                f"{backbone.model_id!r} (fingerprint {backbone.fingerprint[:12]}): other weights, other meaning.",
                hint=f"Tune one for this model: acd tune --model {backbone.model_id} --out my-pair",
            )

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the pair to `directory`, replacing a pair that is there; another kind of folder is refused.

        Everything is written beside and renamed at the end, so a killed process leaves the old pair or the new one.
        """
        target = Path(directory)
        with replacing(target) as staging:
            self.write(staging)
        return target

    def write(self, folder: Path, name: str = "this-folder") -> None:
        """The files of the pair into an empty `folder`. name: how the card says the pair is loaded."""
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            "transformers_version": metadata.version("transformers"),
            "kind": "soft" if self.is_soft else "text",
            "slot": "system",
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "fingerprint": self.fingerprint,
            "alpha": self.alpha,
            "plausibility": self.plausibility,
            "contrast_tokens": self.contrast_tokens,
            "license": self.license,
            "gate": None if self.gate is None else self.gate.document(),
            "metrics": dict(self.metrics),
        }
        if self.gate is not None:
            (folder / "gate").mkdir()
            reading = as_safetensors({"weights": self.gate.weights.contiguous()}, metadata={"format": "pt"})
            (folder / GATE_FILE).write_bytes(reading)
        for side, prompt in zip(SIDES, (self.safeguarding, self.adversarial)):
            if isinstance(prompt, str):
                document[side] = prompt
                continue
            (folder / side).mkdir()
            # Not save_file: it makes files that only their owner may read, whatever the umask says.
            weights = as_safetensors({"prompt_embeddings": prompt.contiguous()}, metadata={"format": "pt"})
            (folder / side / "adapter_model.safetensors").write_bytes(weights)
            adapter = _adapter_config(prompt, self.base_model)
            (folder / side / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n")
        (folder / "pair.json").write_text(json.dumps(document, indent=2, default=str) + "\n")
        (folder / "README.md").write_text(model_card(document, self.length, name), encoding="utf-8")

    @classmethod
    def load(
        cls, source: str | os.PathLike[str], *, backbone: Backbone | None = None, revision: str | None = None
    ) -> PromptPair:
        """Read a pair from a folder, a hub id or by a name in BUNDLED_PAIRS; with `backbone`, check that it fits.

        Raises PairError for a missing, truncated or tampered pair, PairMismatchError for a pair of another model.
        """
        folder = _find(source, revision)
        document = _read_document(folder)
        prompts: list[Prompt] = []
        for side in SIDES:
            if document.get("kind") == "text":
                text = document.get(side)
                if not isinstance(text, str):
                    raise PairError(f"pair.json of {str(source)!r} has no {side!r} text.", hint=_RETUNE)
                prompts.append(text)
            else:
                prompts.append(_read_vectors(folder / side, str(source)))
        pair = cls(
            prompts[0],
            prompts[1],
            document.get("alpha", 0.4),
            document.get("base_model"),
            document.get("fingerprint"),
            document.get("metrics") or {},
            document.get("base_revision"),
            document.get("license"),
            document.get("plausibility", 0.0),
            document.get("contrast_tokens"),
            _read_gate(folder, document.get("gate"), str(source)),
        )
        if backbone is not None:
            pair.check(backbone)
        return pair


_RETUNE = "Get the folder again from where it came, or make a new one: acd tune --model M --out my-pair"


def library_version() -> str:
    """The installed version of the distribution, or "unknown" in a bare checkout."""
    try:
        return metadata.version("acd-integrations")
    except metadata.PackageNotFoundError:
        return "unknown"


def _check_vectors(prompt: torch.Tensor, name: str) -> None:
    if prompt.ndim != 2 or prompt.shape[0] == 0 or not prompt.dtype.is_floating_point:
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


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder to write a pair into; it takes the place of `target` when the block ends without an error.

    Raises PairError where something other than a pair stands at `target`.
    """
    if target.exists() and not _is_replaceable(target):
        raise PairError(
            f"{str(target)!r} exists and is not a prompt pair; it will not be overwritten.",
            hint="Choose another folder.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp makes folders that only their owner may enter; a folder inside has the mode the umask gives.
    outer = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    staging = outer / "pair"
    staging.mkdir()
    try:
        yield staging
        _swap(staging, target)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _is_replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    return (target / "pair.json").is_file() or not any(target.iterdir())


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        os.rename(staging, target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    os.rename(target, old)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _find(source: str | os.PathLike[str], revision: str | None) -> Path:
    name = os.fspath(source)
    path = BUNDLED_PAIRS.get(name) or Path(name)
    if name in BUNDLED_PAIRS and (Path(name) / "pair.json").is_file():
        raise PairError(
            f"{name!r} names a pair of this package and a pair in this folder.",
            hint=f"Write ./{name} for the folder's.",
        )
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise PairError(f"There is no prompt pair at {name!r}.", hint="Make one: acd tune --model M --out my-pair")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except Exception as error:
        raise PairError(
            f"There is no folder {name!r}, and the hub gave no pair of that name: {' '.join(str(error).split())[:160]}",
            hint="Make one: acd tune --model M --out my-pair",
        ) from error


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / "pair.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PairError(f"{str(folder)!r} holds no pair.json, so it is not a prompt pair.", hint=_RETUNE) from None
    except (OSError, ValueError) as error:
        raise PairError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:160]}", hint=_RETUNE) from error
    if not isinstance(document, dict) or not isinstance(document.get("format_version"), int):
        raise PairError(f"{str(path)!r} has no format_version.", hint=_RETUNE)
    if document["format_version"] > FORMAT_VERSION:
        raise PairError(
            f"{str(path)!r} has format version {document['format_version']}; this library reads up to "
            f"{FORMAT_VERSION}.",
            hint="pip install --upgrade acd-integrations",
        )
    return migrated(document)


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` of any format version up to ours as one of ours. Raises PairError for a version that never was."""
    current = dict(document)
    while current["format_version"] < FORMAT_VERSION:
        step = _MIGRATIONS.get(current["format_version"])
        if step is None:
            raise PairError(f"There is no pair format version {current['format_version']}.", hint=_RETUNE)
        current = {**step(current), "format_version": current["format_version"] + 1}
    return current


def _with_revision_and_license(document: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: the base model's revision leaves the metrics, the licence is new."""
    measured = dict(document.get("metrics") or {})
    return {**document, "base_revision": measured.pop("revision", None), "license": None, "metrics": measured}


def _with_head_and_window(document: dict[str, Any]) -> dict[str, Any]:
    """2 -> 3: plausibility and contrast_tokens are recommended too; older pairs recommend neither."""
    return {**document, "plausibility": 0.0, "contrast_tokens": None}


def _with_gate(document: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: a pair may hold a gate; older pairs have none."""
    return {**document, "gate": None}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _with_revision_and_license,
    2: _with_head_and_window,
    3: _with_gate,
}


def _read_vectors(folder: Path, source: str) -> torch.Tensor:
    vectors = _read_tensor(folder / "adapter_model.safetensors", "prompt_embeddings", source)
    _check_vectors(vectors, folder.name)
    return vectors.float()


def _read_gate(folder: Path, described: Any, source: str) -> Gate | None:
    if described is None:
        return None
    if not isinstance(described, Mapping):
        raise PairError(f"pair.json of {source!r} describes its gate as a {type(described).__name__}.", hint=_RETUNE)
    return Gate.of(described, _read_tensor(folder / GATE_FILE, "weights", source))


def _read_tensor(path: Path, name: str, source: str) -> torch.Tensor:
    """The one tensor `name` that the file holds."""
    where = f"{path.parent.name}/{path.name}"
    try:
        tensors = load_file(str(path))
    except FileNotFoundError:
        raise PairError(f"The pair {source!r} lacks {where}.", hint=_RETUNE) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise PairError(
            f"{where} of the pair {source!r} is damaged: {' '.join(str(error).split())[:160]}", hint=_RETUNE
        ) from error
    if set(tensors) != {name}:
        raise PairError(
            f"{where} of the pair {source!r} holds {sorted(tensors)[:4]}, not the one tensor {name!r}.", hint=_RETUNE
        )
    return tensors[name]
