"""Several LoRA adapters as one, by weights: the three combinations of PEFT's `add_weighted_adapter` that need no draws.

With Delta_i = s_i B_i A_i the change of adapter i, s_i its scale and w_i its weight:

    cat     B = [B_1 ... B_n], A = [w_1 s_1 A_1; ...]         exactly sum_i w_i Delta_i, of the ranks' sum
    svd     sum_i w_i Delta_i cut to its largest singular values  the nearest matrix of that rank
    linear  B = sum_i |w_i s_i|^(1/2) B_i, A = sum_i +-|w_i s_i|^(1/2) A_i   of one rank; with cross terms B_i A_j

Weighted sums of fine-tuned weights are task arithmetic (Ilharco et al., arXiv 2212.04089, section 3); of adapters,
LoRAHub (Huang et al., arXiv 2307.13269, equation 1: "linear" without the root). The root is PEFT's: with it one adapter
of weight w is w times its change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

How = Literal["cat", "svd", "linear"]
Matrices = tuple[Tensor, Tensor]
"""(A [rank, inputs], B [outputs, rank])."""
Scaled = tuple[Matrices, float]
"""The matrices of one adapter at one module, and weight times scale."""


def concatenated(parts: Sequence[Scaled]) -> Matrices:
    """A [sum of ranks, inputs], B [outputs, sum of ranks], whose product is the weighted sum of the parts' own."""
    return torch.cat([down * factor for (down, _), factor in parts]), torch.cat([up for (_, up), _ in parts], dim=1)


def linear(parts: Sequence[Scaled]) -> Matrices:
    """The weighted sums of the A and of the B, all of one rank. The sign of a factor goes to A."""
    roots = [(math.copysign(math.sqrt(abs(factor)), factor), math.sqrt(abs(factor))) for _, factor in parts]
    down = torch.stack([root * pair[0] for (pair, _), (root, _) in zip(parts, roots)]).sum(0)
    up = torch.stack([root * pair[1] for (pair, _), (_, root) in zip(parts, roots)]).sum(0)
    return down, up


def decomposed(parts: Sequence[Scaled], rank: int) -> Matrices:
    """The best approximation of rank `rank` of the weighted sum (Eckart-Young): B has the singular values, as PEFT's.

    The sum is a product of thin matrices, so that two QR decompositions and the singular values of a small matrix do:
    no [outputs, inputs] matrix is decomposed.
    """
    down, up = (each.double() for each in concatenated(parts))
    left, first = torch.linalg.qr(up)
    right, second = torch.linalg.qr(down.T)
    turned, values, back = torch.linalg.svd(torch.matmul(first, second.T))
    kept = min(rank, len(values))
    return torch.matmul(back[:kept], right.T).float(), (torch.matmul(left, turned[:, :kept]) * values[:kept]).float()


def fused(parts: Sequence[tuple[Mapping[str, Matrices], float]], how: How, rank: int) -> dict[str, Matrices]:
    """Module -> its fused matrices, all of rank `rank`: an adapter changes only its own modules, what is missing to
    the rank is zero. parts: the weights of each adapter, and its weight times its scale."""
    joins: dict[How, Callable[[Sequence[Scaled]], Matrices]]
    joins = {"cat": concatenated, "linear": linear, "svd": lambda found: decomposed(found, rank)}
    made = {}
    for name in sorted({name for weights, _ in parts for name in weights}):
        down, up = joins[how]([(weights[name], factor) for weights, factor in parts if name in weights])
        lacking = rank - int(down.shape[0])
        made[name] = (
            torch.cat([down, down.new_zeros(lacking, down.shape[1])]),
            torch.cat([up, up.new_zeros(up.shape[0], lacking)], dim=1),
        )
    return made
