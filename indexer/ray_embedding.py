"""Bulk embedding on a Ray cluster. The only module that imports ray.

The catalogue stays with the build, which makes the texts, keeps the cache and writes the embeddings; workers get shards
of texts and send embeddings back. So they need this release of Tandem, but no store and no shared disk: the encoder's
files travel to them.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.errors import ArtefactError, DeviceUnavailable
from retrieval.arrays import FloatArray, IntArray
from retrieval.engines.encoder import TextEncoder, TorchPrecision, open_encoder, open_torch_encoder
from retrieval.vectors.embeddings import EncodeShards

logger = logging.getLogger(__name__)

LOCAL = "local"  # as an address: this machine's cores
# of a core, to schedule a worker that computes on a whole one: a pool that claims every core leaves none to feed it,
# and waits without a word
CPUS_CLAIMED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableEncoder:
    """An item encoder as files, to be opened on another machine."""

    files: dict[str, bytes]  # path inside the folder (with ``/``) → content
    exported: bool  # an OpenVINO graph, opened without torch; else a SentenceTransformer folder
    max_tokens: int
    dim: int | None = None  # of a SentenceTransformer folder: width to cut to
    precision: TorchPrecision = "fp32"  # of a SentenceTransformer folder

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        exported: bool,
        max_tokens: int,
        dim: int | None = None,
        precision: TorchPrecision = "fp32",
    ) -> "PortableEncoder":
        """Read the files of a folder that ``export_encoder`` or training wrote."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return cls(files=files, exported=exported, max_tokens=max_tokens, dim=dim, precision=precision)

    def open(self) -> TextEncoder:
        """Open the encoder on this machine, for one core or its GPU."""
        with tempfile.TemporaryDirectory(prefix="tandem-") as name:
            folder = Path(name)
            for path, content in self.files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            if self.exported:
                return open_encoder(folder, n_threads=1)
            return open_torch_encoder(
                folder, role="item", max_tokens=self.max_tokens, dim=self.dim, precision=self.precision
            )


def encode_on_ray(address: str, encoder: PortableEncoder) -> EncodeShards:
    """Return what embeds shards on a cluster: one worker per core, or per GPU for bf16.

    Args:
        address: As ``ray.init`` takes it, such as ``auto`` or ``ray://head:10001``; ``local`` starts Ray here for as
            long as it is needed.
        encoder: What the workers run.
    Raises:
        DeviceUnavailable: If ray is not installed or there is no cluster; while shards are embedded.
        ArtefactError: If a worker fails; likewise.
    """

    def encode_shards(shards: Iterator[tuple[IntArray, list[str]]]) -> Iterator[tuple[IntArray, FloatArray]]:
        ray, ours = _connect(address)
        try:
            yield from _embed(ray, encoder, shards)
        except ray.exceptions.RayError as exc:
            raise ArtefactError(f"expected Ray at {address} to embed the catalogue, got: {exc}; build again") from exc
        finally:
            if ours:
                ray.shutdown()

    return encode_shards


class _Worker:
    """What an actor of the pool runs."""

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 - a reference to a PortableEncoder
        import ray

        self._encoder = ray.get(encoder).open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"row": batch["row"], "vector": self._encoder.encode(batch["text"].tolist())}


def _embed(
    ray: Any,  # noqa: ANN401 - the module
    encoder: PortableEncoder,
    shards: Iterator[tuple[IntArray, list[str]]],
) -> Iterator[tuple[IntArray, FloatArray]]:
    import pyarrow as pa

    # one block each, in Ray's store, which goes to the disk when it is full; this process holds one at a time
    blocks = [ray.put(pa.table({"row": rows, "text": texts})) for rows, texts in shards]
    if not blocks:
        return
    resources = ray.cluster_resources()
    n_gpus = int(resources.get("GPU", 0)) if encoder.precision == "bf16" else 0
    n_workers = min(len(blocks), n_gpus or max(1, int(resources["CPU"])))
    logger.info("embedding on Ray: %d workers", n_workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    embedded = ray.data.from_arrow_refs(blocks).map_batches(
        _Worker,
        fn_constructor_kwargs={"encoder": ray.put(encoder)},
        batch_size=None,  # a block: the cache's shard
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        num_cpus=CPUS_CLAIMED,
        num_gpus=1 if n_gpus else 0,
    )
    for batch in embedded.iter_batches(batch_size=None, batch_format="numpy"):
        yield batch["row"].astype(np.int64), np.ascontiguousarray(batch["vector"], dtype=np.float32)


def _connect(address: str) -> tuple[Any, bool]:
    """Return the ray module, connected, and whether it was this call that connected it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its maker
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise DeviceUnavailable(
            "expected ray for --ray, found none; pip install 'tandem-search[ray]', or build without it"
        ) from exc
    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise DeviceUnavailable(
            f"expected a Ray cluster at {address}, got: {exc}; start one, or use --ray {LOCAL}"
        ) from exc
    return ray, True
