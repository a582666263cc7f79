"""What items have that words can mean: the words of their titles, their category, brand and attribute values.

Each of these is a *trait* with a number, and every trait is of one *kind*: all title words are of one, categories and
brands of one each, and each attribute is a kind of its own. Traits are known by the hashes of their texts, so that an
item that changes while it is served finds its own without a dictionary of all texts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corpus.columns import ItemColumns, TextColumn, fold, fold_path
from corpus.errors import ArtefactError
from corpus.items import Item, ItemTable
from retrieval.arrays import FloatArray, IntArray, find_places
from retrieval.event_log.query_log import query_hash
from retrieval.lexical.text import segment_query
from retrieval.ragged import Ragged

TITLE, CATEGORY, BRAND, FIRST_ATTRIBUTE = 0, 1, 2, 3  # kinds
MAX_ATTRIBUTES = 16  # the most widely told ones; bounds memory and time in stores with hundreds
MAX_TITLE_WORDS = 32  # the first ones

HASHES_FILE = "trait_hashes.npy"
KINDS_FILE = "trait_kinds.npy"
USUAL_FILE = "trait_usual.npy"
OF_ITEMS = "traits"

_WORD = re.compile(r"\w+")
_JOINT = ">"  # fold_path sets the blanks

Hashes = npt.NDArray[np.uint64]
_Entries = tuple[npt.NDArray[np.int32], FloatArray]  # numbers of an item's traits, and what each counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """The traits of all items, laid out so that a few hundred items are compared at once; immutable."""

    hashes: Hashes  # (n_traits,) ascending: a trait's number is its place
    kinds: npt.NDArray[np.int32]  # (n_traits,)
    usual: FloatArray  # (n_traits,) its share of all choices of items whose trait of this kind is known; above 0
    of_items: Ragged  # by item: numbers of its traits, what each counts. Several values of one attribute count as one
    changed: Mapping[int, _Entries] = field(default_factory=dict)  # rows that are not as they were built

    @classmethod
    def build(cls, items: ItemTable, popularity: FloatArray) -> "Traits":
        """Collect the traits of a catalogue.

        Args:
            items: The catalogue.
            popularity: float32 (n_items,), weight of each item's choices; one is added to each.
        """
        columns = ItemColumns.of(items)
        parts = [_title_words(items)]
        by_size = sorted(columns.attributes.items(), key=lambda entry: (-len(entry[1].rows), entry[0]))
        told = [(CATEGORY, "", columns.category_leaf), (BRAND, "", columns.texts["brand"])]
        told += [(FIRST_ATTRIBUTE + n, name, column) for n, (name, column) in enumerate(by_size[:MAX_ATTRIBUTES])]
        parts += [_of_column(kind, name, column) for kind, name, column in told]
        rows, hashes, shares, kinds = (np.concatenate(column) for column in zip(*parts, strict=True))
        known, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
        order = np.argsort(rows, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(items)))])
        weight = np.bincount(numbers, weights=(popularity.astype(np.float64) + 1.0)[rows] * shares)
        kind_of = kinds[first]
        of_kind = np.bincount(kind_of, weights=weight, minlength=1)
        of_kind[TITLE] = popularity.sum(dtype=np.float64) + len(items)  # the words of a title do not share it
        return cls(
            hashes=known,
            kinds=kind_of,
            usual=(weight / of_kind[kind_of]).astype(np.float32),
            of_items=Ragged(offsets=offsets, rows=numbers.astype(np.int32)[order], values=shares[order]),
        )

    @property
    def n_kinds(self) -> int:
        """How many kinds there are, those without any trait included."""
        return max(int(self.kinds.max(initial=0)) + 1, FIRST_ATTRIBUTE)

    def with_changes(self, changed: Mapping[int, Item]) -> "Traits":
        """Return the traits after live updates; what no item had before them is no trait yet.

        Args:
            changed: The rows that are not known as they are now.
        """
        fresh = {row: self._of_item(item) for row, item in changed.items()}
        return replace(self, changed={**self.changed, **fresh})

    def extended(self, n_items: int) -> "Traits":
        """Return the same traits with places behind them, up to ``n_items``, for items that are not known yet."""
        return replace(self, of_items=self.of_items.extended(n_items))

    def entries(self, rows: IntArray) -> tuple[IntArray, npt.NDArray[np.int32], FloatArray]:
        """Return the traits of some rows: positions in ``rows`` ascending, numbers, and what each counts.

        Args:
            rows: int64 (n,), repetitions allowed.
        """
        if not self.changed:
            return self.of_items.entries(rows)
        changed = {place: self.changed[row] for place, row in enumerate(rows.tolist()) if row in self.changed}
        as_built = np.array([place for place in range(len(rows)) if place not in changed], dtype=np.int64)
        positions, numbers, shares = self.of_items.entries(rows[as_built])
        fresh = [np.full(len(of_row), place, dtype=np.int64) for place, (of_row, _) in changed.items()]
        position = np.concatenate([as_built[positions], *fresh])
        order = np.argsort(position, kind="stable")
        return (
            position[order],
            np.concatenate([numbers, *(of_row for of_row, _ in changed.values())])[order],
            np.concatenate([shares, *(of_row for _, of_row in changed.values())])[order],
        )

    def save(self, folder: Path) -> None:
        """Write all parts into a folder."""
        np.save(folder / HASHES_FILE, self.hashes, allow_pickle=False)
        np.save(folder / KINDS_FILE, self.kinds, allow_pickle=False)
        np.save(folder / USUAL_FILE, self.usual, allow_pickle=False)
        self.of_items.save(folder, OF_ITEMS)

    @classmethod
    def load(cls, folder: Path, *, n_items: int) -> "Traits":
        """Open what ``save`` wrote.

        Raises:
            ArtefactError: If a file is missing or broken, or they do not fit each other or so many items.
        """
        try:
            hashes, kinds, usual = (
                np.load(folder / name, allow_pickle=False) for name in (HASHES_FILE, KINDS_FILE, USUAL_FILE)
            )
        except (OSError, ValueError, EOFError) as exc:
            raise ArtefactError(f"expected traits of items in {folder}, got: {exc}; build the bundle again") from exc
        of_items = Ragged.load(folder, OF_ITEMS, n_items=len(hashes))
        fits = (
            (hashes.dtype, kinds.dtype, usual.dtype) == (np.uint64, np.int32, np.float32)
            and hashes.shape == kinds.shape == usual.shape == (len(hashes),)
            and len(of_items) == n_items
            and bool((hashes[1:] > hashes[:-1]).all())
            and 0 <= kinds.min(initial=0) <= kinds.max(initial=0) < FIRST_ATTRIBUTE + MAX_ATTRIBUTES
            and bool((usual > 0).all())
        )
        if not fits:
            raise ArtefactError(
                f"expected traits of {n_items:,} items in {folder} whose parts fit; build the bundle again"
            )
        return cls(hashes=hashes, kinds=kinds, usual=usual, of_items=of_items)

    def _of_item(self, item: Item) -> _Entries:
        told: list[tuple[int, str, Sequence[str]]] = [
            (TITLE, "", words(item.title)[:MAX_TITLE_WORDS]),
            (CATEGORY, "", [path] if (path := fold_path(_JOINT.join(item.category))) else []),
            (BRAND, "", [fold(item.brand)] if item.brand else []),
        ]
        values = {fold(name): sorted({fold(value) for value in values}) for name, values in item.attributes.items()}
        told += [(FIRST_ATTRIBUTE, name, keys) for name, keys in values.items()]
        hashes = [trait_hash(kind, name, key) for kind, name, keys in told for key in keys]
        shares = [1.0 if kind == TITLE else 1 / len(keys) for kind, _, keys in told for _ in keys]
        places, known = find_places(self.hashes, np.array(hashes, dtype=np.uint64))
        return places[known].astype(np.int32), np.array(shares, dtype=np.float32)[known]


def words(text: str) -> list[str]:
    """Return the distinct words of a text in their order, letter case set aside; Chinese and the like in pairs."""
    return list(dict.fromkeys(_WORD.findall(segment_query(text).casefold())))


def trait_hash(kind: int, name: str, key: str) -> int:
    """Return 64 bits of a trait's digest: of a million traits, two agree once in 37 million catalogues.

    Args:
        kind: ``TITLE``, ``CATEGORY`` or ``BRAND``; of an attribute, whichever it is, ``FIRST_ATTRIBUTE`` or above.
        name: The attribute's folded name; empty for the others.
        key: The folded value.
    """
    return query_hash(f"{min(kind, FIRST_ATTRIBUTE)}\0{name}\0{key}")


_Part = tuple[IntArray, Hashes, FloatArray, npt.NDArray[np.int32]]  # rows, hashes, shares, kinds; in parallel


def _title_words(items: ItemTable) -> _Part:
    hash_of: dict[str, int] = {}
    counts: list[int] = []

    def found() -> Iterator[int]:
        for title in items.column("title"):
            of_title = words(title)[:MAX_TITLE_WORDS]
            counts.append(len(of_title))
            for word in of_title:
                if (known := hash_of.get(word)) is None:
                    known = hash_of[word] = trait_hash(TITLE, "", word)
                yield known

    hashes = np.fromiter(found(), dtype=np.uint64)
    rows = np.repeat(np.arange(len(items)), counts)
    return rows, hashes, np.ones(len(rows), dtype=np.float32), np.full(len(rows), TITLE, dtype=np.int32)


def _of_column(kind: int, name: str, column: TextColumn) -> _Part:
    hashes = np.array([trait_hash(kind, name, key) for key in column.keys], dtype=np.uint64)
    n_of_row = np.bincount(column.rows, minlength=column.n_items)
    shares = (1.0 / n_of_row[column.rows]).astype(np.float32)
    kinds = np.full(len(column.rows), kind, dtype=np.int32)
    return column.rows.astype(np.int64), hashes[column.codes], shares, kinds
