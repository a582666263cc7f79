"""The life of the store: searches in turn, each shopper's choices shaping what the next ones are worth to them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.synthetic.catalogue import BRAND, STYLE, Catalogue, FloatArray, IntArray
from corpus.synthetic.choice import (
    Behaviour,
    Floats,
    behave,
    expected_gains,
    mean_taste,
    purchase_probabilities,
    relevance,
    taste,
)
from corpus.synthetic.config import SyntheticConfig
from corpus.synthetic.intents import (
    Intents,
    build_groups,
    complements,
    draw_demand,
    draw_targets,
    draw_types,
    fresh_intents,
    refine,
    wants_refinement,
)
from corpus.synthetic.shoppers import Shoppers, Timetable
from corpus.synthetic.vocabulary import Vocabulary

_CHUNK = 512  # searches worked on at a time: (chunk, n_items) matrices stay small
_RANKER_NOISE = 1.0  # the store's own search is no oracle
_RANKER_POPULARITY = 0.6
_RANKER_RELEVANCE = 0.7  # share of the relevance that it understands
_COMPLEMENT_MEMORY = 0.6  # of the pull of a purchase, left after the next purchase
_COMPLEMENT_DEMAND = 1.2  # log weight of complementary types in what is searched next
_LEARNT = 0.5  # affinity after n purchases: 1 - _LEARNT ** n


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Best items of some searches."""

    items: IntArray  # (n, depth), rows of the catalogue, best first
    probability: Floats  # (n, depth), purchase probability of each to this shopper
    gain: Floats  # (n, depth), expected grade of each to this shopper


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Everything that happened; rows are the timetable's searches."""

    intents: Intents
    shown: IntArray  # (n_searches, n_shown), rows of the catalogue by position
    behaviour: Behaviour  # (n_searches, n_shown) each
    judged: IntArray  # (n_judged,), the searches that have rankings, in order
    oracle: Ranking  # by the shopper's own utility
    anonymous: Ranking  # by the utility to assume for a shopper of whom nothing is known


class Memory:
    """What each shopper bought, as far as it changes what they want."""

    def __init__(self, n_shoppers: int, vocabulary: Vocabulary, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._goes_with = complements(vocabulary)
        self._brand = np.zeros((n_shoppers, len(vocabulary.brands)), dtype=np.float32)
        self._style = np.zeros((n_shoppers, len(vocabulary.styles.values)), dtype=np.float32)
        self._items = np.zeros((n_shoppers, len(catalogue)), dtype=bool)
        self.complement = np.zeros((n_shoppers, len(vocabulary.types)), dtype=np.float32)  # 0 to 1

    def remember(self, shoppers: IntArray, items: IntArray) -> None:
        """Note one purchase of each of some distinct shoppers."""
        codes = self._catalogue.codes[items]
        self._brand[shoppers, codes[:, BRAND]] += 1
        self._style[shoppers, codes[:, STYLE]] += 1
        self._items[shoppers, items] = True
        pull = _COMPLEMENT_MEMORY * self.complement[shoppers]
        self.complement[shoppers] = np.maximum(pull, self._goes_with[self._catalogue.types[items]])

    def affinity(self, shoppers: IntArray, config: SyntheticConfig) -> FloatArray:
        """Return the utility that earlier purchases add to every item, float32 (n, n_items)."""
        choice, codes = config.choice, self._catalogue.codes
        utility = np.float32(choice.bought_brand) * (1 - _LEARNT ** self._brand[shoppers])[:, codes[:, BRAND]]
        utility += np.float32(choice.bought_style) * (1 - _LEARNT ** self._style[shoppers])[:, codes[:, STYLE]]
        utility += np.float32(choice.complement) * self.complement[shoppers][:, self._catalogue.types]
        utility -= np.float32(choice.bought_item) * self._items[shoppers]
        return utility


class Simulation:
    """One run through the timetable, all shoppers' first searches first, then all second ones, and so on.

    Shoppers do not influence each other, so this order gives the same log as the order of time, and lets numpy work
    on many searches at once.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        vocabulary: Vocabulary,
        catalogue: Catalogue,
        shoppers: Shoppers,
        timetable: Timetable,
        rng: np.random.Generator,
    ) -> None:
        self._config, self._catalogue, self._shoppers, self._times, self._rng = (
            config,
            catalogue,
            shoppers,
            timetable,
            rng,
        )
        self._groups = build_groups(vocabulary, config.choice)
        self._demand = draw_demand(len(vocabulary.types), rng)
        self._memory = Memory(len(shoppers), vocabulary, catalogue)
        activity = np.bincount(timetable.shopper, minlength=len(shoppers)).astype(np.float64)
        self._stranger = mean_taste(shoppers, activity, catalogue)
        self._popularity = np.float32(config.choice.popularity) * catalogue.popularity

        n, n_shown = len(timetable.shopper), config.results_per_search
        self._target, self._group = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self._stated = np.full((n, 6), -1)
        self._shown = np.zeros((n, n_shown), dtype=np.int64)
        self._clicked, self._carted, self._bought = (np.zeros((n, n_shown), dtype=bool) for _ in range(3))
        self._last = np.full(len(shoppers), -1)  # each shopper's search before
        judged_from = (1 - config.oracle_share) * config.days * 86_400e6
        self._judged = np.flatnonzero(timetable.at_us >= judged_from)
        n_judged, depth = len(self._judged), config.oracle_depth
        self._rankings = {
            name: (
                np.zeros((n_judged, depth), dtype=np.int64),
                np.zeros((n_judged, depth)),
                np.zeros((n_judged, depth)),
            )
            for name in ("oracle", "anonymous")
        }

    def run(self) -> Life:
        """Live through the timetable."""
        turns = self._times.turn
        by_turn = np.argsort(turns, kind="stable")
        for searches in np.split(by_turn, np.cumsum(np.bincount(turns))[:-1]):
            for begin in range(0, len(searches), _CHUNK):
                self._live(searches[begin : begin + _CHUNK])
        return Life(
            intents=self._intents,
            shown=self._shown,
            behaviour=Behaviour(clicked=self._clicked, carted=self._carted, bought=self._bought),
            judged=self._judged,
            oracle=self._ranking("oracle"),
            anonymous=self._ranking("anonymous"),
        )

    @property
    def _intents(self) -> Intents:
        return Intents(target=self._target, group=self._group, stated=self._stated)

    def _ranking(self, name: str) -> Ranking:
        items, probability, gain = self._rankings[name]
        return Ranking(items=items, probability=probability, gain=gain)

    def _live(self, searches: IntArray) -> None:
        """Let some shoppers, each at most once, search and choose."""
        config, who = self._config, self._times.shopper[searches]
        own = taste(self._shoppers, who, self._catalogue) + self._memory.affinity(who, config) + self._popularity
        self._ask(searches, own)
        fit = relevance(self._groups.fit[self._group[searches]], self._stated[searches], self._catalogue, config.choice)
        self._shown[searches] = shown = self._store_ranking(fit)

        utility = (fit + own).astype(np.float64)
        rows = np.arange(len(searches))[:, None]
        looks = self._rng.random(shown.shape) < np.arange(1, shown.shape[1] + 1) ** -config.choice.position_bias
        behaviour = behave(utility[rows, shown], looks, config.choice, self._rng)
        self._clicked[searches] = behaviour.clicked
        self._carted[searches] = behaviour.carted
        self._bought[searches] = behaviour.bought

        self._judge(searches, utility, fit)
        buys, position = np.nonzero(behaviour.bought)
        self._memory.remember(who[buys], shown[buys, position])
        self._last[who] = searches

    def _ask(self, searches: IntArray, own: FloatArray) -> None:
        """Draw what the searches are after: the same as before in other words, or something new."""
        who = self._times.shopper[searches]
        before = self._last[who]
        unsuccessful = ~self._times.opens_session[searches] & ~self._bought[before].any(axis=1)
        again = wants_refinement(np.flatnonzero(unsuccessful), self._rng)

        department = self._catalogue.department_of_type
        weights = self._demand + self._shoppers.department[who][:, department]
        weights += np.float32(_COMPLEMENT_DEMAND) * self._memory.complement[who]
        targets = draw_targets(draw_types(weights, self._rng), own, self._catalogue, self._rng)
        fresh = fresh_intents(targets, self._catalogue, self._groups, self._rng)
        second = refine(self._intents, before[again], self._catalogue, self._rng)
        for mine, new, refined in (
            (self._target, fresh.target, second.target),
            (self._group, fresh.group, second.group),
            (self._stated, fresh.stated, second.stated),
        ):
            mine[searches] = new
            mine[searches[again]] = refined

    def _store_ranking(self, fit: FloatArray) -> IntArray:
        """Return what the store's own search shows: relevance as it understands it, popularity and noise; no taste."""
        noise = self._rng.standard_normal(fit.shape, dtype=np.float32)
        score = _RANKER_RELEVANCE * fit + _RANKER_POPULARITY * self._catalogue.popularity + _RANKER_NOISE * noise
        score[:, ~self._catalogue.in_stock] = -np.inf
        return _best(score, self._config.results_per_search)

    def _judge(self, searches: IntArray, utility: Floats, fit: FloatArray) -> None:
        """Rank the whole catalogue for those searches that evaluation may ask about."""
        place = np.searchsorted(self._judged, searches)
        place = np.minimum(place, len(self._judged) - 1)
        rows = np.flatnonzero(self._judged[place] == searches) if len(self._judged) else np.array([], dtype=np.int64)
        if not len(rows):
            return
        mine, choice = place[rows], self._config.choice
        known = np.where(self._catalogue.in_stock, utility[rows], -np.inf)
        guessed = np.where(self._catalogue.in_stock, fit[rows] + self._stranger + self._popularity, -np.inf)
        probability, gain = purchase_probabilities(known, choice), expected_gains(known, choice)
        for name, score in (("oracle", known), ("anonymous", guessed)):
            best = _best(score, self._config.oracle_depth)
            items, probabilities, gains = self._rankings[name]
            items[mine] = best
            probabilities[mine] = np.take_along_axis(probability, best, axis=1)
            gains[mine] = np.take_along_axis(gain, best, axis=1)


def _best(score: npt.NDArray[np.floating], depth: int) -> IntArray:
    """Return the columns of the ``depth`` largest scores of each row, best first; ties in order of the column."""
    candidates = np.sort(np.argpartition(-score, depth - 1, axis=1)[:, :depth], axis=1)
    order = np.argsort(-np.take_along_axis(score, candidates, axis=1), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1)
