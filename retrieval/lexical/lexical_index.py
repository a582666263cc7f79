"""BM25 over the catalogue's text, by tantivy. The only module that imports tantivy."""

import math
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tantivy
from pydantic import Field, ValidationError

from corpus.config import Section
from corpus.errors import ArtefactError, ConfigError
from corpus.items import ItemTable
from corpus.progress import track
from retrieval.arrays import FloatArray, IntArray, check_depth
from retrieval.config import TEXT_FIELDS, LexicalConfig
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.identifiers import Identifier, query_identifiers
from retrieval.lexical.spelling import Speller, Word
from retrieval.lexical.text import item_texts, segment_query, without_runs

SETTINGS_FILE = "lexical.json"
FORMAT_VERSION = 3
ANALYSER = "tandem"
LOCKS = ".tantivy-*.lock"
ROW = "row"
IDENTIFIER = "identifier"
SPELLING = "spelling"  # words as they are spelt, in no field of their own
SPELLING_ANALYSER = "tandem-spelling"
MAX_WORD_CHARACTERS = 64  # what is longer is no word
MAX_QUERY_TERMS = 64  # distinct ones; bounds the time of a pasted page
FEW_ROWS = 10_000  # looking so many up costs less than reading the lists that hold them
WRITER_HEAP_BYTES = 256 * 1024 * 1024


class LexicalSettings(Section):
    """The content of ``lexical.json``."""

    format_version: int = FORMAT_VERSION
    n_items: int = Field(ge=0)
    config: LexicalConfig


class Vocabulary(Protocol):
    """Words and identifiers of items that an index does not hold yet."""

    def knows(self, word: str) -> bool:
        """Tell whether a word, lowered and without accents, finds any of them."""
        ...

    def n_with(self, identifier: str) -> int:
        """Return how many of them have an identifier."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemWords:
    """What an item is found by."""

    terms: dict[str, list[str]]  # field -> its words as the index has them, repetitions kept
    spelling: frozenset[str]  # words as they are spelt
    identifiers: tuple[str, ...]


class LexicalIndex:
    """BM25 search over the catalogue's texts, and exact search for identifiers. Safe to call from several threads.

    A query is a plain disjunction of its words: no character of it is syntax. Words are cut at everything that is
    neither letter nor digit, lowered, freed of accents and stemmed, and runs of Chinese, Japanese and Korean characters
    into pairs (``retrieval.lexical.text``); items and queries alike.
    """

    def __init__(self, index: Any, settings: LexicalSettings) -> None:  # noqa: ANN401 - tantivy.Index
        """Wrap a committed tantivy index; ``build`` and ``open`` are the ways in."""
        self.settings = settings
        self._analyser = _analyser(settings.config.language)
        index.register_tokenizer(ANALYSER, self._analyser)
        self._schema = index.schema
        self._searcher = index.searcher()
        boosts = {name: float(getattr(settings.config, name)) for name in TEXT_FIELDS}
        self._boosts = {name: boost for name, boost in boosts.items() if boost > 0}
        self._spelling_analyser = _analyser("none")
        index.register_tokenizer(SPELLING_ANALYSER, self._spelling_analyser)
        counts = dict(self._searcher.terms_with_prefix(SPELLING, ""))
        self._stems = frozenset(self._analyser.analyze(" ".join(counts)))
        self._speller = Speller(counts, self._has_stem, self._n_together)

    @classmethod
    def build(
        cls,
        items: ItemTable,
        config: LexicalConfig,
        folder: Path | None = None,
    ) -> "LexicalIndex":
        """Index a catalogue.

        Args:
            items: The catalogue; every text field is indexed, so that boosts can change without a rebuild.
            config: Boosts of the fields, and the language.
            folder: Where to write, made if missing, without an index so far; None keeps the index in memory.
        Raises:
            ConfigError: If there is no stemmer for the language.
            ArtefactError: If the folder cannot be written.
        """
        settings = LexicalSettings(n_items=len(items), config=config)
        analyser = _analyser(config.language)
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            index = tantivy.Index(_schema(), path=None if folder is None else str(folder), reuse=False)
            index.register_tokenizer(ANALYSER, analyser)
            index.register_tokenizer(SPELLING_ANALYSER, _analyser("none"))
            # one thread and one segment: documents keep the order of rows, and a rebuild gives the same index
            writer = index.writer(heap_size=WRITER_HEAP_BYTES, num_threads=1)
            for document in track(_documents(items, config), description="indexing words", total=len(items)):
                writer.add_document(document)
            writer.commit()
            writer.wait_merging_threads()
            index.config_reader("manual")  # the default polls the folder for commits, in a thread of its own
            index.reload()
            if folder is not None:
                (folder / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
                _tidy(folder)
        except (OSError, ValueError) as exc:
            raise ArtefactError(f"expected to write a lexical index to {folder}, got: {exc}; check the folder") from exc
        return cls(index, settings)

    @classmethod
    def open(cls, folder: Path) -> "LexicalIndex":
        """Open an index written by ``build``; the folder may be read-only.

        Raises:
            ArtefactError: If the folder holds no such index.
        """
        try:
            settings = LexicalSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes())
            if settings.format_version != FORMAT_VERSION:
                raise ArtefactError(
                    f"expected lexical format {FORMAT_VERSION} in {folder}, got {settings.format_version}; "
                    "build the bundle again"
                )
            index = cls(_open(folder), settings)
        except (OSError, ValueError, ValidationError) as exc:
            raise ArtefactError(f"expected a lexical index in {folder}, got: {exc}; build the bundle again") from exc
        if len(index) != settings.n_items:
            raise ArtefactError(
                f"expected {settings.n_items} items in {folder}, found {len(index)}; build the bundle again"
            )
        return index

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(
        self, query: str, k: int, *, spelling: bool = True, allowed: RowSet | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Find the items that share words or identifiers with a text.

        Args:
            query: Any text; one without a word of the catalogue finds nothing.
            k: Most items.
            spelling: Search for ``correct(query)``, where that differs; False searches for what was typed.
            allowed: Rows to search among; None: all.
        Returns:
            Rows int64 (n,) and scores float32 above 0 (BM25 plus identifiers), best first; equal ones in row order.
        Raises:
            InputError: If k is below 1.
            ArtefactError: If the index fails.
        """
        check_depth(k)
        k = min(k, len(self) if allowed is None else len(allowed))
        query = unicodedata.normalize("NFKC", query)
        try:
            query = (self._corrected(query) if spelling else None) or query
            clauses = [*self._words(query), *self._identifiers(query)]
            if not clauses or not k:
                return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
            words = tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])
            rows, scores = self._hits(words, k) if allowed is None else self._hits_among(words, k, allowed)
        except ValueError as exc:
            raise ArtefactError(f"the lexical index failed: {exc}; build the bundle again") from exc
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _hits(self, query: Any, k: int) -> tuple[IntArray, FloatArray]:  # noqa: ANN401 - tantivy.Query
        """Return the k best rows of a query and their scores."""
        hits = self._searcher.search(query, limit=k, count=False).hits
        rows = np.array(self._searcher.fast_field_values(ROW, [address for _, address in hits]), dtype=np.int64)
        return rows, np.array([score for score, _ in hits], dtype=np.float32)

    def _hits_among(self, words: Any, k: int, allowed: RowSet) -> tuple[IntArray, FloatArray]:  # noqa: ANN401
        """Return the k best of some rows: few are asked for, from among many the others are dropped."""
        if len(allowed) <= FEW_ROWS:
            rows_query = tantivy.Query.term_set_query(self._schema, ROW, allowed.rows.tolist())
            without_score = tantivy.Query.boost_query(tantivy.Query.const_score_query(rows_query, 0.0), 0.0)
            return self._hits(
                tantivy.Query.boolean_query([(tantivy.Occur.Must, words), (tantivy.Occur.Must, without_score)]), k
            )
        limit = min(len(self), math.ceil(1.5 * k * len(self) / len(allowed)) + 10)
        while True:
            rows, scores = self._hits(words, limit)
            kept = np.flatnonzero(allowed.mask[rows])
            if len(kept) >= k or len(rows) < limit or limit == len(self):
                return rows[kept[:k]], scores[kept[:k]]
            limit = min(len(self), 4 * limit)

    def analyse(self, items: ItemTable) -> list[ItemWords]:
        """Return what items would be found by, were they in this index."""
        return [
            ItemWords(
                terms={name: self._analyser.analyze(text) for name, text in texts.words.items()},
                spelling=frozenset(self._spelling_analyser.analyze(texts.spelling)),
                identifiers=texts.identifiers,
            )
            for texts in item_texts(items, self.settings.config)
        ]

    def query_terms(self, query: str) -> list[tuple[str, int]]:
        """Return a query's words as the index has them, and how often each is typed; the rest of a long one is cut."""
        return Counter(self._analyser.analyze(segment_query(query))).most_common(MAX_QUERY_TERMS)

    @property
    def boosts(self) -> dict[str, float]:
        """What a word in each field counts; fields without weight are left out."""
        return self._boosts

    def n_with(self, field: str, term: str) -> int:
        """Return how many items have a term in a field."""
        return int(self._searcher.doc_freq(field, term))

    def correct(self, query: str, *, beside: Vocabulary | None = None) -> str | None:
        """Mend the words of a query that the catalogue lacks; see ``retrieval.lexical.spelling``.

        Identifiers that items have stay as they are.

        Args:
            query: Any text.
            beside: What else is known, and therefore no mistake.
        Returns:
            The query in Unicode NFKC with the mended words in lower case and without accents; None if there is
            nothing to mend, or nothing is known that would mend it.
        Raises:
            ArtefactError: If the index fails.
        """
        try:
            return self._corrected(unicodedata.normalize("NFKC", query), beside)
        except ValueError as exc:
            raise ArtefactError(f"the lexical index failed: {exc}; build the bundle again") from exc

    def _corrected(self, query: str, beside: Vocabulary | None = None) -> str | None:
        tokens = self._spelling_analyser.pre_tokenize(without_runs(query)).tokens
        words = [Word(text=token.text, start=token.char_offset_from, end=token.char_offset_to) for token in tokens]
        if self._speller.is_clean(words):
            return None
        if beside is not None:
            words = [replace(word, fixed=beside.knows(word.text)) for word in words]
        identifiers = [identifier for identifier, _ in self.known_identifiers(query, beside=beside)]
        words = [
            replace(
                word,
                fixed=word.fixed or any(known.start <= word.start and word.end <= known.end for known in identifiers),
            )
            for word in words
        ]
        corrected, end = "", 0
        for change in self._speller.changes(query, words):
            corrected += query[end : change.start] + change.text
            end = change.end
        return corrected + query[end:] if corrected else None

    def _has_stem(self, word: str) -> bool:
        return not self._stems.isdisjoint(self._analyser.analyze(word))

    def _n_together(self, words: Sequence[str]) -> int:
        """Return how many items hold all the words."""
        of_words = [tantivy.Query.term_query(self._schema, SPELLING, word, index_option="basic") for word in words]
        both = tantivy.Query.boolean_query([(tantivy.Occur.Must, of_word) for of_word in of_words])
        return int(self._searcher.search(both, limit=1, count=True).count)

    def _words(self, query: str) -> Iterator[Any]:
        """Yield boost x BM25 for each word and field; a word that is typed twice counts twice."""
        for term, count in self.query_terms(query):
            for name, boost in self._boosts.items():
                of_term = tantivy.Query.term_query(self._schema, name, term, index_option="freq")
                yield tantivy.Query.boost_query(of_term, boost * count)

    def _identifiers(self, query: str) -> Iterator[Any]:
        """Yield boost x idf x words for each identifier: how often or beside what it stands in an item says nothing."""
        boost = self.settings.config.identifier
        for identifier, n in self.known_identifiers(query) if boost > 0 else ():
            of_term = tantivy.Query.term_query(self._schema, IDENTIFIER, identifier.term, index_option="basic")
            # it stands for so many words, of which another item may have all but one
            yield tantivy.Query.const_score_query(of_term, boost * self.idf(n) * identifier.n_words)

    def idf(self, n: int) -> float:
        """Return BM25's inverse document frequency of what n items have.

        Source: Robertson & Zaragoza 2009, eq. 3.3, plus 1 inside the logarithm as Lucene and tantivy have it.
        """
        return math.log1p((len(self) - n + 0.5) / (n + 0.5))

    def known_identifiers(self, query: str, *, beside: Vocabulary | None = None) -> list[tuple[Identifier, int]]:
        """Return the identifiers of a query that items have, and how many: the longest first, without overlap.

        Args:
            query: In Unicode NFKC.
            beside: Where identifiers are looked up that no item of the index has.
        """
        known: list[tuple[Identifier, int]] = []
        for identifier in query_identifiers(query)[:MAX_QUERY_TERMS]:
            free = all(identifier.end <= other.start or other.end <= identifier.start for other, _ in known)
            n = self.n_with(IDENTIFIER, identifier.term) if free else 0
            if free and not n and beside is not None:
                n = beside.n_with(identifier.term)
            if n:
                known.append((identifier, n))
        return known


def _tidy(folder: Path) -> None:
    """Remove tantivy's locks, and lift the files that it keeps to their owner to the mode of all the others."""
    for lock in folder.glob(LOCKS):
        lock.unlink()
    mode = (folder / SETTINGS_FILE).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)


def _open(folder: Path) -> Any:  # noqa: ANN401 - tantivy.Index
    """Open through links: tantivy writes a lock beside the files it reads, and a bundle is not to be written to."""
    # tantivy may still be putting a lock there when the links go
    with tempfile.TemporaryDirectory(prefix="tandem-", ignore_cleanup_errors=True) as links:
        for path in folder.resolve().iterdir():
            (Path(links) / path.name).symlink_to(path)
        index = tantivy.Index.open(links)
        index.config_reader("manual")
        # opens and maps every file, so that the links may go
        index.reload()
        return index


def _analyser(language: str) -> Any:  # noqa: ANN401 - tantivy.TextAnalyzer
    builder = (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(MAX_WORD_CHARACTERS))
        .filter(tantivy.Filter.lowercase())
        # before the stemmer: shoppers leave accents out, and both spellings must end up alike
        .filter(tantivy.Filter.ascii_fold())
    )
    if language == "none":
        return builder.build()
    try:
        return builder.filter(tantivy.Filter.stemmer(language)).build()
    except ValueError as exc:
        raise ConfigError(f"expected a language with a Snowball stemmer, got {language!r}: {exc}") from exc


def _schema() -> Any:  # noqa: ANN401 - tantivy.Schema
    builder = tantivy.SchemaBuilder()
    for name in TEXT_FIELDS:
        builder.add_text_field(name, tokenizer_name=ANALYSER, index_option="freq")
    builder.add_text_field(SPELLING, tokenizer_name=SPELLING_ANALYSER, index_option="basic")
    builder.add_text_field(IDENTIFIER, tokenizer_name="whitespace", index_option="basic")
    # a column beside the index too: reading it costs nothing measurable, a stored document would be decompressed
    builder.add_unsigned_field(ROW, fast=True, indexed=True)
    return builder.build()


def _documents(items: ItemTable, config: LexicalConfig) -> Iterator[Any]:
    for row, texts in enumerate(item_texts(items, config)):
        document = tantivy.Document()
        document.add_unsigned(ROW, row)
        for name, text in texts.words.items():
            document.add_text(name, text)
        document.add_text(SPELLING, texts.spelling)
        document.add_text(IDENTIFIER, " ".join(texts.identifiers))
        yield document
