"""The array types that stages exchange, and the checks at their doors."""

from typing import Any

import numpy as np
import numpy.typing as npt

from corpus.errors import DimensionMismatch, InputError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CHECKED_ROWS = 65_536  # embeddings looked through at one time


def as_embeddings(vectors: npt.ArrayLike, dim: int | None = None) -> FloatArray:
    """Return embeddings as float32, C-contiguous, after checking that they can be searched.

    Args:
        vectors: Numbers of shape (n, dim).
        dim: The width to insist on; None takes any.
    Returns:
        float32 (n, dim), C-contiguous; the very array that came if it already is.
    Raises:
        DimensionMismatch: If the shape differs.
        InputError: If a number is NaN or infinite: FAISS would answer with arbitrary rows.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] < 1 or (dim is not None and array.shape[1] != dim):
        raise DimensionMismatch(
            f"expected (n, {'dim' if dim is None else dim}) embeddings, got shape {array.shape}; "
            "encode with the encoder that the index was built with"
        )
    # by blocks: a mask of the whole would be a quarter of the embeddings' size
    if not all(np.isfinite(array[start : start + CHECKED_ROWS]).all() for start in range(0, len(array), CHECKED_ROWS)):
        raise InputError("expected finite embeddings, got NaN or infinity; check the encoder that made them")
    return array


def cut(embeddings: FloatArray, dim: int | None) -> FloatArray:
    """Return the first numbers of embeddings, again of length 1.

    Args:
        embeddings: float32 (n, width), L2-normalised.
        dim: How many to keep; None: all.
    """
    if dim is None:
        return embeddings
    kept = embeddings[:, :dim]
    shortened: FloatArray = kept / np.linalg.norm(kept, axis=1, keepdims=True).clip(min=1e-12)
    return shortened


def look_up(known: npt.NDArray[Any], values: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the values of keys, 0 for keys that are not known: float64 (n_wanted,).

    Args:
        known: (n,) keys, ascending, each once.
        values: (n,) of the known keys.
        wanted: (n_wanted,) keys.
    """
    if not len(known):
        return np.zeros(len(wanted))
    place, is_known = find_places(known, wanted)
    return np.where(is_known, values[place], 0.0)


def find_places(known: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Return where keys stand, int64 (n_wanted,), and which of them are known at all; a place is theirs only then.

    Args:
        known: (n,) keys, ascending, each once.
        wanted: (n_wanted,) keys.
    """
    if not len(known):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return place, known[place] == wanted


def check_depth(k: int) -> None:
    """Refuse to look for fewer than one item.

    Raises:
        InputError: If k is below 1.
    """
    if k < 1:
        raise InputError(f"expected to search for at least 1 item, got {k}; ask for a positive number")
