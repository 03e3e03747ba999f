"""How two rows of logits become one. Pure functions on float32 scores [n, vocab]; no masking before the contrast.

-inf - alpha * (-inf) is NaN and a token masked only in the subtracted row would win with +inf, so whatever masks
(grammar, plausibility, top-p) comes after.
"""

from __future__ import annotations

import torch


def contrast(kept: torch.Tensor, other: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    """ACD's rule, which is also ROSE's and Instructive Decoding's: `kept - alpha * other`.

    kept, other: [n, vocab] float32 logits. alpha: [n, 1] in [0, 1). rescale: [n, 1] bool; True divides by (1 - alpha),
    which leaves greedy decoding as it is and makes temperature honest where the branches agree. With
    alpha = 1 - 1/g the rescaled score is classifier-free guidance at scale g: g * kept - (g - 1) * other.
    Source: arXiv 2406.16743, section 3.2; ROSE, arXiv 2402.11889, equation 2.
    """
    score = kept - alpha * other
    return torch.where(rescale, score / (1.0 - alpha), score)


def plausible(kept: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Which tokens Contrastive Decoding's head keeps: p_kept >= beta * max p_kept (Li et al. 2023, equation 3).

    kept: [n, vocab] float32 logits, already masked by a grammar if there is one (so that the two never have an empty
    intersection). beta: [n, 1] in [0, 1); 0 keeps everything. Returns bool [n, vocab], never all False in a row.
    """
    best = kept.amax(dim=-1, keepdim=True)
    return (beta == 0) | (kept >= best + torch.log(beta.clamp_min(1e-30)))


def divergence(kept: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Total-variation distance in [0, 1] between the two branches' next-token distributions, per row: [n]."""
    return 0.5 * (kept.softmax(dim=-1) - other.softmax(dim=-1)).abs().sum(dim=-1)
