"""Item ids, model numbers and barcodes, written in one form whatever stands between their parts.

Shoppers type ``WH-1000XM4`` as ``wh1000xm4`` and ``wh 1000 xm4``; words cut at spaces and hyphens match none of the
three with another. Here each becomes the one term ``wh1000xm4``, for items and queries alike.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

# letters and digits, with hyphens inside; not the halves of "1/2in" and "0.5l"
_PIECE = re.compile(r"(?<![A-Za-z0-9])(?<!\d[/.,])[A-Za-z0-9]++(?:[-_][A-Za-z0-9]++)*+(?![/.,]\d)")
_WORD = re.compile(r"[^\W_]+")
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"\d{6,}")
MAX_PIECES = 4  # UPC-A is printed as 1 + 5 + 5 + 1 digits
MAX_LETTERS = 3  # of a piece without a digit that is joined to others: "wh 1000" is a model number, "sony 1000" is none
MIN_CHARACTERS, MAX_CHARACTERS = 4, 32  # of a model number
MIN_DIGITS = 6  # of a number that is no year, size or price
BARCODE_LENGTHS = (8, 12, 13, 14)  # GTIN-8, GTIN-12 (UPC-A), GTIN-13 (EAN) and GTIN-14 of the GS1 specifications
WHOLE = "="  # marks an item id as a whole, which only a query as a whole can match


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifier:
    """What looks like an identifier in a text."""

    term: str  # as it is indexed
    start: int  # of the text's characters, the first that belongs to it
    end: int  # and the one behind the last
    n_words: int  # as words are cut elsewhere: 2 in "WH-1000XM4"


def item_terms(item_id: str, texts: Iterable[str]) -> list[str]:
    """Return the terms of an item: its id, the long numbers in its id, and what looks like an identifier in texts.

    Args:
        item_id: As the catalogue has it.
        texts: The title and the values of attributes.
    """
    terms = [identifier.term for identifier in _whole(item_id)]
    terms += map(_without_padding, _DIGITS.findall(item_id))
    for text in (item_id, *texts):
        terms += [identifier.term for identifier in _within(unicodedata.normalize("NFKC", text))]
    return list(dict.fromkeys(terms))


def query_identifiers(query: str) -> list[Identifier]:
    """Return what may be an identifier in a query: the query as a whole, and parts that look like one.

    A short number is an identifier only if nothing stands beside it: an item may well have the id 360.

    Args:
        query: In Unicode NFKC.
    Returns:
        Identifiers that may overlap, those of the most words first.
    """
    return sorted([*_whole(query), *_within(query)], key=lambda identifier: -identifier.n_words)


def _whole(text: str) -> Iterator[Identifier]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    if words:
        yield Identifier(term=f"{WHOLE}{''.join(words)}", start=0, end=len(text), n_words=len(words))


def _within(text: str) -> Iterator[Identifier]:
    if not _DIGIT.search(text):  # most titles: spares a build the work
        return
    for run in _runs(text):
        for first in range(len(run)):
            for last in range(first, min(first + MAX_PIECES, len(run))):
                words = [_WORD.findall(match[0].lower()) for match in run[first : last + 1]]
                pieces = ["".join(parts) for parts in words]
                if _is_identifier(pieces):
                    yield Identifier(
                        term=_without_padding("".join(pieces)),
                        start=run[first].start(),
                        end=run[last].end(),
                        n_words=sum(map(len, words)),
                    )


def _runs(text: str) -> Iterator[list[re.Match[str]]]:
    """Yield pieces that only spaces part."""
    matches = list(_PIECE.finditer(text))
    run = matches[:1]
    for before, match in pairwise(matches):
        if not text[before.end() : match.start()].isspace():
            yield run
            run = []
        run.append(match)
    yield run


def _is_identifier(pieces: Sequence[str]) -> bool:
    joined = "".join(pieces)
    if joined.isdigit():
        return len(joined) >= MIN_DIGITS if len(pieces) == 1 else len(joined) in BARCODE_LENGTHS
    if not MIN_CHARACTERS <= len(joined) <= MAX_CHARACTERS or joined.isalpha():
        return False
    return len(pieces) == 1 or all(len(piece) <= MAX_LETTERS for piece in pieces if piece.isalpha())


def _without_padding(term: str) -> str:
    """Drop the zeros that turn a UPC into an EAN."""
    return term.lstrip("0") or term if term.isdigit() else term
