"""Mined negatives: what training keeps of a mining, how it draws from it, and with which probability."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class HardNegatives:
    """The candidates of every training query that may stand as its negatives.

    A query's candidates are kept once; which of them a pair may use depends on its positive's score. They are in
    such an order that those are always the last ones.
    """

    rows: npt.NDArray[np.int32]  # (n_queries, depth) rows of the item table; -1 is padding, only ever at the end
    first: npt.NDArray[np.int32]  # (n_pairs,): pair p may use rows[query of p, first[p]:]

    def draw(self, pair: int, query: int, n: int, rng: np.random.Generator) -> IntArray:
        """Draw negatives for a pair, without replacement.

        Args:
            pair: The pair's number.
            query: The number of its query.
            n: How many are wanted.
            rng: Where chance comes from.
        Returns:
            int64 (min(n, size of the pair's pool),) rows.
        """
        pool = self.rows[query, self.first[pair] :]
        pool = pool[pool >= 0]
        return rng.choice(pool, size=min(n, len(pool)), replace=False).astype(np.int64)

    def log_q(self, query: IntArray, weights: FloatArray, n: int, *, n_items: int) -> FloatArray:
        """Return the log-probability that a draw, for whichever pair the sampler brings, is each item.

        It is taken over all pairs, not given the query that the item was drawn for. So it is exact for every other
        query of the batch, for which the item is a draw of chance. For its own query the probability is far greater,
        and a correction by that would take back the very emphasis that hard negatives are mined for: there an item
        counts for as many as the pool has, on the scale of the positive, which is corrected by the like probability.

        Args:
            query: (n_pairs,) the query of each pair.
            weights: (n_pairs,) in proportion to which pairs are drawn.
            n: Negatives asked for per pair.
            n_items: Size of the catalogue.
        Returns:
            float32 (n_items,), natural logarithm; -inf for items that are never drawn.
        Source: Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", sec. 4
            (the sampler's probability of the item, whatever the query); emphasis on hard negatives as importance
            sampling: Xiong et al. 2021, "Approximate nearest neighbor negative contrastive learning" (ANCE), sec. 3.
        """
        sizes = (self.rows >= 0).sum(axis=1)[query] - self.first  # (n_pairs,)
        per_item = weights * np.minimum(n, sizes) / np.maximum(sizes, 1)  # (n_pairs,) expected draws of each of a pool
        starts = np.zeros((self.rows.shape[0], self.rows.shape[1] + 1))
        np.add.at(starts, (query, self.first), per_item)
        expected = starts.cumsum(axis=1)[:, :-1]  # (n_queries, depth): of all pairs whose pool holds the place
        found = self.rows >= 0
        draws = np.bincount(self.rows[found], weights=expected[found], minlength=n_items)
        with np.errstate(divide="ignore"):
            log_q: FloatArray = np.log(draws / max(draws.sum(), np.finfo(np.float64).tiny)).astype(np.float32)
        return log_q

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        part = path.with_name(f"{path.name}.part")
        save_file({"rows": self.rows, "first": self.first}, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "HardNegatives":
        """Read a file that ``save`` wrote.

        Raises:
            ArtefactError: If it is missing or broken.
        """
        try:
            arrays = load_file(path)
            return cls(rows=arrays["rows"], first=arrays["first"])
        except Exception as exc:  # the library has no public error class of its own
            raise ArtefactError(f"expected mined negatives at {path}, got: {exc}; train with --fresh") from exc
