"""Item embeddings, kept by content hash: a rebuild embeds only what changed, and a killed one goes on.

Built for catalogues larger than memory: texts are made a shard at a time, and embeddings can be written to a mapped
file. What is held per text is its SHA-256 and a few numbers, about 150 bytes at the peak.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from corpus.errors import ArtefactError
from corpus.progress import track
from retrieval.arrays import FloatArray, IntArray, as_embeddings
from retrieval.texts import HASH_BYTES, Digests, Texts, keys_of

logger = logging.getLogger(__name__)

SHARD_ROWS = 2048  # most texts that a kill can cost
COPIED_ROWS = 65_536  # at a time
VECTORS_SUFFIX = ".vectors"
DIGESTS_SUFFIX = ".digests"
NAME_CHARACTERS = 16  # of a fingerprint: an encoder's folder

# rows and texts of shards in, rows and embeddings out, in any order: how a cluster takes part
EncodeShards = Callable[[Iterator[tuple[IntArray, list[str]]]], Iterator[tuple[IntArray, FloatArray]]]


class ItemEncoder(Protocol):
    """What embeds items; ``retrieval.engines.encoder.TextEncoder`` does."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over all that decides an embedding's numbers, precision included."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts: float32 (n, dim), L2-normalised."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """Embeddings, and how many of them were new."""

    vectors: FloatArray  # (n, dim), L2-normalised, C-contiguous, in the order of the texts
    n_embedded: int  # distinct texts that the encoder ran on
    n_reused: int  # distinct texts found in the cache


def embed_items(
    encoder: ItemEncoder,
    texts: Sequence[str] | Texts,
    cache: Path,
    *,
    into: Path | None = None,
    encode_shards: EncodeShards | None = None,
) -> EmbedReport:
    """Embed texts, each distinct one once, reusing what earlier calls left in the cache.

    The cache is a folder per encoder fingerprint, of shards of up to 2,048 rows, as two files of bare numbers (there is
    no header to parse): the vectors, float32, and for each row the SHA-256 of its text and of its vector. A shard
    counts once its digests are there, and they are written last. Rows whose vectors are not those that were written,
    and shards that cannot be read, are reported in the log and embedded again.

    Args:
        encoder: The item encoder.
        texts: Passages, in row order.
        cache: Folder for all encoders' embeddings; made if missing.
        into: A ``.npy`` file to write and map the embeddings in, at least one; None holds them in memory.
        encode_shards: Runs the encoder elsewhere; None: here, one shard after the other.
    Returns:
        The embeddings, and how many were new.
    Raises:
        ArtefactError: If the cache or the file cannot be written, or the encoder fails.
    """
    texts = texts if isinstance(texts, Texts) else Texts.of(texts)
    folder = cache_folder(cache, encoder.fingerprint)
    keys, first, place = np.unique(keys_of(texts.digests), return_index=True, return_inverse=True)
    vectors = _room(into, len(texts), encoder.dim)
    found = np.zeros(len(keys), dtype=np.bool_)
    for shard in _shards(folder, encoder.dim):
        known, places = _look_up(keys, shard.texts)
        kept = shard.vectors[known]
        sound = np.all(_digests_of(kept) == shard.written[known], axis=1)
        if not sound.all():
            logger.warning("ignoring %d broken embeddings of a cached shard: %s", np.sum(~sound), shard.path)
        vectors[first[places[sound]]] = kept[sound]
        found[places[sound]] = True
    missing = np.sort(first[~found])  # of equal texts the first one's row stands for all
    for rows, encoded in _encode(encoder, texts, missing, encode_shards):
        fresh = as_embeddings(encoded, encoder.dim)  # before it is cached: what is there is taken for good
        vectors[rows] = fresh
        _write(folder, texts.digests[rows], fresh)
    _copy_to_equals(vectors, first[place])
    if into is not None:
        try:
            vectors.flush()  # type: ignore[attr-defined]
            vectors = np.load(into, mmap_mode="r", allow_pickle=False)
        except OSError as exc:
            raise _unwritable(into, exc) from exc
    return EmbedReport(
        vectors=as_embeddings(vectors, encoder.dim), n_embedded=len(missing), n_reused=len(keys) - len(missing)
    )


def count_missing(texts: Texts, cache: Path, fingerprint: str) -> int:
    """Count the distinct texts that the cache has no embedding of, without reading any embedding.

    Args:
        texts: Passages.
        cache: Folder for all encoders' embeddings.
        fingerprint: Of the encoder.
    """
    keys = np.unique(keys_of(texts.digests))
    found = np.zeros(len(keys), dtype=np.bool_)
    for shard in _shards(cache_folder(cache, fingerprint), None):
        found[_look_up(keys, shard.texts)[1]] = True
    return int(np.count_nonzero(~found))


def cache_folder(cache: Path, fingerprint: str) -> Path:
    """Return the folder of one encoder's embeddings."""
    return cache / fingerprint[:NAME_CHARACTERS]


def _room(into: Path | None, n: int, dim: int) -> FloatArray:
    if into is None:
        return np.empty((n, dim), dtype=np.float32)
    try:
        room: FloatArray = np.lib.format.open_memmap(into, mode="w+", dtype=np.float32, shape=(n, dim))
        with into.open("r+b") as file:  # all of it now: on a full disk, writing to mapped memory kills the process
            os.posix_fallocate(file.fileno(), 0, into.stat().st_size)
    except OSError as exc:
        raise _unwritable(into, exc) from exc
    return room


def _unwritable(path: Path, exc: OSError) -> ArtefactError:
    return ArtefactError(f"expected to write embeddings to {path}, got: {exc}; free or mend the disk")


def _encode(
    encoder: ItemEncoder, texts: Texts, missing: IntArray, encode_shards: EncodeShards | None
) -> Iterator[tuple[IntArray, FloatArray]]:
    parts = [missing[start : start + SHARD_ROWS] for start in range(0, len(missing), SHARD_ROWS)]
    if not parts:
        return iter(())
    shards = ((rows, texts.take(rows)) for rows in parts)
    if encode_shards is None:
        done: Iterator[tuple[IntArray, FloatArray]] = ((rows, encoder.encode(taken)) for rows, taken in shards)
    else:
        done = encode_shards(shards)
    return track(done, description=f"embedding {len(missing):,} texts", total=len(parts))


def _copy_to_equals(vectors: FloatArray, first: IntArray) -> None:
    """Copy each row's embedding from the first row of the same text."""
    rows = np.flatnonzero(first != np.arange(len(first)))
    for start in range(0, len(rows), COPIED_ROWS):
        part = rows[start : start + COPIED_ROWS]
        vectors[part] = vectors[first[part]]


def _look_up(keys: npt.NDArray[np.bytes_], digests: Digests) -> tuple[IntArray, IntArray]:
    """Return which of a shard's rows are wanted, and where in the sorted keys each of those stands."""
    if not len(keys):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    wanted = keys_of(digests)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    known = np.flatnonzero(keys[places] == wanted)
    return known, places[known]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """Embeddings that an earlier call left."""

    path: Path  # of the digests
    texts: Digests
    written: Digests  # of the vectors, when they were written
    vectors: FloatArray  # mapped: a catalogue may need few of a shard's rows


def _shards(folder: Path, dim: int | None) -> Iterator[_Shard]:
    """Yield every whole shard; a width of None opens no vectors."""
    for path in sorted(folder.glob(f"*{DIGESTS_SUFFIX}")):
        try:
            yield _open_shard(path, dim)
        except (OSError, ValueError) as exc:
            logger.warning("ignoring a broken shard of cached embeddings: %s: %s", path, exc)


def _open_shard(path: Path, dim: int | None) -> _Shard:
    digests = np.fromfile(path, dtype=np.uint8).reshape(-1, 2 * HASH_BYTES)
    if dim is None:
        vectors = np.empty((len(digests), 0), dtype=np.float32)
    else:
        vectors = np.memmap(_vectors_path(path), dtype=np.float32, mode="r").reshape(len(digests), dim)
    return _Shard(path=path, texts=digests[:, :HASH_BYTES], written=digests[:, HASH_BYTES:], vectors=vectors)


def _vectors_path(digests_path: Path) -> Path:
    return digests_path.with_name(digests_path.name.removesuffix(DIGESTS_SUFFIX) + VECTORS_SUFFIX)


def _digests_of(vectors: FloatArray) -> Digests:
    joined = b"".join(hashlib.sha256(row).digest() for row in np.ascontiguousarray(vectors))
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, HASH_BYTES)


def _write(folder: Path, texts: Digests, vectors: FloatArray) -> None:
    # the name is the texts': two runs that embed the same ones write the same files
    path = folder / f"{hashlib.sha256(texts.tobytes()).hexdigest()[:32]}{DIGESTS_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(_vectors_path(path), vectors)
        _save(path, np.hstack([texts, _digests_of(vectors)]))
    except OSError as exc:
        raise _unwritable(folder, exc) from exc


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    file: IO[bytes]
    with draft.open("wb") as file:
        file.write(array.tobytes())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
