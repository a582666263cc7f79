"""What the log knows that no text does: what is chosen after a query, how often and readily an item, what with what."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from corpus.items import ItemTable
from corpus.prepared import Exposure, Pairs
from retrieval.arrays import FloatArray
from retrieval.config import BehaviourConfig
from retrieval.engines.encoder import TextEncoder
from retrieval.event_log.query_log import QueryLog
from retrieval.event_log.related_items import relate_items
from retrieval.event_log.traits import Traits
from retrieval.event_log.word_log import WordLog
from retrieval.ragged import Ragged
from retrieval.vectors.embeddings import embed_items

POPULARITY_FILE = "popularity.npy"
RECENT_FILE = "recent.npy"
CLICK_RATE_FILE = "click_rate.npy"
RELATED = "related"

# clicks and expected clicks added to an item's, so that it counts as ordinary until about as many clicks were expected
# of it: with 10 expected ones a Poisson count still strays by a third. The mean of a Gamma(10, 10) prior's posterior.
CLICK_RATE_SMOOTHING = 10.0
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Tables over the choices of some splits; an item's row is its number everywhere."""

    queries: QueryLog
    popularity: FloatArray  # (n_items,) weight of all choices
    recent: FloatArray  # (n_items,) the same, each choice halved with every ``trend_days`` of its age
    click_rate: FloatArray  # (n_items,) clicks over expected clicks, smoothed: 1 is ordinary; NaN if never shown
    related: Ragged  # by item: see ``retrieval.event_log.related_items``
    traits: Traits  # of the items, with how often each is chosen
    words: WordLog  # of the queries

    @classmethod
    def build(
        cls,
        pairs: Pairs,
        exposure: Exposure,
        encoder: TextEncoder,
        config: BehaviourConfig,
        *,
        items: ItemTable,
        cache: Path | None = None,
    ) -> "Behaviour":
        """Count.

        Args:
            pairs: The choices to count (``corpus.prepared.Prepared.pairs``).
            exposure: How often items were shown and clicked in the same splits (``Prepared.exposure``).
            encoder: The query tower that will be asked later.
            config: Decay and sizes.
            items: The catalogue.
            cache: Folder of cached embeddings; None embeds every query anew.
        """
        weight = decayed(pairs, config.half_life_days)
        kept = np.argsort(-np.bincount(pairs.query, weights=weight, minlength=len(pairs.queries)), kind="stable")
        kept = kept[: config.max_queries]
        place = np.full(len(pairs.queries), -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        known = place[pairs.query] >= 0
        texts = [pairs.queries[number] for number in kept.tolist()]
        choices = (place[pairs.query[known]], pairs.row[known], weight[known])
        vectors = encoder.encode(texts) if cache is None else embed_items(encoder, texts, cache).vectors
        n_items = len(items)
        popularity = np.bincount(pairs.row, weights=weight, minlength=n_items).astype(np.float32)
        traits = Traits.build(items, popularity)
        return cls(
            queries=QueryLog.build(texts, vectors, choices, config),
            popularity=popularity,
            recent=np.bincount(pairs.row, weights=decayed(pairs, config.trend_days), minlength=n_items).astype(
                np.float32
            ),
            click_rate=_click_rate(exposure, n_items),
            related=relate_items(
                pairs.shopper,
                pairs.row,
                pairs.timestamp.astype("datetime64[us]").astype(np.int64),
                n_items=n_items,
                most=config.max_related,
                shrinkage=config.shrinkage,
            ),
            traits=traits,
            words=WordLog.build(texts, choices, traits),
        )

    def extended(self, n_items: int) -> "Behaviour":
        """Return the same tables with places behind them, up to ``n_items``, for items that nobody chose or saw yet."""
        behind = (0, n_items - len(self.popularity))
        return replace(
            self,
            popularity=np.pad(self.popularity, behind),
            recent=np.pad(self.recent, behind),
            click_rate=np.pad(self.click_rate, behind, constant_values=np.nan),
            related=self.related.extended(n_items),
            traits=self.traits.extended(n_items),
        )

    def save(self, folder: Path) -> None:
        """Write all tables as ``.npy`` files and one FAISS index."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / POPULARITY_FILE, self.popularity, allow_pickle=False)
        np.save(folder / RECENT_FILE, self.recent, allow_pickle=False)
        np.save(folder / CLICK_RATE_FILE, self.click_rate, allow_pickle=False)
        self.related.save(folder, RELATED)
        self.queries.save(folder)
        self.traits.save(folder)
        self.words.save(folder)

    @classmethod
    def load(cls, folder: Path, config: BehaviourConfig, *, n_items: int) -> "Behaviour":
        """Open what ``save`` wrote.

        Raises:
            ArtefactError: If a file is missing or broken, or the tables are not those of so many items.
        """
        related = Ragged.load(folder, RELATED, n_items=n_items)
        if len(related) != n_items:
            raise ArtefactError(
                f"expected related items of {n_items:,} items in {folder}, got {len(related):,}; build the bundle again"
            )
        traits = Traits.load(folder, n_items=n_items)
        return cls(
            queries=QueryLog.load(folder, config, n_items=n_items),
            popularity=_read_weights(folder / POPULARITY_FILE, n_items),
            recent=_read_weights(folder / RECENT_FILE, n_items),
            click_rate=_read_weights(folder / CLICK_RATE_FILE, n_items),
            related=related,
            traits=traits,
            words=WordLog.load(folder, traits),
        )


def _click_rate(exposure: Exposure, n_items: int) -> FloatArray:
    rate = np.full(n_items, np.nan, dtype=np.float32)
    shown = exposure.impressions > 0
    expected = exposure.expected_clicks[shown] + CLICK_RATE_SMOOTHING
    rate[exposure.row[shown]] = (exposure.clicks[shown] + CLICK_RATE_SMOOTHING) / expected
    return rate


def _read_weights(path: Path, n_items: int) -> FloatArray:
    try:
        weights: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise ArtefactError(f"expected weights of items at {path}, got: {exc}; build the bundle again") from exc
    if weights.dtype != np.float32 or weights.shape != (n_items,):
        raise ArtefactError(
            f"expected float32 ({n_items},) weights at {path}, got {weights.dtype} {weights.shape}; "
            "build the bundle again"
        )
    return weights


def decayed(pairs: Pairs, half_life_days: float | None) -> FloatArray:
    """Halve a choice's weight with every half-life between it and the newest ones; float32 (n_pairs,).

    One in a thousand may be newer: a wrong clock must not make all others old.

    Args:
        pairs: The choices.
        half_life_days: None: weights stay as they are.
    """
    times = np.sort(pairs.timestamp[~np.isnat(pairs.timestamp)])
    if half_life_days is None or not len(times):
        return pairs.weight
    newest = times[int(np.ceil(0.999 * (len(times) - 1)))]
    days = np.maximum((newest - pairs.timestamp) / _DAY, 0.0)
    decay = np.exp2(-np.nan_to_num(days) / half_life_days)  # what has no time is as good as new
    weights: FloatArray = (pairs.weight * decay).astype(np.float32)
    return weights
