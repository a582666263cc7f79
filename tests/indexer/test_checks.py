import numpy as np
import pytest

from corpus.errors import ArtefactError
from indexer.checks import check_agreement
from retrieval.encoder import open_torch_encoder


def test_an_encoder_that_disagrees_with_the_trained_one_is_refused(tiny_encoder_folder):
    encoder = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16)
    queries = ["red shoe", "steel pan", "bread knife"]
    check_agreement(encoder, tiny_encoder_folder, queries)

    class Broken:
        info = encoder.info

        def encode(self, texts):
            return np.roll(encoder.encode(texts), 1, axis=1)

    with pytest.raises(ArtefactError, match="fp32"):
        check_agreement(Broken(), tiny_encoder_folder, queries)
