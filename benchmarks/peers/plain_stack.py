"""The plain stack: ``SentenceTransformer.encode``, a flat FAISS index and ``CrossEncoder.predict``, fp32.

Unlike ``sentence_transformers_stack`` it learns nothing of its own: it runs the very weights of a store's trained
models over the vectors and the token ids of its bundle, so that only speed can differ. It writes what the cross-encoder
is to read as text, as the library wants it, and the text of each part is decoded from the ids that Tandem reads.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np

from benchmarks.peers.sentence_transformers_stack import embed
from corpus.events import HistoryEvent
from corpus.items import ItemTable
from corpus.workspace import Workspace, find_version
from indexer.bundle import ITEMS_FILE, PASSAGES_FOLDER, RERANKER_FOLDER, VECTORS_FILE
from indexer.manifest import read_manifest
from rerank.heads import weight_array
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens, TokenArray
from rerank.model_info import MODEL_FOLDER, RerankerModelInfo
from retrieval.arrays import FloatArray, IntArray
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_FOLDER
from retrieval.quiet import quiet_libraries
from retrieval.vectors.vector_index import open_vectors


class PlainCrossEncoder:
    """``CrossEncoder.predict`` with a trained version's weights."""

    def __init__(self, version_folder: Path) -> None:
        """Load a version of the reranker.

        Raises:
            ArtefactError: If it is not a finished one.
        """
        from sentence_transformers import CrossEncoder

        info = RerankerModelInfo.load(version_folder)
        with quiet_libraries():
            self.model = CrossEncoder(str(version_folder / MODEL_FOLDER), device="cpu")
        # as many as it has positions: its tokenizer may hold a limit of whoever saved it
        self.model.max_seq_length = self.model.config.max_position_embeddings
        self._weights = weight_array(info.head_weights)

    def score(self, first: str, passages: Sequence[str]) -> FloatArray:
        """Return the ranking values of pairs: float32 (n,)."""
        import torch

        with quiet_libraries():
            logits = self.model.predict(
                [(first, passage) for passage in passages], activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        counting = self._weights > 0
        values: FloatArray = np.asarray(logits, dtype=np.float32)[:, counting] @ self._weights[counting]
        return values


class PlainEncoder:
    """``SentenceTransformer.encode`` with a trained version's weights."""

    def __init__(self, version_folder: Path, *, max_tokens: int, dim: int | None) -> None:
        """Load a version of the retriever; see ``retrieval.engines.encoder.open_torch_encoder``."""
        from sentence_transformers import SentenceTransformer

        with quiet_libraries():
            self.model = SentenceTransformer(str(version_folder / RETRIEVER_FOLDER), device="cpu", truncate_dim=dim)
        self.model.max_seq_length = max_tokens

    def encode(self, queries: Sequence[str]) -> FloatArray:
        """Return the embeddings, float32 (n, dim)."""
        with quiet_libraries():
            return embed(self.model, queries)


class PlainStack:
    """Both stages over a bundle's vectors and passages."""

    def __init__(self, workspace: Workspace, bundle: Path) -> None:
        """Open the models that a bundle was built from, and what they search.

        Args:
            workspace: Holds the trained models.
            bundle: A bundle's folder; its manifest names the models' versions.
        Raises:
            ArtefactError: If anything is missing.
        """
        manifest = read_manifest(bundle)
        if manifest.reranker is None:
            raise ValueError("expected a bundle with a reranker")
        stage = manifest.config["retriever"]
        assert isinstance(stage, dict)
        version = find_version(workspace.rerankers, manifest.reranker.version, marker="model.json")
        self.config = RerankerModelInfo.load(version).config
        self.cross_encoder = PlainCrossEncoder(version)
        self.encoder = PlainEncoder(
            find_version(workspace.retrievers, manifest.retriever.version, marker="model.json"),
            max_tokens=int(str(stage["max_query_tokens"])),
            dim=None if stage["dim"] is None else int(str(stage["dim"])),
        )
        self.items = ItemTable.read(bundle / ITEMS_FILE)
        self.name_of: Callable[[str], str | None] = item_names(self.items)
        self.tokenizer = PairTokenizer.load(bundle / RERANKER_FOLDER)
        tokens = PassageTokens.load(bundle / PASSAGES_FOLDER)
        self._texts = written(self.tokenizer, [tokens.of(row) for row in range(len(tokens))])
        vectors = open_vectors(bundle / VECTORS_FILE)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def search(self, query: str, history: Sequence[HistoryEvent], depth: int) -> tuple[IntArray, FloatArray]:
        """Find and order.

        Args:
            query: The normalised query.
            history: Earlier events, newest first.
            depth: Items to find, all of which the cross-encoder reads.
        Returns:
            Rows int64 (n,) and scores float32 (n,), best first.
        """
        _, found = self._index.search(self.encoder.encode([query]), depth)
        rows = found[0][found[0] >= 0].astype(np.int64)
        first = written_prefix(self.tokenizer, self.tokenizer.prefix(query, history, self.name_of, self.config))
        scores = self.cross_encoder.score(first, [self._texts[row] for row in rows.tolist()])
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]


def written(tokenizer: PairTokenizer, parts: Sequence[TokenArray]) -> list[str]:
    """Return texts whose tokens are those given."""
    texts: list[str] = tokenizer.tokenizer.decode_batch([part.tolist() for part in parts], skip_special_tokens=False)
    return texts


def written_prefix(tokenizer: PairTokenizer, prefix: TokenArray) -> str:
    """Return what stands between the start and the last separator of a prefix, as a text that holds separators."""
    return written(tokenizer, [prefix[1:-1]])[0]
