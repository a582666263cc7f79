"""A bundle under live updates: what was built, and what changed since.

Every change gives a new snapshot, and what a search holds never changes under it. This is the one place where all that
is derived from items is made for a snapshot: the table, both channels of the first stage, passages and names for the
cross-encoder, columns for filters and the blend. A new thing that is derived from items gets its line in ``_snapshot``.

What an item's change does not touch is not made anew: a new price keeps the item's embedding, words and passage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from corpus.changed_columns import change_columns
from corpus.columns import ItemColumns
from corpus.items import Item
from corpus.live_items import LiveItems
from indexer.bundle import Bundle
from rerank.inputs import TokenArray
from rerank.live_passages import LivePassages, live_names
from rerank.reranker import Reranker
from retrieval.arrays import FloatArray
from retrieval.config import TEXT_FIELDS
from retrieval.event_log.behaviour import Behaviour
from retrieval.lexical.delta import LexicalDelta
from retrieval.live_retriever import Delta, LiveRetriever
from retrieval.passages import passage

SPARE_ROWS = 4_096  # places made at a time behind the tables of behaviour, so that few changes have to make some


@dataclass(frozen=True, kw_only=True)
class LiveBundle:
    """An immutable snapshot; ``of`` and ``with_changes`` make them, one thread at a time."""

    base: Bundle  # as built
    bundle: Bundle  # to be searched
    items: LiveItems
    columns: ItemColumns  # of the items, the gone rows included
    words: LexicalDelta
    vectors: Mapping[int, FloatArray]  # by row: embeddings of rows whose passage is not the base's
    tokens: Mapping[int, TokenArray]  # by row: the same for the cross-encoder's passages
    behaviour: Behaviour  # the base's, with places for new rows

    @classmethod
    def of(cls, base: Bundle) -> Self:
        """Begin with what was built."""
        return cls(
            base=base,
            bundle=base,
            items=LiveItems(base.items),
            columns=base.columns,
            words=LexicalDelta(base.retriever.lexical_index, base.items),
            vectors={},
            tokens={},
            behaviour=base.behaviour,
        )

    @property
    def n_changed(self) -> int:
        """Rows that are not as they were built."""
        return len(self.items.gone | self.items.changed.keys())

    def passages_to_embed(self, items: Mapping[str, Item]) -> dict[str, str]:
        """Return the passages, by item id, that have no embedding here: ``with_changes`` needs one of each."""
        fields = self.base.stage.item_fields
        texts = {item_id: passage(item, fields) for item_id, item in items.items()}
        return {item_id: text for item_id, text in texts.items() if not self._is_embedded(item_id, text)}

    def with_changes(
        self,
        upserts: Mapping[str, Item],
        deletions: Iterable[str],
        embeddings: Mapping[str, FloatArray],
    ) -> Self:
        """Return the snapshot after changes.

        Args:
            upserts: Items to put in place, by id, cleaned.
            deletions: Ids to remove, none of them upserted; unknown ones are passed over.
            embeddings: float32 (dim,) by item id, for ``passages_to_embed(upserts)``.
        """
        items = self.items.with_changes(upserts, deletions)
        changed = {row: item for item in upserts.values() if (row := items.any_row_of(item.item_id)) is not None}
        after = replace(
            self,
            items=items,
            columns=change_columns(self.columns, changed, n_items=items.n_rows),
            words=self._changed_words(changed),
            vectors=self._changed_vectors(changed, embeddings),
            tokens=self._changed_tokens(changed),
            behaviour=self._behaviour(items.n_rows),
        )
        return replace(after, bundle=after._snapshot(changed, self.bundle.reranker))

    def _snapshot(self, changed: Mapping[int, Item], before: Reranker | None) -> Bundle:
        """Make everything that is derived from items; ``changed`` are the rows that ``before`` does not know yet."""
        base, items = self.base, self.items
        rows = np.array(sorted(self.vectors), dtype=np.int64)
        vectors = [self.vectors[row] for row in rows.tolist()]
        delta = Delta(
            n_base=len(base.items),
            n_items=items.n_rows,
            gone=np.array(sorted(items.gone), dtype=np.int64),
            vector_rows=rows,
            vectors=np.stack(vectors) if vectors else np.empty((0, base.manifest.dim), dtype=np.float32),
            words=self.words,
        )
        reranker = base.reranker
        if reranker is not None and before is not None:
            blend = before.blend
            if blend is not None:
                extractor = blend.extractor.with_changes(items, self.columns, self.behaviour, changed)
                blend = blend.with_extractor(extractor)
            reranker = before.with_items(
                LivePassages(reranker.passage_tokens, self.tokens, items.n_rows),
                live_names(items, reranker.name_of),
                blend,
            )
        return replace(
            base,
            items=items,
            columns=self.columns,
            behaviour=self.behaviour,
            retriever=LiveRetriever(base.retriever, delta),
            reranker=reranker,
        )

    def _changed_vectors(
        self, changed: Mapping[int, Item], embeddings: Mapping[str, FloatArray]
    ) -> dict[int, FloatArray]:
        vectors = dict(self.vectors)
        for row, item in changed.items():
            if item.item_id in embeddings:
                vectors[row] = embeddings[item.item_id]
            elif self._base_passage(row) == passage(item, self.base.stage.item_fields):
                vectors.pop(row, None)
            elif row not in vectors:
                raise ValueError(f"expected an embedding for row {row}, whose passage changed")
        return vectors

    def _changed_tokens(self, changed: Mapping[int, Item]) -> dict[int, TokenArray]:
        reranker = self.base.reranker
        if reranker is None:
            return {}
        tokens = dict(self.tokens)
        fields, most = reranker.config.item_fields, reranker.config.max_item_tokens
        texts = {row: passage(item, fields) for row, item in changed.items()}
        for row, text in list(texts.items()):
            if row < len(self.base.items) and passage(self.base.items.item(row), fields) == text:
                tokens.pop(row, None)
                del texts[row]
        found = reranker.tokenizer.token_ids(list(texts.values()))
        return tokens | {row: ids[:most] for row, ids in zip(texts, found, strict=True)}

    def _changed_words(self, changed: Mapping[int, Item]) -> LexicalDelta:
        as_built = {
            row
            for row, item in changed.items()
            if row < len(self.base.items) and _words_of(self.base.items.item(row)) == _words_of(item)
        }
        fresh = {
            row: item
            for row, item in changed.items()
            if row not in as_built
            and (row not in self.words.rows or _words_of(self.items.changed[row]) != _words_of(item))
        }
        return self.words.with_items(fresh, without=as_built)

    def _behaviour(self, n_rows: int) -> Behaviour:
        if n_rows <= len(self.behaviour.popularity):
            return self.behaviour
        return self.base.behaviour.extended(n_rows + SPARE_ROWS)

    def _is_embedded(self, item_id: str, text: str) -> bool:
        row = self.items.any_row_of(item_id)
        if row is None:
            return False
        if self._base_passage(row) == text:
            return True
        return row in self.vectors and passage(self.items.item(row), self.base.stage.item_fields) == text

    def _base_passage(self, row: int) -> str | None:
        if row >= len(self.base.items):
            return None
        return passage(self.base.items.item(row), self.base.stage.item_fields)


def _words_of(item: Item) -> tuple[object, ...]:
    """Return all that lexical search reads of an item."""
    return tuple(getattr(item, name) for name in TEXT_FIELDS)
