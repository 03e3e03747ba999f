"""What one row of a request starts from: token ids, soft vectors among them, and the interventions it runs under."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import Intervention


@dataclass(frozen=True)
class Branch:
    """The ids one row starts from. Where soft vectors stand, `ids` holds negative numbers unique to each vector.

    interventions: what acts on the row in every forward, in order; none for the model alone.
    """

    ids: tuple[int, ...]
    soft: torch.Tensor | None = None
    soft_at: int = 0
    interventions: tuple[Intervention, ...] = ()

    @lazy
    def under(self) -> tuple[str, ...]:
        """What its keys and values depend on beside the ids; equal for rows under the same interventions."""
        return tuple(each.id for each in self.interventions if each.id)

    def followed_by(self, said: Sequence[int]) -> Branch:
        """This branch with real token ids `said` behind it."""
        return replace(self, ids=(*self.ids, *said))

    @lazy
    def visible(self) -> tuple[int, ...]:
        """The real token ids, without soft vectors; always the same object."""
        return tuple(token for token in self.ids if token >= 0)


def soft_branch(before: Sequence[int], vectors: torch.Tensor, after: Sequence[int]) -> Branch:
    """A branch with soft vectors [n, width] between `before` and `after`."""
    return Branch((*before, *_marks(vectors), *after), vectors, len(before))


def embedded(backbone: Backbone, branch: Branch) -> torch.Tensor:
    """[tokens, width] of the branch's prompt in the model's dtype, its soft vectors in their place."""
    ids = torch.tensor(branch.ids, device=backbone.device)
    embeds = backbone.embed(ids.clamp_min(0)).to(backbone.dtype)
    if branch.soft is not None:
        stop = branch.soft_at + branch.soft.shape[0]
        embeds[branch.soft_at : stop] = branch.soft.to(embeds.device, embeds.dtype)
    return embeds


# By identity: `==` on tensors compares elements.
_known_marks: MutableMapping[torch.Tensor, tuple[int, ...]] = WeakTensorKeyDictionary()


def _marks(vectors: torch.Tensor) -> tuple[int, ...]:
    """One negative number a vector, from a hash of all of them; computed once for each tensor object."""
    marks = _known_marks.get(vectors)
    if marks is None:
        data = vectors.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
        base = int.from_bytes(hashlib.sha256(data).digest()[:6], "big") << 12
        marks = _known_marks[vectors] = tuple(-(base + index + 1) for index in range(vectors.shape[0]))
    return marks
