"""From query, history and item to the token ids that the cross-encoder reads.

    [CLS] query [SEP] history [SEP] item [SEP]        with a history
    [CLS] query [SEP] item [SEP]                      without

Segment 0 up to the last separator before the item, segment 1 for the item. Items are tokenised when the bundle is
built; a request tokenises its query and history once, and its inputs are put together by copying arrays.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from corpus.errors import ArtefactError, ConfigError
from corpus.events import HistoryEvent
from rerank.config import RerankerConfig
from rerank.history import SEPARATOR, choose_history
from retrieval.arrays import IntArray
from retrieval.engines.engine import TokenBatch
from retrieval.texts import Texts

TokenArray = npt.NDArray[np.int32]

TOKENIZER_FILE = "tokenizer.json"
TOKENS_FILE = "passage_tokens.npy"
OFFSETS_FILE = "passage_offsets.npy"

# the names that BERT's and RoBERTa's families give to the start, the separator and the padding
_START, _SEPARATOR, _PADDING = ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[PAD]", "<pad>")
_CHUNK = 20_000  # texts tokenised at a time: bounds memory
_NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))


class PairTokenizer:
    """The model's tokenizer, without the truncation and padding that its file may hold."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a tokenizer over.

        Raises:
            ConfigError: If it has no start, separator or padding token.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.start_id = self._special(_START)
        self.separator_id = self._special(_SEPARATOR)
        self.padding_id = self._special(_PADDING)
        self._separator_ids = self.token_ids([SEPARATOR.strip()])[0]

    @classmethod
    def load(cls, folder: Path) -> "PairTokenizer":
        """Read ``tokenizer.json``.

        Raises:
            ArtefactError: If it is missing or broken.
        """
        path = folder / TOKENIZER_FILE
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except Exception as exc:  # tokenizers raises bare Exception
            if isinstance(exc, ConfigError):
                raise
            raise ArtefactError(
                f"expected a tokenizer at {path}, got: {exc}; export or train the reranker anew"
            ) from exc

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``."""
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer, hexadecimal."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def token_ids(self, texts: Sequence[str]) -> list[TokenArray]:
        """Tokenise texts, without special tokens; int32 arrays."""
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in found]

    def prefix(
        self,
        query: str,
        history: Sequence[HistoryEvent],
        name_of: Callable[[str], str | None],
        config: RerankerConfig,
    ) -> TokenArray:
        """Tokenise what all inputs of one request begin with: ``[CLS] query [SEP]`` and the history, if any.

        Args:
            query: The normalised query.
            history: Earlier events, newest first; may be empty.
            name_of: An item's name by its id.
            config: Budgets of tokens and events.
        Returns:
            int32 (length,).
        """
        pieces = choose_history(history, query, name_of, n_events=config.history_events if history else 0)
        query_ids, *piece_ids = self.token_ids([query, *(piece.text for piece in pieces)])
        chosen = self._fit(piece_ids, config.max_history_tokens)
        newest_first = sorted(chosen, key=lambda entry: pieces[entry[0]].place)
        separator = np.array([self.separator_id], dtype=np.int32)
        parts = [np.array([self.start_id], dtype=np.int32), query_ids[: config.max_query_tokens], separator]
        for number, (_, ids) in enumerate(newest_first):
            parts += [ids] if number == 0 else [self._separator_ids, ids]
        if newest_first:
            parts.append(separator)
        return np.concatenate(parts)

    def _fit(self, pieces: Sequence[TokenArray], budget: int) -> list[tuple[int, TokenArray]]:
        """Keep whole events, the most important first, while they fit; returns (number of the piece, token ids)."""
        kept: list[tuple[int, TokenArray]] = []
        for number, ids in enumerate(pieces):
            cost = len(ids) + (len(self._separator_ids) if kept else 0)
            if cost <= budget:
                kept.append((number, ids))
                budget -= cost
            elif number == 0 and budget > 0:
                return [(0, ids[:budget])]
        return kept

    def _special(self, names: tuple[str, ...]) -> int:
        for name in names:
            number = self.tokenizer.token_to_id(name)
            if number is not None:
                return int(number)
        raise ConfigError(
            f"expected a tokenizer with one of the tokens {', '.join(names)}, got none of them; "
            "choose a BERT or RoBERTa model as [reranker] base_model"
        )


class PassageTokens:
    """The token ids of every item, by row: one flat array and where each item begins in it."""

    def __init__(self, tokens: TokenArray, offsets: IntArray) -> None:
        """Wrap the arrays.

        Args:
            tokens: int32 (n_tokens,), all items' tokens one after the other.
            offsets: int64 (n_items + 1,), rising from 0 to n_tokens.
        """
        self.tokens = tokens
        self.offsets = offsets

    @classmethod
    def build(cls, tokenizer: PairTokenizer, texts: Sequence[str], max_tokens: int) -> "PassageTokens":
        """Tokenise passages.

        Args:
            tokenizer: The reranker's tokenizer.
            texts: One passage per item, in row order.
            max_tokens: Where a passage is cut.
        """
        parts = list(_tokenised(tokenizer, Texts.of(texts), max_tokens))
        lengths, tokens = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NOTHING
        return cls(tokens, _offsets(lengths))

    @classmethod
    def write(cls, folder: Path, tokenizer: PairTokenizer, texts: Texts, max_tokens: int) -> "PassageTokens":
        """Tokenise passages into files, a chunk at a time, and open them memory-mapped.

        Args:
            folder: Gets both arrays as ``.npy``; made if missing.
            tokenizer: The reranker's tokenizer.
            texts: One passage per item, in row order.
            max_tokens: Where a passage is cut.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lengths = [_NOTHING[0]]
        with (folder / TOKENS_FILE).open("wb") as file:
            _write_header(file, 0)
            for some, tokens in _tokenised(tokenizer, texts, max_tokens):
                lengths.append(some)
                file.write(tokens.tobytes())
            offsets = _offsets(np.concatenate(lengths))
            file.seek(0)
            _write_header(file, int(offsets[-1]))
        np.save(folder / OFFSETS_FILE, offsets)
        return cls.load(folder)

    def save(self, folder: Path) -> None:
        """Write both arrays as ``.npy``."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / TOKENS_FILE, self.tokens)
        np.save(folder / OFFSETS_FILE, self.offsets)

    @classmethod
    def load(cls, folder: Path) -> "PassageTokens":
        """Open the arrays, memory-mapped.

        Raises:
            ArtefactError: If a file is missing or broken, or the two do not fit each other.
        """
        try:
            # a plain array over the map: numpy's memmap takes seven times as long to cut an item's tokens out
            tokens = np.asarray(np.load(folder / TOKENS_FILE, mmap_mode="r", allow_pickle=False))
            offsets = np.load(folder / OFFSETS_FILE, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise ArtefactError(f"expected pre-tokenised passages in {folder}, got: {exc}; rebuild the bundle") from exc
        fits = (
            tokens.dtype == np.int32
            and tokens.ndim == 1
            and offsets.dtype == np.int64
            and offsets.ndim == 1
            and len(offsets) > 0
            and offsets[0] == 0
            and offsets[-1] == len(tokens)
            and bool((np.diff(offsets) >= 0).all())
        )
        if not fits:
            raise ArtefactError(f"expected passage tokens and offsets in {folder} to fit; rebuild the bundle")
        return cls(tokens, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, rows: IntArray) -> IntArray:
        """Return the numbers of tokens of rows, int64 (n,)."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def of(self, row: int) -> TokenArray:
        """Return one item's token ids."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]


def _tokenised(tokenizer: PairTokenizer, texts: Texts, max_tokens: int) -> Iterator[tuple[IntArray, TokenArray]]:
    """Yield the lengths of a chunk's passages, and their tokens one after the other."""
    for chunk in texts.chunks(_CHUNK):
        parts = [ids[:max_tokens] for ids in tokenizer.token_ids(chunk)]
        yield np.array([len(ids) for ids in parts], dtype=np.int64), np.concatenate(parts)


def _offsets(lengths: IntArray) -> IntArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _write_header(file: IO[bytes], n: int) -> None:
    """Begin a ``.npy`` file of int32; numpy leaves room for a greater n to be written over it."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, header)


def assemble(
    prefixes: Sequence[TokenArray], passages: Sequence[TokenArray], *, separator_id: int, padding_id: int
) -> TokenBatch:
    """Put inputs together and pad them to the longest.

    Args:
        prefixes: What each input begins with (see ``PairTokenizer.prefix``).
        passages: The item of each input, as many.
        separator_id: Ends each input.
        padding_id: Fills the rest.
    Returns:
        A batch of (n, longest) arrays.
    """
    length = max(
        (len(prefix) + len(passage) + 1 for prefix, passage in zip(prefixes, passages, strict=True)), default=0
    )
    input_ids = np.full((len(prefixes), length), padding_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    token_type_ids = np.zeros_like(input_ids)
    for line, (prefix, passage) in enumerate(zip(prefixes, passages, strict=True)):
        begin, end = len(prefix), len(prefix) + len(passage)
        input_ids[line, :begin] = prefix
        input_ids[line, begin:end] = passage
        input_ids[line, end] = separator_id
        attention_mask[line, : end + 1] = 1
        token_type_ids[line, begin : end + 1] = 1
    return TokenBatch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
