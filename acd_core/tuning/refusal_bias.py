"""TSDI: how far a safe text tilts a model towards refusing, whatever is asked, estimated from random prompts.

Token-level Safety-Debiased Inference (Tran et al., "Vulnerability Mitigation for Safety-Aligned Language Models via
Debiasing", arXiv 2502.02153) estimates by random prompts which tokens a safety-aligned model prefers regardless of the
input, and subtracts that from the logits while decoding. Here

    b = mean over random prompts r and the first T reply tokens of  log p(. | S, r, y_<t) - log p(. | r, y_<t)

with y the greedy reply under the safe text S, and b centred. What departs: the safety is a text's and the reference the
model without it, where theirs are aligned weights and the model before; only the paper's abstract and summaries were at
hand, so the average over T, and the pool (words of harmless requests, where they draw from MMLU), are ours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from acd_core.artifacts.refusal_bias import FOLDER, RefusalBias
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.methods.prompts import SAFE_PROMPT
from acd_core.model.backbone import Backbone
from acd_core.tuning.anchors import Instruction, bundled_instructions
from acd_core.tuning.progress import Bar
from acd_core.tuning.streams import Prefix, greedy, prefill, reply_logits, shared_start

ROWS = 8
"""Prompts of one forward: the logits of all their reply tokens are there at once."""
SHOWN = 8
"""Tokens that are named among the figures."""


@dataclass(frozen=True)
class TsdiSettings:
    """prompts: random ones. words: of each. tokens: T, reply tokens that are averaged over. strength: how much of the
    bias is subtracted. seed: of the draws."""

    prompts: int = 128
    words: int = 12
    tokens: int = 8
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "words", "tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be at least 1.")
        if not 0.0 < self.strength <= 10.0:
            raise UsageError(f"strength is {self.strength!r}; it must lie in (0, 10].")


def random_prompts(pool: Sequence[Instruction], count: int, words: int, seed: int) -> list[str]:
    """`count` texts of `words` words each, drawn from those of `pool` without regard to sense. Raises TuningError for
    a pool of fewer than `words` words."""
    known = [word for row in pool for word in row.text.split()]
    if len(known) < words:
        raise TuningError(
            f"The harmless requests hold {len(known)} words; {words} are drawn for a prompt.",
            hint="Give more of them with --safe.",
        )
    rng = random.Random(seed)
    return [" ".join(rng.sample(known, words)) for _ in range(count)]


def train_refusal_bias(
    backbone: Backbone,
    out: Path | None = None,
    *,
    safe: Sequence[Instruction] | None = None,
    settings: TsdiSettings | None = None,
    progress: bool = True,
) -> RefusalBias:
    """Estimate the bias of the safe text on `backbone` and, with `out`, save it there. A killed run leaves nothing and
    starts anew: it is short.

    safe: instructions whose words make the random prompts; default the bundled harmless ones.
    Raises TuningError (too few words, logits that are not finite) and ExpertError (`out` is something else; a model
    that makes something else of its output layer's logits).
    """
    chosen, started = settings or TsdiSettings(), time.monotonic()
    if out is not None:
        FOLDER.check_target(out)
    pool = bundled_instructions("safe") if safe is None else safe
    asked = random_prompts(pool, chosen.prompts, chosen.words, chosen.seed)
    found = estimated(backbone, asked, chosen.tokens, progress)
    if not bool(torch.isfinite(found).all()):
        raise TuningError("The bias is not finite.", hint="Load the model with --dtype float32.")
    raised = found.topk(min(SHOWN, len(found))).indices.tolist()
    metrics = {
        **asdict(chosen),
        "pool": len(pool),
        "largest": round(float(found.max()), 3),
        "raised": ", ".join(repr(backbone.tokenizer.decode([token])) for token in raised),
        "seconds": round(time.monotonic() - started, 1),
    }
    bias = RefusalBias(found, chosen.strength, backbone.model_id, backbone.fingerprint, metrics)
    bias.check(backbone)
    if out is not None:
        bias.save(out)
    return bias


@torch.no_grad()
def estimated(backbone: Backbone, asked: Sequence[str], tokens: int, progress: bool = False) -> Tensor:
    """b [vocab] float32 on the CPU, of mean 0, from the prompts `asked`."""
    chat = Chat(backbone.tokenizer)
    sides = [[chat.layout(text, prompt).ids for text in asked] for prompt in (SAFE_PROMPT, None)]
    starts = [_start(backbone, rows) for rows in sides]
    behind = [[row[prefix.length :] for row in rows] for prefix, rows in zip(starts, sides)]
    total: Tensor | None = None
    with Bar("Random prompts", len(asked), shown=progress) as bar:
        for first in range(0, len(asked), ROWS):
            kept, bare = (rows[first : first + ROWS] for rows in behind)
            said = greedy(backbone, starts[0], kept, max_tokens=tokens)
            # A reply that ended still has the place behind it, where another token could have stood.
            replies = [[*reply, 0][:tokens] for reply in said]
            width = max(map(len, replies))
            scores = [
                reply_logits(backbone, prefix, rows, replies, width=width).float().log_softmax(-1)
                for prefix, rows in zip(starts, (kept, bare))
            ]
            lengths = torch.tensor([len(reply) for reply in replies], device=backbone.device)
            mask = torch.arange(width, device=backbone.device) < lengths[:, None]
            change = (scores[0] - scores[1]) * mask[..., None]
            summed = (change.sum(1) / lengths[:, None]).sum(0).double().cpu()
            total = summed if total is None else total + summed
            bar.advance(len(kept))
    assert total is not None
    mean = total / len(asked)
    return (mean - mean.mean()).float()


def _start(backbone: Backbone, rows: Sequence[Sequence[int]]) -> Prefix:
    return prefill(backbone, rows[0][: shared_start(rows)])
