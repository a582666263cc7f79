"""What shoppers ask for: a product type or a need, and the facets that their query states."""

from dataclasses import dataclass

import numpy as np

from corpus.synthetic.catalogue import BRAND, COLOUR, LEVEL, MATERIAL, OPTION, STYLE, Catalogue, FloatArray, IntArray
from corpus.synthetic.config import ChoiceConfig
from corpus.synthetic.vocabulary import Vocabulary

# what a fresh query names, with its share
KINDS = {
    "type": 0.44,  # "sofa"
    "colour": 0.08,  # "black sofa"
    "material": 0.07,  # "linen sofa"
    "option": 0.10,  # "recliner sofa"
    "style": 0.08,  # "farmhouse sofa"
    "level": 0.04,  # "cheap sofa"
    "brand": 0.09,  # "fennwyke sofa"
    "need": 0.07,  # "living room furniture"
    "brand alone": 0.03,  # "fennwyke"
}
_NAMES = list(KINDS)
_FACET_OF_KIND = np.array([-1, COLOUR, MATERIAL, OPTION, STYLE, LEVEL, BRAND, -1, BRAND])
_SECOND_FACET_SHARE = 0.1  # of the queries that name a type and a facet: one more facet
_REFINE_SHARE = 0.4  # of the searches after an unsuccessful one in the same session


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """What a query's noun can be: a product type, a need, or nothing."""

    fit: FloatArray  # (n_types + n_needs + 1, n_types), utility of each type for the noun, 0 at best
    need_of_type: IntArray  # (n_types,), a need that the type answers, -1 if there is none

    @property
    def n_types(self) -> int:
        """Number of product types; they are the first groups, the needs follow, the last is no noun at all."""
        return len(self.need_of_type)

    @property
    def any_type(self) -> int:
        """The group of queries without a noun."""
        return len(self.fit) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Intents:
    """What some searches are after; all of length n."""

    target: IntArray  # row of the item that the shopper had in mind: the query states facets of it
    group: IntArray
    stated: IntArray  # (n, 6), facet codes, -1 where the query states none


def build_groups(vocabulary: Vocabulary, choice: ChoiceConfig) -> Groups:
    """Build the table of nouns."""
    names = vocabulary.type_names
    products = list(vocabulary.types.values())
    members = np.zeros((len(names) + len(vocabulary.needs) + 1, len(names)), dtype=bool)
    members[: len(names)] = np.eye(len(names), dtype=bool)
    need_of_type = np.full(len(names), -1)
    for number, need in enumerate(vocabulary.needs):
        codes = [names.index(name) for name in need.types]
        members[len(names) + number, codes] = True
        for code in codes:
            if need_of_type[code] < 0:
                need_of_type[code] = number
    members[-1] = True

    aisles = np.array([f"{product.department}/{product.aisle}" for product in products])
    neighbours = members @ (aisles[:, None] == aisles)  # shares an aisle with a member
    fit = np.where(members, 0.0, np.where(neighbours, -choice.same_aisle, -choice.off_target))
    return Groups(fit=fit.astype(np.float32), need_of_type=need_of_type)


def complements(vocabulary: Vocabulary) -> FloatArray:
    """Return float32 (n_types, n_types): 1 where the second type goes with the first."""
    names = vocabulary.type_names
    table = np.zeros((len(names), len(names)), dtype=np.float32)
    for code, product in enumerate(vocabulary.types.values()):
        table[code, [names.index(name) for name in product.goes_with]] = 1.0
    return table


def draw_demand(n_types: int, rng: np.random.Generator) -> FloatArray:
    """Draw how often each type is wanted, as log weights: Zipf with exponent 0.9 over a random order."""
    return np.asarray(-0.9 * np.log(1.0 + rng.permutation(n_types)), dtype=np.float32)


def draw_types(weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """Draw one product type per row of log weights (n, n_types)."""
    return np.asarray(np.argmax(weights + rng.gumbel(size=weights.shape), axis=1))


def draw_targets(types: IntArray, appeal: FloatArray, catalogue: Catalogue, rng: np.random.Generator) -> IntArray:
    """Draw the item that each shopper has in mind, among the items of a type.

    Args:
        types: int64 (n,), the wanted type.
        appeal: float32 (n, n_items), utility to that shopper.
        catalogue: The store's items, sorted by type.
        rng: Source of noise.
    """
    counts = np.bincount(catalogue.types)
    first = np.cumsum(counts) - counts
    step = np.arange(counts.max())
    rows = np.minimum(first[types, None] + step, len(catalogue) - 1)  # (n, largest type)
    noisy = np.take_along_axis(appeal, rows, axis=1) + rng.gumbel(size=rows.shape)
    noisy[step >= counts[types, None]] = -np.inf
    return np.asarray(first[types] + np.argmax(noisy, axis=1))


def fresh_intents(targets: IntArray, catalogue: Catalogue, groups: Groups, rng: np.random.Generator) -> Intents:
    """Draw what first queries for the targets say."""
    n = len(targets)
    kind = rng.choice(len(_NAMES), n, p=np.array(list(KINDS.values())))
    types = catalogue.types[targets]
    need = groups.need_of_type[types]
    group = np.where((kind == _NAMES.index("need")) & (need >= 0), groups.n_types + need, types)
    group[kind == _NAMES.index("brand alone")] = groups.any_type

    stated = np.full((n, 6), -1)
    _state(stated, np.arange(n), _FACET_OF_KIND[kind], targets, catalogue)
    with_facet = (_FACET_OF_KIND[kind] >= 0) & (group < groups.n_types)
    second = np.flatnonzero(with_facet & (rng.random(n) < _SECOND_FACET_SHARE))
    _state(stated, second, rng.integers(0, 6, len(second)), targets[second], catalogue)
    return Intents(target=targets, group=group, stated=stated)


def refine(last: Intents, rows: IntArray, catalogue: Catalogue, rng: np.random.Generator) -> Intents:
    """Return earlier intents with one more facet stated, in the words of a type: what a second try says."""
    target = last.target[rows]
    stated = last.stated[rows].copy()
    _state(stated, np.arange(len(rows)), rng.integers(0, 6, len(rows)), target, catalogue)
    return Intents(target=target, group=catalogue.types[target], stated=stated)


def wants_refinement(unsuccessful: IntArray, rng: np.random.Generator) -> IntArray:
    """Return which of the rows, whose last search of the session bought nothing, try the same again."""
    return unsuccessful[rng.random(len(unsuccessful)) < _REFINE_SHARE]


def _state(stated: IntArray, rows: IntArray, facet: IntArray, targets: IntArray, catalogue: Catalogue) -> None:
    """Let queries state a facet of their targets; facet -1 states nothing."""
    says = np.flatnonzero(facet >= 0)
    stated[rows[says], facet[says]] = catalogue.codes[targets[says], facet[says]]
