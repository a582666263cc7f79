from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from retrieval.config import RetrieverConfig
from retrieval.training.low_rank import LowRank
from retrieval.training.towers import TowerTokenizer, embed, encode_texts, features_of, load_towers

TEXTS = ["red pan", "a green nordly coffee mug for the home", "hose"]


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_merged_adapters_give_what_they_gave_before_in_the_shape_of_the_base(
    tiny_encoder_folder: Path, tmp_path: Path, towers: str
):
    config = RetrieverConfig.model_validate(
        {"base_model": str(tiny_encoder_folder), "max_item_tokens": 32, "towers": towers}
    )
    model = load_towers(config, device="cpu")
    names = set(model.state_dict())
    before = encode_texts(model, TEXTS, role="item", max_tokens=32)
    adapters = LowRank(model, 2, seed=1)
    np.testing.assert_allclose(encode_texts(model, TEXTS, role="item", max_tokens=32), before, atol=1e-6)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {min(parameter.shape) for parameter in trained} == {2}
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):
        for role in ("query", "item"):
            embed(model, features_of(TowerTokenizer(model, role, 32)(TEXTS)), role)[:, :8].sum().backward()
        optimizer.step()
    want = [encode_texts(model, TEXTS, role=role, max_tokens=32) for role in ("query", "item")]
    assert np.abs(want[1] - before).max() > 0.01
    adapters.merge()
    assert set(model.state_dict()) == names
    model.save(str(tmp_path), create_model_card=False)
    for model_now in (model, SentenceTransformer(str(tmp_path), device="cpu")):
        for role, vectors in zip(("query", "item"), want, strict=True):
            got = encode_texts(model_now, TEXTS, role=role, max_tokens=32)
            np.testing.assert_allclose(got, vectors, atol=1e-5)


def test_the_seed_decides_where_adapters_start_and_nothing_else_moves(tiny_encoder_folder: Path):
    config = RetrieverConfig.model_validate({"base_model": str(tiny_encoder_folder), "max_item_tokens": 32})

    def start(seed: int) -> torch.Tensor:
        model = load_towers(config, device="cpu")
        state = torch.get_rng_state()
        LowRank(model, 2, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
