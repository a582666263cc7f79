"""The retriever's loss: a softmax over the items of the batch."""

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from retrieval.engines.encoder import Role
from retrieval.training.processes import gather_shares
from retrieval.training.towers import embed


def in_batch_softmax(
    logits: Tensor, *, answers: Tensor, log_q: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each query's own positive against the items of the batch.

    An item that answers a query, but is not the positive at hand, is no negative of it: it takes no part.
    With ``log_q`` the softmax over the drawn items estimates the one over the whole catalogue; without, popular
    items, which the batch shows more often, are pushed down for being popular.

    Args:
        logits: (n_queries, n_items) similarities over temperature, n_items >= n_queries; the positive of query i is
            item i, the items after them are drawn negatives.
        answers: bool (n_queries, n_items): item j is known to answer query i. The positive itself may be marked or not.
        log_q: (n_items,) natural logarithm of the probability with which the sampler that drew item j draws it.
        weights: (n_queries,) weight of each query, not negative; None: all alike.
    Returns:
        The weighted mean over the queries, a scalar.
    Source: Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", eq. 5;
        for items of two samplers Yang et al. 2020, "Mixed negative sampling for learning two-tower neural networks".
    """
    positives = torch.arange(len(logits), device=logits.device)  # (n_queries,)
    if log_q is not None:
        logits = logits - log_q
    others = answers.clone()
    others[positives, positives] = False
    losses = nn.functional.cross_entropy(logits.masked_fill(others, -torch.inf), positives, reduction="none")
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / weights.sum()


class InBatchSoftmaxLoss(nn.Module):
    """The loss as ``SentenceTransformerTrainer`` calls it, on batches of ``retrieval.training.pairs.PairCollator``."""

    def __init__(
        self, model: SentenceTransformer, *, temperature: float, chunk: int | None = None, dims: Sequence[int] = ()
    ) -> None:
        """Take the towers.

        Args:
            model: The towers in training.
            temperature: Cosines are divided by it.
            chunk: Texts whose activations are held at one time, see ``retrieval.training.towers.embed``; None: all.
            dims: Widths to which embeddings may be cut later: the loss is the mean of that of the whole embeddings and
                of those of their first so many numbers.
        Source: Kusupati et al. 2022, "Matryoshka representation learning", eq. 1, with equal weights.
        """
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.chunk = chunk
        self.dims = dims

    def forward(self, features: Sequence[dict[str, Tensor]], labels: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch.

        Args:
            features: Token ids of the batch's distinct queries and of its distinct items; of several processes, each
                has its share of them (``retrieval.training.processes``).
            labels: Of the whole batch, alike in every process. ``query`` int64 (n_queries,) and ``item`` int64
                (n_items,): which of the distinct texts stands at each place; ``answers``, and if wanted ``log_q`` and
                ``weights``, as ``in_batch_softmax`` has them.
        """
        queries = self._embed(features[0], "query", labels["query"])  # (n_queries, dim)
        items = self._embed(features[1], "item", labels["item"])  # (n_items, dim)
        pairs = [(queries, items)]
        for dim in self.dims:
            pairs.append((normalize(queries[:, :dim], dim=1), normalize(items[:, :dim], dim=1)))
        losses = [
            in_batch_softmax(
                queries @ items.T / self.temperature,
                answers=labels["answers"],
                log_q=labels.get("log_q"),
                weights=labels.get("weights"),
            )
            for queries, items in pairs
        ]
        return torch.stack(losses).mean()

    def _embed(self, features: dict[str, Tensor], role: Role, places: Tensor) -> Tensor:
        share = embed(self.model, features, role, chunk=self.chunk).float()
        return gather_shares(share, int(places.max()) + 1)[places]
