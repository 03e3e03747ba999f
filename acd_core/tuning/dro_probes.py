"""DRO's low-dimensional space of hidden states, the two readings in it, and the losses that these give.

"On Prompt-Driven Safeguarding" (Zheng et al., arXiv 2401.18018), section 3 (the space and the readings) and section 4
(the losses), as the authors' code computes them. x is the state of a request's last input token in the last layer.

    g(x) = V (x - mean)          V [m, width]: the first m principal components of the anchors' states, m = 4
    f_r(g) = w_r g + b_r         the log odds that the model complies; learnt from shares of complying replies
    f_h(g) = w_h g + b_h         the log odds that the request is harmless

A prompt is judged by how it moves x from x0, the state under the text that it began as. Only differences count, so that
the mean, b_r and b_h drop out: f(g(x)) - f(g(x0)) = (w V) (x - x0).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

DIMENSIONS = 4
"""m of the authors."""
SPLITS = 10
CHECK_EVERY, PATIENCE, LEAST_GAIN = 100, 3, 1e-4
"""A reading is checked on its held-out states every so many steps; after so many checks without so large a gain it
stops. The interval is ours, the other two are the authors'."""
STEP_SIZE, MOST_STEPS = 1e-4, 10_000


@dataclass(frozen=True)
class Reading:
    """One linear reading in the space: weights [m], bias, both float32, and its mean loss on held-out states."""

    weights: Tensor
    bias: float
    loss: float

    def log_odds(self, found: Tensor) -> Tensor:
        """[n] of states [n, m] in the space."""
        return found @ self.weights + self.bias


@dataclass(frozen=True)
class Space:
    """mean [width], components [m, width] with orthonormal rows, and the share of the variance that they hold."""

    mean: Tensor
    components: Tensor
    share: float

    @classmethod
    def of(cls, states: Tensor, dimensions: int = DIMENSIONS) -> Space:
        """The first principal components of `states` [n, width], n above `dimensions`. Signs: the entry of each that is
        largest in size is positive."""
        states = states.double()
        mean = states.mean(0)
        _, sizes, rows = torch.linalg.svd(states - mean, full_matrices=False)
        rows = rows[:dimensions]
        rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
        share = float(sizes[:dimensions].square().sum() / sizes.square().sum().clamp_min(1e-30))
        return cls(mean.float(), rows.float(), share)

    def project(self, states: Tensor) -> Tensor:
        """g of states [n, width]: [n, m]."""
        return (states.float() - self.mean) @ self.components.T

    def directions(self, compliance: Reading, harmlessness: Reading) -> Tensor:
        """All that the losses read by, [2 + m, width]: w_r V, w_h V, and V."""
        return torch.cat([torch.stack([compliance.weights, harmlessness.weights]) @ self.components, self.components])


def fit_reading(found: Tensor, shares: Tensor, *, seed: int = 0, steps: int = MOST_STEPS) -> Reading:
    """Logistic regression of `shares` [n] in [0, 1] on states `found` [n, m]: the mean of SPLITS fits.

    Every fit leaves another tenth out and stops by it. AdamW, full batch; weights begin at zero, the bias (which drops
    out of the losses) at the log odds of the mean share, so that a model that nearly always complies has no bias to
    learn first. All fits run at once, each with moments of its own, so they are what they would be one by one.
    """
    count, size = found.shape
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(SPLITS, count, dtype=torch.float32)
    held[torch.arange(count) % SPLITS, order] = 1.0
    left = (1.0 - held) / (1.0 - held).sum(1, keepdim=True).clamp_min(1.0)
    points = torch.cat([found.float(), torch.ones(count, 1, dtype=torch.float32)], 1)
    shares = shares.float()
    weights = torch.zeros(SPLITS, size + 1, dtype=torch.float32)
    weights[:, -1] = torch.logit(shares.mean(), eps=1e-3)
    optimizer = torch.optim.AdamW([weights], lr=STEP_SIZE)
    best, kept = torch.full((SPLITS,), float("inf"), dtype=torch.float32), weights.clone()
    misses = torch.zeros(SPLITS, dtype=torch.long)
    for step in range(steps + 1):
        log_odds = weights @ points.T
        if step % CHECK_EVERY == 0 or step == steps:
            now = (_cross_entropy(log_odds, shares) * held).sum(1) / held.sum(1).clamp_min(1.0)
            better = (now < best - LEAST_GAIN) & (misses < PATIENCE)
            best, kept = torch.where(better, now, best), torch.where(better[:, None], weights, kept)
            misses = torch.where(better, torch.zeros_like(misses), misses + 1)
            if bool((misses >= PATIENCE).all()):
                break
        weights.grad = (log_odds.sigmoid() - shares) * left @ points  # of the mean cross entropy: autograd is slower
        optimizer.step()
    mean = kept.mean(0)
    return Reading(mean[:-1], float(mean[-1]), float(best.mean()))


def _cross_entropy(log_odds: Tensor, shares: Tensor) -> Tensor:
    return shares * softplus(-log_odds) + (1.0 - shares) * softplus(log_odds)


# --- the losses, of how a prompt moves the states: change = x - x0 [B, width] -> [B] ---


def reading_loss(change: Tensor, direction: Tensor, up: bool) -> Tensor:
    """BCE(sigmoid(f(g(x)) - f(g(x0))), y), y = 1 with `up`: L_r (section 4, direction w_r V) and L_h (w_h V). A
    harmless request is to move up, towards complying or harmless; a harmful one down."""
    moved = change @ direction
    return softplus(-moved if up else moved)


def elsewhere_loss(change: Tensor, components: Tensor) -> Tensor:
    """L_U: the mean squared change in the width - m directions of an orthonormal basis that `components` [m, width]
    leave over. The authors complete the basis by Gram-Schmidt on random vectors; the sum of squares is the same for
    every completion, |change|^2 less that in the components, so none is made."""
    rest = change - change @ components.T @ components
    return rest.square().sum(-1) / (components.shape[1] - components.shape[0])
