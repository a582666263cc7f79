"""Preparing text for tantivy, whose tokenisers know only words between spaces and punctuation.

Chinese, Japanese and Korean write no space between the words of a title, and no dictionary knows a store's products.
Runs of their characters are therefore cut into overlapping pairs, which need no dictionary and find any part of a
title; items also keep the single characters, so that a query of one character finds what holds it.
Source: Lucene's CJKAnalyzer; Nie, Gao, Zhang & Zhou 2000, On the Use of Words and N-grams for Chinese Information
Retrieval (pairs and single characters together).
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from corpus.items import ItemTable
from retrieval.config import TEXT_FIELDS, LexicalConfig
from retrieval.lexical.identifiers import item_terms

ITEMS_AT_ONCE = 20_000  # unpacked

# ideographs and their iteration marks, kana with its length and iteration marks, Hangul syllables
_CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_RUN = re.compile(f"[{_CJK}]+")


def segment_item(text: str) -> str:
    """Return an item's text with its Chinese, Japanese and Korean runs as pairs and as single characters."""
    return _segment(text, lambda run: [*_pairs(run), *(run if len(run) > 1 else ())])


def segment_query(text: str) -> str:
    """Return a query with its Chinese, Japanese and Korean runs as pairs; a run of one character stays."""
    return _segment(text, _pairs)


def without_runs(text: str) -> str:
    """Return text with blanks in place of its Chinese, Japanese and Korean runs: they have no spelling to mend.

    Args:
        text: Any; one in Unicode NFKC keeps the place of every character.
    """
    if text.isascii():
        return text
    return _CJK_RUN.sub(lambda match: " " * len(match[0]), unicodedata.normalize("NFKC", text))


def _segment(text: str, cut: Callable[[str], list[str]]) -> str:
    if text.isascii():
        return text
    # half-width kana and decomposed accents become the characters that the rules know
    return _CJK_RUN.sub(lambda match: f" {' '.join(cut(match[0]))} ", unicodedata.normalize("NFKC", text))


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTexts:
    """What an item is indexed as."""

    words: dict[str, str]  # field -> text, fields without any left out
    spelling: str
    identifiers: tuple[str, ...]


def item_texts(items: ItemTable, config: LexicalConfig) -> Iterator[ItemTexts]:
    """Yield what each item is indexed as, in row order."""
    for item_id, *values in _cells(items):
        fields = dict(zip(TEXT_FIELDS, values, strict=True))
        written = {name: _words(name, value) for name, value in fields.items() if value}
        attributes = (text for pair in fields["attributes"] or () for text in pair["values"] or ())
        yield ItemTexts(
            words={name: segment_item(text) for name, text in written.items()},
            # a word that finds nothing mends nothing
            spelling="\n".join(without_runs(text) for name, text in written.items() if getattr(config, name) > 0),
            identifiers=tuple(item_terms(item_id, (fields["title"], *attributes))),
        )


def _cells(items: ItemTable) -> Iterator[tuple[Any, ...]]:
    """Yield each item's id and text fields; only some items are Python objects at a time."""
    for start in range(0, len(items), ITEMS_AT_ONCE):
        part = items.take(range(start, min(start + ITEMS_AT_ONCE, len(items))))
        yield from zip(part.ids, *(part.column(name) for name in TEXT_FIELDS), strict=True)


def _words(name: str, value: Any) -> str:  # noqa: ANN401 - a cell of any column
    if name == "category":
        return " ".join(value)
    if name == "attributes":
        return " ".join(f"{pair['name']} {' '.join(pair['values'] or ())}" for pair in value)
    return str(value)
