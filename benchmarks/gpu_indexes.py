"""Vector search on a GPU beside the time it takes to read the embeddings: torch's own product, and FAISS's indexes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np

from corpus.errors import TandemError
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import VectorIndexConfig
from retrieval.vectors.vector_index import VectorIndex

K = 100
CHUNK = 500_000  # rows made up at a time
REPEATS = 5
SHARE_OF_MEMORY = 0.6  # that embeddings in 16 bits may take


def check_indexes(
    n: int, dim: int, device: str, bytes_per_s: float | None, *, n_searches: int, seed: int
) -> dict[str, Any]:
    """Measure searches for one query at a time.

    Args:
        n: Items.
        dim: Width.
        device: As torch names it.
        bytes_per_s: Of reading the device's memory; None: unknown.
        n_searches: Queries.
        seed: Of the embeddings.
    Returns:
        By kind: ``p50_ms``, ``p99_ms``, ``recall`` of the 100 nearest, ``times_floor`` of exact search; or why not.
    """
    import torch

    if device != "cpu":
        free, _ = torch.cuda.mem_get_info()
        if 2 * n * dim > SHARE_OF_MEMORY * free:
            return {"skipped": f"{2 * n * dim / 2**30:.0f} GiB of embeddings, {free / 2**30:.0f} GiB free"}
    half = made_up_vectors(n, dim, device, seed=seed).to(torch.float16)
    queries = made_up_vectors(n_searches, dim, device, seed=seed + 1)
    floor_ms = None if bytes_per_s is None else 1e3 * 2 * n * dim / bytes_per_s
    found: dict[str, Any] = {"floor_ms": None if floor_ms is None else round(floor_ms, 4)}
    exact = np.concatenate([top_rows(half, some, K) for some in queries.to(torch.float16).split(16)])
    found["torch fp16"] = _timed(partial(_nearest, half, queries.to(torch.float16)), n_searches)
    on_host = np.ascontiguousarray(half.float().cpu().numpy())
    del half
    asked = queries.cpu().numpy()
    for name, kind in (("flat", "flat"), ("IVF", "ivf_flat")):
        found[f"FAISS {name}"] = _faiss(on_host, asked, exact, kind, device)
    found["FAISS CAGRA"] = _cagra(on_host, asked, exact)
    for each in ("torch fp16", "FAISS flat"):
        if floor_ms is not None and "p50_ms" in found[each]:
            found[each]["times_floor"] = round(found[each]["p50_ms"] / floor_ms, 3)
    return found


def made_up_vectors(n: int, dim: int, device: str, *, seed: int) -> Any:  # noqa: ANN401 - torch.Tensor
    """Return float32 (n, dim) random embeddings on the device, L2-normalised, kept in 16 bits while they are made."""
    import torch

    generator = torch.Generator(device=device).manual_seed(seed)
    rows = torch.empty((n, dim), dtype=torch.float16 if n > CHUNK else torch.float32, device=device)
    for start in range(0, n, CHUNK):
        part = torch.randn((min(CHUNK, n - start), dim), generator=generator, device=device)
        rows[start : start + CHUNK] = torch.nn.functional.normalize(part, dim=1)
    return rows


def top_rows(items: Any, queries: Any, k: int) -> IntArray:  # noqa: ANN401 - torch.Tensor
    """Return the rows of the k largest inner products, int64 (n_queries, k)."""
    rows: IntArray = (queries @ items.T).topk(min(k, len(items)), dim=1).indices.cpu().numpy()
    return rows


def read_bandwidth(device: str, *, n_bytes: int) -> float:
    """Return bytes per second of reading the device's memory from end to end."""
    import torch

    numbers = torch.ones(n_bytes // 4, dtype=torch.float32, device=device)
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        numbers.sum().item()  # waits for the device
        taken.append(time.perf_counter() - began)
    return n_bytes / min(taken[1:])


def _nearest(items: Any, queries: Any, number: int) -> IntArray:  # noqa: ANN401 - torch.Tensor
    return top_rows(items, queries[number : number + 1], K)


def _faiss(vectors: FloatArray, queries: FloatArray, exact: IntArray, kind: Any, device: str) -> dict[str, Any]:  # noqa: ANN401
    config = VectorIndexConfig(kind=kind, nprobe=32 if kind == "ivf_flat" else None)
    config = config.model_copy(update={"device": "gpu" if device != "cpu" else "cpu"})
    try:
        index = VectorIndex.build(vectors, config)
        return _measured(lambda some: index.search(some, K).ids, queries, exact)
    except (TandemError, RuntimeError) as exc:
        return {"skipped": str(exc)[:300]}


def _cagra(vectors: FloatArray, queries: FloatArray, exact: IntArray) -> dict[str, Any]:
    from retrieval.vectors.index_gpu import GpuIndex
    from retrieval.vectors.index_kinds import Breadth

    if not hasattr(faiss, "GpuIndexCagra"):
        return {"skipped": "this FAISS has no CAGRA"}
    try:
        index = GpuIndex("hnsw", None, vectors)
        breadth = Breadth(ef_search=128, nprobe=1)
        return _measured(lambda some: index.search(some, K, breadth), queries, exact)
    except (TandemError, RuntimeError) as exc:
        return {"skipped": str(exc)[:300]}


def _measured(search: Callable[[FloatArray], IntArray], queries: FloatArray, exact: IntArray) -> dict[str, Any]:
    rows = search(queries)
    width = exact.shape[1]
    shared = [len(set(a.tolist()) & set(b.tolist())) / width for a, b in zip(rows, exact, strict=True)]
    timed = _timed(lambda number: search(queries[number : number + 1]), len(queries))
    return {**timed, "recall": round(float(np.mean(shared)), 4)}


def _timed(search: Callable[[int], object], n: int) -> dict[str, float]:
    search(0)
    taken = []
    for number in range(n):
        began = time.perf_counter()
        search(number)
        taken.append(1e3 * (time.perf_counter() - began))
    return {
        "p50_ms": round(float(np.percentile(taken, 50)), 4),
        "p99_ms": round(float(np.percentile(taken, 99)), 4),
    }
