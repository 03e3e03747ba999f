"""Logistic regression on the hidden states of whole prompts: a prompt counts as its few highest tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acd_core.artifacts.gate import TOP

HALVED = 6 * 2**30
"""Bytes of float32 states above which a fit keeps them in half precision: wide models have that many."""
PART = 2**27
"""Numbers of padded states that a fit takes at a time."""


def fit_pooled(rows: Sequence[Tensor], labels: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Logistic regression on rows of states [tokens, width], a row counting as the mean of its TOP highest tokens.

    labels [rows] in {0, 1}; each class weighs as much as the other. Returns weights [width] and bias, standardisation
    folded in. With one token a row it is ordinary ridge logistic regression. Deterministic: full batches, L-BFGS.
    """
    mean, deviation, size = _spread(rows)
    width = len(mean)
    kept = torch.float16 if 4 * size > HALVED else torch.float32
    shares = torch.where(labels > 0, 0.5 / labels.sum().clamp_min(1), 0.5 / (1 - labels).sum().clamp_min(1))
    lengths = [len(row) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    parts = []
    while order:
        fit = 1  # rows of one part: the longest stands last, and all are padded to it
        while fit < min(len(order), 256) and (fit + 1) * lengths[order[fit]] * width <= PART:
            fit += 1
        some, order = order[:fit], order[fit:]
        padded = _padded([((rows[at].float() - mean) / deviation).to(kept) for at in some])
        parts.append((*padded, labels[some], shares[some]))
    ends = torch.stack([(row[-1].float() - mean) / deviation for row in rows])
    start = 0.01 * (ends[labels > 0].mean(0) - ends[labels == 0].mean(0))
    weight, bias = start.clone().requires_grad_(True), torch.zeros((), dtype=torch.float32, requires_grad=True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        total = ridge * weight.square().sum()
        total.backward()
        for states, there, wanted, share in parts:
            found = _top((states.to(weight) @ weight + bias).masked_fill(~there, -1e4))
            part = torch.nn.functional.binary_cross_entropy_with_logits(found, wanted, weight=share, reduction="sum")
            part.backward()
            total = total.detach() + part.detach()
        return total

    with torch.enable_grad():
        steps.step(loss)
    final = (weight.detach() / deviation).contiguous()
    assert final.shape == (width,)
    return final, float(bias.detach() - (final * mean).sum())


def _spread(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Mean and standard deviation [width] over all tokens of `rows`, and how many numbers there are."""
    total = squares = torch.zeros((), dtype=torch.float64)
    tokens = 0
    for row in rows:
        states = row.double()
        tokens, total, squares = tokens + len(row), total + states.sum(0), squares + states.square().sum(0)
    mean = total / tokens
    variance = (squares - tokens * mean.square()).clamp_min(0.0) / max(1, tokens - 1)
    return mean.float(), variance.sqrt().float().clamp_min(1e-6), tokens * len(mean)


def pool(rows: Sequence[Tensor], weight: Tensor, bias: float) -> Tensor:
    """The pooled reading of every row of states [tokens, width]: [rows]."""
    return torch.stack([_top((row.to(weight) @ weight + bias)[None])[0] for row in rows])


def _top(values: Tensor) -> Tensor:
    """Mean of the TOP highest of [rows, tokens] (all, where there are fewer): [rows]."""
    highest = values.topk(min(TOP, values.shape[1]), dim=1).values
    there = highest > -1e4
    return (highest * there).sum(1) / there.sum(1).clamp_min(1)


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    states = torch.zeros(len(rows), width, rows[0].shape[1], dtype=rows[0].dtype)
    there = torch.zeros(len(rows), width, dtype=torch.bool)
    for at, row in enumerate(rows):
        states[at, : len(row)], there[at, : len(row)] = row, True
    return states, there


def auc(values: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: how often a harmful one reads higher than a harmless one; ties count half."""
    harmful, harmless = values[labels > 0], values[labels == 0]
    above = (harmful[:, None] > harmless).double().mean() + 0.5 * (harmful[:, None] == harmless).double().mean()
    return float(above)
