"""Is what was exported as good as what was trained? Measured on real queries before a bundle may exist."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from retrieval.encoder import TextEncoder, open_torch_encoder

N_COMPARED_QUERIES = 64
MIN_AGREEMENT = 0.9  # mean cosine; MiniLM in int8 measured 0.996 on 64 typed queries, in fp32 1.000


def check_agreement(encoder: TextEncoder, model_dir: Path, queries: Sequence[str]) -> None:
    """Refuse an exported query encoder whose embeddings are not those of the trained tower.

    Args:
        encoder: As it will be served.
        model_dir: The trained SentenceTransformer folder.
        queries: Real ones; the first 64 are compared.
    Raises:
        ArtefactError: If the mean cosine between both is too low.
    """
    sample = list(queries[:N_COMPARED_QUERIES])
    trained = open_torch_encoder(model_dir, role="query", max_tokens=encoder.info.max_tokens, dim=encoder.info.dim)
    agreement = float(np.mean(np.sum(encoder.encode(sample) * trained.encode(sample), axis=1)))
    if agreement < MIN_AGREEMENT:
        raise ArtefactError(
            f"expected the exported query encoder to agree with the trained one (mean cosine ≥ {MIN_AGREEMENT}), "
            f"got {agreement:.3f}; set build.encoder_precision to fp32"
        )
