"""The listwise loss. Imports torch; serving never imports this."""

import torch


def listwise_loss(logits: torch.Tensor, targets: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the softmax over each list and the shares of its choices.

    Args:
        logits: (n_pairs,) scores of all lists' items, one list after the other.
        targets: float32 (n_lists, longest), each line summing to 1, 0 behind a list's end.
        places: int64 (n_pairs,), each pair's place in the flattened targets.
    Returns:
        The mean over lists, a scalar; at least the targets' mean entropy.
    Source: ListNet, Cao et al. 2007, with choice shares in place of its top-one probabilities.
    """
    # far below any score, yet finite: 0 · -inf would be NaN
    padded = torch.full((targets.numel(),), -1e4, dtype=torch.float32, device=logits.device)
    padded = padded.scatter(0, places, logits.float())  # (n_lists · longest,)
    log_shares = torch.log_softmax(padded.view_as(targets), dim=1)  # (n_lists, longest)
    return -(targets * log_shares).sum(dim=1).mean()
