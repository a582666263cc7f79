"""Item embeddings, kept by content hash: a rebuild embeds only what changed, and a killed one goes on."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from corpus.errors import ArtefactError
from corpus.progress import track
from retrieval.arrays import FloatArray, as_embeddings
from retrieval.encoder import TextEncoder

logger = logging.getLogger(__name__)

SHARD_ROWS = 2048  # most texts that a kill can cost
HASH_BYTES = 32
VECTORS_SUFFIX = ".vectors.npy"
HASHES_SUFFIX = ".hashes.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """Embeddings, and how many of them were new."""

    vectors: FloatArray  # (n, dim), L2-normalised, C-contiguous, in the order of the texts
    n_embedded: int  # distinct texts that the encoder ran on
    n_reused: int  # distinct texts found in the cache


def embed_items(encoder: TextEncoder, texts: Sequence[str], cache: Path) -> EmbedReport:
    """Embed texts, each distinct one once, reusing what earlier calls left in the cache.

    The cache is a folder per encoder fingerprint, of shards of up to 2,048 rows: the texts' SHA-256 and their
    vectors, as two ``.npy`` files. A shard counts once its hashes are there, and they are written last. A broken
    shard is reported in the log and embedded again.

    Args:
        encoder: The item encoder.
        texts: Passages, in row order.
        cache: Folder for all encoders' embeddings; made if missing.
    Returns:
        The embeddings, and how many were new.
    Raises:
        ArtefactError: If the cache cannot be written, or the encoder fails.
    """
    folder = cache / encoder.fingerprint[:16]
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    text_of = dict(zip(hashes, texts, strict=True))
    slot_of = {digest: slot for slot, digest in enumerate(text_of)}
    vectors = np.empty((len(slot_of), encoder.dim), dtype=np.float32)
    missing = _read(folder, slot_of, vectors)
    shards = [missing[start : start + SHARD_ROWS] for start in range(0, len(missing), SHARD_ROWS)]
    for shard in track(shards, description=f"embedding {len(missing):,} texts"):
        fresh = encoder.encode([text_of[digest] for digest in shard])
        vectors[[slot_of[digest] for digest in shard]] = fresh
        _write(folder, shard, fresh)
    rows = np.fromiter((slot_of[digest] for digest in hashes), dtype=np.int64, count=len(hashes))
    if len(slot_of) < len(texts):
        vectors = vectors[rows]  # without duplicates, slots are rows already
    return EmbedReport(
        vectors=as_embeddings(vectors, encoder.dim), n_embedded=len(missing), n_reused=len(slot_of) - len(missing)
    )


def _read(folder: Path, slot_of: dict[bytes, int], vectors: FloatArray) -> list[bytes]:
    """Fill in the vectors that the cache has; return the hashes of the others, in order."""
    found: set[bytes] = set()
    for path in sorted(folder.glob(f"*{HASHES_SUFFIX}")):
        try:
            shard_hashes, shard_vectors = _open_shard(path, vectors.shape[1])
        except (OSError, ValueError, EOFError) as exc:
            logger.warning("ignoring a broken shard of cached embeddings: %s: %s", path, exc)
            continue
        known = [row.tobytes() for row in shard_hashes]
        wanted = [(row, slot_of[digest]) for row, digest in enumerate(known) if digest in slot_of]
        if wanted:
            source, target = (list(column) for column in zip(*wanted, strict=True))
            vectors[target] = shard_vectors[source]
            found.update(known[row] for row in source)
    return [digest for digest in slot_of if digest not in found]


def _open_shard(path: Path, dim: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    hashes = np.load(path, allow_pickle=False)
    # mapped: a catalogue may need few of a shard's rows
    vectors = np.load(_vectors_path(path), mmap_mode="r", allow_pickle=False)
    if hashes.dtype != np.uint8 or hashes.shape != (len(hashes), HASH_BYTES):
        raise ValueError(f"expected uint8 (n, {HASH_BYTES}) hashes, got {hashes.dtype} {hashes.shape}")
    if vectors.dtype != np.float32 or vectors.shape != (len(hashes), dim):
        raise ValueError(f"expected float32 ({len(hashes)}, {dim}) vectors, got {vectors.dtype} {vectors.shape}")
    return hashes, vectors


def _vectors_path(hashes_path: Path) -> Path:
    return hashes_path.with_name(hashes_path.name.removesuffix(HASHES_SUFFIX) + VECTORS_SUFFIX)


def _write(folder: Path, hashes: Iterable[bytes], vectors: FloatArray) -> None:
    joined = b"".join(hashes)
    # the name is the content's: two runs that embed the same texts write the same file
    path = folder / f"{hashlib.sha256(joined).hexdigest()[:32]}{HASHES_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(_vectors_path(path), vectors)
        _save(path, np.frombuffer(joined, dtype=np.uint8).reshape(-1, HASH_BYTES))
    except OSError as exc:
        raise ArtefactError(f"expected to write embeddings to {folder}, got: {exc}; free or mend the disk") from exc


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    file: IO[bytes]
    with draft.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
