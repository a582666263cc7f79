"""The losses over drawn lists, per head. Imports torch; serving never imports this."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

LossKind = Literal["listwise", "pointwise", "both"]

_FAR_BELOW = -1e4  # any score, yet finite: 0 · -inf would be NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the lists of one batch should have been answered; float32 (n_lists, longest, n_heads), 0 behind an end."""

    shares: torch.Tensor  # of a list's choices; of a head without any in the list: all 0
    rates: torch.Tensor  # chance of each item by itself, 0 to 1


def label_targets(rates: torch.Tensor) -> Targets:
    """Return the targets that choices set.

    Args:
        rates: float32 (n_lists, longest, n_heads), share of the searches that chose an item.
    """
    return Targets(shares=rates / rates.sum(dim=1, keepdim=True).clamp(min=1e-9), rates=rates)


def teacher_targets(logits: torch.Tensor, like: torch.Tensor, places: torch.Tensor) -> Targets:
    """Return the targets that a teacher's scores of the same pairs set.

    With them the listwise loss is, but for a constant, the Kullback-Leibler divergence of the two softmaxes over a
    list, and the pointwise one that of the two chances. Unlike labels they tell apart what nobody chose.

    Args:
        logits: (n_pairs, n_heads) of the teacher.
        like: (n_lists, longest, n_heads), the shape.
        places: int64 (n_pairs,), each pair's place among the n_lists · longest.
    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", at temperature 1.
    """
    lists = _as_lists(logits, like, places)
    return Targets(shares=torch.softmax(lists, dim=1), rates=torch.sigmoid(lists))


def list_loss(logits: torch.Tensor, targets: Targets, places: torch.Tensor, kind: LossKind) -> torch.Tensor:
    """Return the loss of some lists, summed over the heads.

    Args:
        logits: (n_pairs, n_heads) of all lists' items, one list after the other.
        targets: Of the same heads.
        places: int64 (n_pairs,), each pair's place among the n_lists · longest.
        kind: Which loss; "both" is the sum of the two.
    Returns:
        The mean over lists, a scalar.
    """
    loss = torch.zeros((), device=logits.device)
    if kind != "pointwise":
        loss = loss + listwise_loss(logits, targets.shares, places)
    if kind != "listwise":
        loss = loss + pointwise_loss(logits, targets.rates, places)
    return loss


def listwise_loss(logits: torch.Tensor, shares: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the softmax over each list and the shares of its choices.

    A head adds nothing to the loss of a list in which it has no positive: there is no share to speak of.

    Args:
        logits: (n_pairs, n_heads) of all lists' items, one list after the other.
        shares: float32 (n_lists, longest, n_heads), summing to 1 (or 0) over a list, 0 behind its end.
        places: int64 (n_pairs,), each pair's place among the n_lists · longest.
    Returns:
        The sum over heads and mean over lists, a scalar; at least the shares' mean entropy.
    Source: ListNet, Cao et al. 2007, with choice shares in place of its top-one probabilities.
    """
    log_shares = torch.log_softmax(_as_lists(logits, shares, places), dim=1)  # (n_lists, longest, n_heads)
    return -(shares * log_shares).sum(dim=(1, 2)).mean()


def pointwise_loss(logits: torch.Tensor, rates: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each item by itself, against the share of searches that chose it.

    Every head learns from every list: what was clicked and not bought is what tells the two heads apart.

    Args:
        logits: (n_pairs, n_heads) of all lists' items, one list after the other.
        rates: float32 (n_lists, longest, n_heads), 0 to 1, 0 behind a list's end.
        places: int64 (n_pairs,), each pair's place among the n_lists · longest.
    Returns:
        The mean over a list's items, sum over heads, mean over lists, a scalar.
    """
    losses = binary_cross_entropy_with_logits(_as_lists(logits, rates, places), rates, reduction="none")
    # behind a list's end it is -log(1 - sigmoid(far below)) = 0
    lengths = torch.bincount(places // rates.shape[1], minlength=len(rates))  # (n_lists,)
    return (losses.sum(dim=(1, 2)) / lengths).mean()


def _as_lists(logits: torch.Tensor, like: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Put pairs into their places: (n_pairs, n_heads) to float32 (n_lists, longest, n_heads)."""
    n_lists, longest, n_heads = like.shape
    padded = torch.full((n_lists * longest, n_heads), _FAR_BELOW, dtype=torch.float32, device=logits.device)
    return padded.index_copy(0, places, logits.float()).view_as(like)
