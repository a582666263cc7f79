"""Bundles of a few bytes, which verify though no library could open their files."""

from datetime import UTC, datetime
from pathlib import Path

from indexer.manifest import MANIFEST_FILE, BlendEntry, BundleManifest, RerankerEntry, RetrieverEntry
from indexer.verify import hash_files
from retrieval.fusion import FusionWeights
from retrieval.vectors.tuning_point import TuningPoint

SMALL_FILES = {
    "items.parquet": b"PAR1 the items",
    "vectors.npy": b"numbers",
    "lexical/.managed.json": b'["a.store"]',
    "lexical/a.store": b"",
    "encoder/openvino_model.xml": b"<net/>",
}


def manifest_of(folder: Path, version: str, **changes: object) -> BundleManifest:
    """A plausible manifest of whatever lies in a folder."""
    fields: dict[str, object] = {
        "version": version,
        "parent": None,
        "created_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "n_items": 60,
        "dim": 32,
        "retriever": RetrieverEntry(
            version="v1",
            fingerprint="f1",
            encoder_fingerprint="e1",
            item_encoder_fingerprint="e2",
            tokenizer_sha256="0" * 64,
            item_fields=("title", "brand"),
            passage_version=1,
            weights=FusionWeights(dense=0.7, behaviour=0.3),
            n_logged_queries=12,
        ),
        "reranker": RerankerEntry(
            version="v2",
            fingerprint="f2",
            retriever_fingerprint="f1",
            tokenizer_sha256="1" * 64,
            item_fields=("title",),
            passage_version=1,
            score_weights={"rerank": 1.0, "retrieval": 0.25},
        ),
        "blend": BlendEntry(version="v3", fingerprint="f3", reranker_fingerprint="f2", n_features=27),
        "config": {
            "build": {"engine": "openvino"},
            "retriever": {"index": {"kind": "hnsw", "ef_search": 128, "nprobe": None, "refine_factor": None}},
        },
        "ann_recall": 0.9975,
        "tuning": (
            TuningPoint(ef_search=64, nprobe=None, refine_factor=None, recall=0.9125, ms_per_query=0.25),
            TuningPoint(ef_search=128, nprobe=None, refine_factor=None, recall=0.9975, ms_per_query=0.5),
        ),
        "n_recall_queries": 48,
        "data_fingerprint": "d1",
        "packages": {"faiss-cpu": "1.15.1"},
        "files": hash_files(folder),
    }
    return BundleManifest.model_validate({**fields, **changes})


def write_small_bundle(bundles: Path, version: str) -> Path:
    """A folder that verifies as a bundle, though no library could open its files."""
    folder = bundles / version
    for name, content in SMALL_FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / MANIFEST_FILE).write_bytes(manifest_of(folder, version).render())
    return folder
