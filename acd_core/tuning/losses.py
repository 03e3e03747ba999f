"""The losses that objectives are made of: small functions on scores, and a table of them by name.

Shapes throughout: logits [B, R, V] float (row b, position r predicts reply token r), targets [B, R] int64, mask [B, R]
float or bool (1 where a reply token is supervised), states of a layer [B, R, hidden] at the same positions. Every loss
returns one value a row, [B] float32 or better: the mean over that row's supervised tokens, so that long replies weigh
no more than short ones, or the sum where the table says that it counts by the token.

The paper's losses are those of Zhang, Zhao et al. (arXiv 2406.16743); unlikelihood is Welleck et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acd_core.errors import UsageError
from acd_core.tuning.dro_probes import elsewhere_loss, reading_loss

UNLIKELIHOOD_BOUND = 4.0
"""Largest value a token gives to `bounded_unlikelihood`; -log(1 - P) of the paper has none."""


def joint_scores(safe: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    """The scores decoding really uses: (z_S - alpha z_A) / (1 - alpha), alpha in [0, 1). Shapes as given, float32+."""
    if not 0.0 <= alpha < 1.0:
        raise UsageError(f"alpha is {alpha!r}; it must lie in [0, 1).")
    if alpha == 0.0:
        return _exact(safe)
    return (_exact(safe) - alpha * _exact(adversarial)) / (1.0 - alpha)


def nll(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log P(target), mean over the row's supervised tokens. [B, R, V], [B, R], [B, R] -> [B]."""
    logits = _exact(logits)
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return row_mean(torch.logsumexp(logits, -1) - picked, mask)


def token_nll(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log P(target), summed over the row's supervised tokens. [B, R, V], [B, R], [B, R] -> [B].

    By torch's own kernel: `nll` computes the same in another order, and the last bits of a run depend on the order.
    """
    losses = torch.nn.functional.cross_entropy(_exact(logits).transpose(1, 2), targets, reduction="none")
    return (losses * mask.to(losses.dtype)).sum(-1)


def unlikelihood(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log(1 - P(target)), mean over the row's supervised tokens. [B, R, V], [B, R], [B, R] -> [B].

    Computed as logsumexp(all) - logsumexp(all but the target): finite, with a finite gradient that does not vanish,
    even where P rounds to 1. (1 - P in floating point is 0 there, and its logarithm infinite.)
    """
    logits = _exact(logits)
    others = logits.scatter(-1, targets.unsqueeze(-1), float("-inf"))
    return row_mean(torch.logsumexp(logits, -1) - torch.logsumexp(others, -1), mask)


def bounded_unlikelihood(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log(1 - (1 - e) P(target)) with e = exp(-UNLIKELIHOOD_BOUND): at most the bound, and flat near it, so that a
    token which any prompt predicts (a restated request) cannot dominate the sum. Shapes as `unlikelihood`."""
    logits = _exact(logits)
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    probability = (picked - torch.logsumexp(logits, -1)).exp()
    keep = 1.0 - torch.exp(torch.tensor(-UNLIKELIHOOD_BOUND, dtype=logits.dtype)).item()
    return row_mean(-torch.log1p(-keep * probability), mask)


def kl_to(reference: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """KL(reference || logits) over the full distribution, mean over the row's supervised tokens.

    reference, logits [B, R, V] (both as logits), mask [B, R] -> [B]. `reference` is the frozen model's; no gradient
    should flow into it, which is the caller's care.
    """
    wanted = torch.log_softmax(_exact(reference), -1)
    found = torch.log_softmax(_exact(logits), -1)
    return row_mean((wanted.exp() * (wanted - found)).sum(-1), mask)


def decision(logits: Tensor, signal: Tensor, refuse: bool, offset: float = 0.0) -> Tensor:
    """-log P(the reply refuses), or with `refuse` False -log P(it does not), read off the first token alone.

    logits [B, R, V]; signal [V] in [0, 1]: the probability that a reply which starts with a token is a refusal (see
    `refusal_signal`). -> [B]. Unlike `nll` it asks for no particular wording, so its gradient is about refusing only.
    offset: added to the log odds of refusing, so that with more of it the prompts learn to refuse less, harmful and
    harmless requests alike (logit adjustment, Menon et al., arXiv 2007.07314; see `steering.py`).
    """
    odds = refusal_log_odds(logits[:, 0], signal) + offset
    return torch.nn.functional.softplus(-odds if refuse else odds)


def refusal_log_odds(first: Tensor, signal: Tensor) -> Tensor:
    """log P(the reply refuses) - log P(it does not): [B], of the first token's scores [B, V] and `signal` [V]."""
    chances = torch.log_softmax(_exact(first), -1)
    refusing, other = (torch.logsumexp(chances + part.clamp_min(1e-6).log(), -1) for part in (signal, 1.0 - signal))
    return refusing - other


def refusal_signal(refused: Sequence[int], other: Sequence[int], vocabulary: int) -> Tensor:
    """How much each token, as the first of a reply, speaks for a refusal: [vocabulary] float32 in [0, 1].

    refused, other: first tokens of the anchor replies that refuse, and of those that do not. Each kind counts as much
    as the other, whatever their numbers; a token never seen first in a refusal has 0.
    """
    counts = torch.zeros(2, vocabulary, dtype=torch.float32)
    for row, tokens in enumerate((refused, other)):
        counts[row].index_add_(
            0, torch.tensor(list(tokens), dtype=torch.long), torch.ones(len(tokens), dtype=torch.float32)
        )
    shares = counts / counts.sum(-1, keepdim=True).clamp_min(1.0)
    return shares[0] / shares.sum(0).clamp_min(1e-12)


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, R] over `mask` [B, R], a row at a time -> [B]. A row without supervised tokens gives 0."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(-1) / mask.sum(-1).clamp_min(1.0)


def _exact(logits: Tensor) -> Tensor:
    """float32 at least: half-precision logits lose the tail that unlikelihood and KL live on. float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


# --- the table ---


@dataclass(frozen=True)
class LossInput:
    """What a loss reads of some rows. scores: the logits that its term names. states: layer -> those of the same
    stream. plain, plain_states: those of the model alone, where the loss asks for them. signal: see `refusal_signal`.
    offset: of the log odds of refusing, see `decision`."""

    scores: Tensor
    targets: Tensor
    mask: Tensor
    states: Mapping[int, Tensor] = field(default_factory=dict)
    plain: Tensor | None = None
    plain_states: Mapping[int, Tensor] = field(default_factory=dict)
    signal: Tensor | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class LossFunction:
    """A loss by its name: `value` gives [B]. needs_plain: it compares with the model alone. decides: it reads the first
    reply token only, and needs the refusal signal. by_token: it gives sums over each row's tokens, and every supervised
    token of a step weighs the same; else every row does."""

    value: Callable[[LossInput], Tensor]
    needs_plain: bool = False
    decides: bool = False
    by_token: bool = False


def _deciding(refuse: bool) -> LossFunction:
    def value(rows: LossInput) -> Tensor:
        assert rows.signal is not None
        return decision(rows.scores, rows.signal, refuse, rows.offset)

    return LossFunction(value, decides=True)


def _pulling_to_plain(rows: LossInput) -> Tensor:
    assert rows.plain is not None
    return kl_to(rows.plain, rows.scores, rows.mask)


def _dro_change(rows: LossInput) -> Tensor:
    """[B, width]: how far the state at the request's last token moved from the one under the text (stream "plain")."""
    ((layer, states),) = rows.states.items()
    return _exact(states[:, 0]) - _exact(rows.plain_states[layer][:, 0])


def _dro_reading(direction: int, up: bool) -> LossFunction:
    """direction: 0 for compliance, 1 for harmlessness, of `Space.directions`, which stand as the run's signal."""

    def value(rows: LossInput) -> Tensor:
        assert rows.signal is not None
        change = _dro_change(rows)
        return reading_loss(change, rows.signal[direction].to(change.dtype), up)

    return LossFunction(value, needs_plain=True, decides=True)


def _dro_elsewhere(rows: LossInput) -> Tensor:
    assert rows.signal is not None
    change = _dro_change(rows)
    return elsewhere_loss(change, rows.signal[2:].to(change.dtype))


LOSSES: dict[str, LossFunction] = {
    "nll": LossFunction(lambda rows: nll(rows.scores, rows.targets, rows.mask)),
    "token_nll": LossFunction(lambda rows: token_nll(rows.scores, rows.targets, rows.mask), by_token=True),
    "unlikelihood": LossFunction(lambda rows: unlikelihood(rows.scores, rows.targets, rows.mask)),
    "bounded_unlikelihood": LossFunction(lambda rows: bounded_unlikelihood(rows.scores, rows.targets, rows.mask)),
    "kl_to_plain": LossFunction(_pulling_to_plain, needs_plain=True),
    "refuse": _deciding(True),
    "comply": _deciding(False),
    "dro_refuse": _dro_reading(0, up=False),
    "dro_comply": _dro_reading(0, up=True),
    "dro_harmful": _dro_reading(1, up=False),
    "dro_harmless": _dro_reading(1, up=True),
    "dro_elsewhere": LossFunction(_dro_elsewhere, needs_plain=True, decides=True),
}
