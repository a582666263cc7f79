"""The vector index's copy on a GPU, where the installed FAISS has one.

Three kinds go there: ``flat`` and ``ivf_flat``, their embeddings as 16-bit floats, and ``hnsw``, which becomes a CAGRA
graph where FAISS was built with cuVS. FAISS's GPU indexes heed no selector and are not safe for several threads, not
even for reading: a lock makes one caller at a time their owner, and filtered and exact searches stay on the CPU.

Not measured: no machine with a GPU was at hand.
"""

import threading
from typing import Any

import numpy as np

from corpus.errors import ConfigError, DeviceUnavailable
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import IndexKind
from retrieval.vectors.faiss_runtime import faiss
from retrieval.vectors.index_kinds import Breadth, Structure

GPU_KINDS: tuple[IndexKind, ...] = ("flat", "ivf_flat", "hnsw")
REFINE_FACTOR = 2  # 16 bits confuse the ranks of near-equal items alone
MOST_ASKED = 2048  # hits of a query, and cells that it visits: FAISS refuses more on a GPU


class GpuIndex:
    """An index on the first GPU, and its owner's lock."""

    def __init__(self, kind: IndexKind, structure: Structure, vectors: FloatArray) -> None:
        """Copy an index to the GPU.

        Args:
            kind: One of ``GPU_KINDS``.
            structure: What searches the embeddings on the CPU; None for ``flat``.
            vectors: float32 (n, dim).
        Raises:
            ConfigError: If the kind has no form on a GPU.
            DeviceUnavailable: If FAISS has no GPU, or it does not take the index.
        """
        if kind not in GPU_KINDS:
            raise ConfigError(
                f"expected retriever.index.kind to be {', '.join(GPU_KINDS)} with device = gpu, got {kind}; "
                "change the kind, or set retriever.index.device to cpu"
            )
        # by name: faiss-cpu has none of them
        gpu: Any = faiss
        n_gpus = gpu.get_num_gpus() if hasattr(gpu, "get_num_gpus") else 0
        if n_gpus < 1 or not hasattr(gpu, "StandardGpuResources"):
            raise DeviceUnavailable(
                "expected a FAISS with a GPU for retriever.index.device = gpu, found none; install the `gpu` extra "
                "instead of faiss-cpu, or set the device to cpu"
            )
        if kind == "hnsw" and not hasattr(gpu, "GpuIndexCagra"):
            raise ConfigError(
                "expected a FAISS with CAGRA for retriever.index.kind = hnsw on a GPU, found none; "
                "set the kind to flat or ivf_flat, or retriever.index.device to cpu"
            )
        self._lock = threading.Lock()
        self._kind = kind
        try:
            self._resources = gpu.StandardGpuResources()
            self._index = _copy(gpu, self._resources, kind, structure, vectors)
        except RuntimeError as exc:
            raise _unavailable(exc) from exc

    def search(self, queries: FloatArray, k: int, breadth: Breadth) -> IntArray:
        """Return rows int64 (n_queries, k), about best first; -1 is padding.

        Args:
            queries: float32 (n_queries, dim).
            k: Hits per query, at most ``MOST_ASKED``.
            breadth: Of the search; it visits at most ``MOST_ASKED`` cells.
        Raises:
            DeviceUnavailable: If the GPU fails.
        """
        gpu: Any = faiss
        options = None
        if self._kind == "ivf_flat":
            options = gpu.SearchParametersIVF(nprobe=min(breadth.nprobe, MOST_ASKED))
        elif self._kind == "hnsw":
            options = gpu.SearchParametersCagra()
            options.itopk_size = max(breadth.ef_search, k)
        try:
            with self._lock:
                _, ids = self._index.search(queries, k, params=options)
        except RuntimeError as exc:
            raise _unavailable(exc) from exc
        return np.ascontiguousarray(ids, dtype=np.int64)


def _copy(gpu: Any, resources: Any, kind: IndexKind, structure: Structure, vectors: FloatArray) -> Any:  # noqa: ANN401
    if kind == "hnsw":
        graph = gpu.GpuIndexCagra(resources, vectors.shape[1], gpu.METRIC_INNER_PRODUCT, gpu.GpuIndexCagraConfig())
        graph.train(vectors)
        return graph
    if kind == "flat":
        config = gpu.GpuIndexFlatConfig()
        config.useFloat16 = True
        flat = gpu.GpuIndexFlatIP(resources, vectors.shape[1], config)
        flat.add(vectors)
        return flat
    options = gpu.GpuClonerOptions()
    options.useFloat16 = True
    return gpu.index_cpu_to_gpu(resources, 0, structure, options)


def _unavailable(exc: RuntimeError) -> DeviceUnavailable:
    return DeviceUnavailable(f"the GPU failed: {exc}; set retriever.index.device to cpu")
