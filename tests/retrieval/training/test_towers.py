from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from corpus.errors import ConfigError
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import open_torch_encoder
from retrieval.training import towers
from retrieval.training.towers import TowerTokenizer, embed, encode_texts, features_of, load_towers

TEXTS = ["red pan", "a green nordly coffee mug for the home", "hose", "blue vanta leather boot"]


def settings(folder: Path, **changes: object) -> RetrieverConfig:
    return RetrieverConfig.model_validate({"base_model": str(folder), "max_item_tokens": 32, **changes})


def test_shared_towers_give_both_roles_the_same_embeddings(tiny_encoder_folder: Path):
    model = load_towers(settings(tiny_encoder_folder), device="cpu")
    query = encode_texts(model, TEXTS, role="query", max_tokens=32)
    item = encode_texts(model, TEXTS, role="item", max_tokens=32)
    np.testing.assert_array_equal(query, item)
    np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, rtol=1e-5)


def test_separate_towers_start_alike_and_learn_apart(tiny_encoder_folder: Path):
    model = load_towers(settings(tiny_encoder_folder, towers="separate"), device="cpu")
    features = features_of(TowerTokenizer(model, "query", 32)(TEXTS))
    embed(model, features, "query").sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    before = encode_texts(SentenceTransformer(str(tiny_encoder_folder)), TEXTS, role="item", max_tokens=32)
    np.testing.assert_allclose(encode_texts(model, TEXTS, role="item", max_tokens=32), before, atol=1e-6)
    assert not np.allclose(encode_texts(model, TEXTS, role="query", max_tokens=32), before, atol=1e-2)


def test_a_bare_transformer_becomes_a_tower_by_mean_pooling(tiny_bert_folder: Path, tiny_encoder_folder: Path):
    bare = load_towers(settings(tiny_bert_folder), device="cpu")
    whole = load_towers(settings(tiny_encoder_folder), device="cpu")
    np.testing.assert_allclose(
        encode_texts(bare, TEXTS, role="item", max_tokens=32),
        encode_texts(whole, TEXTS, role="item", max_tokens=32),
        atol=1e-6,
    )


def test_training_and_serving_read_texts_alike(tiny_encoder_folder: Path, tmp_path: Path):
    for kind in ("shared", "separate"):
        model = load_towers(settings(tiny_encoder_folder, towers=kind), device="cpu")
        model.save(str(tmp_path / kind), create_model_card=False)
        for role in ("query", "item"):
            served = open_torch_encoder(tmp_path / kind, role=role, max_tokens=5).encode(TEXTS)
            np.testing.assert_allclose(encode_texts(model, TEXTS, role=role, max_tokens=5), served, atol=1e-6)


def test_passes_of_like_length_change_nothing_but_the_padding(
    tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    model = load_towers(settings(tiny_encoder_folder), device="cpu").eval()
    features = features_of(TowerTokenizer(model, "item", 32)(TEXTS))
    sizes: list[tuple[int, ...]] = []
    model[0].register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0]["input_ids"].shape)))
    whole = embed(model, features, "item")
    monkeypatch.setattr(towers, "CPU_TOKENS_PER_PASS", 12)
    cut = embed(model, features, "item")
    assert len(sizes) > 2
    assert sizes[1][1] < sizes[0][1]
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-4)


def gradients(model: SentenceTransformer, features: dict[str, torch.Tensor], *, chunk: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    model.zero_grad()
    target = torch.linspace(-1, 1, 4 * 32).reshape(4, 32)
    (embed(model, features, "item", chunk=chunk) * target).sum().square().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_chunks_that_are_run_again_give_the_same_gradients(
    tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
):
    model = load_towers(settings(tiny_encoder_folder), device="cpu").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    features = features_of(TowerTokenizer(model, "item", 32)(TEXTS))
    sizes: list[int] = []
    model[0].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0]["input_ids"])))
    cached = gradients(model, features, chunk=3)
    assert sizes == [3, 1, 1, 3]  # forwards, then again as the gradient comes back
    monkeypatch.setattr(towers, "checkpoint", lambda run, *args, use_reentrant: run(*args))
    plain = gradients(model, features, chunk=3)
    assert len(sizes) == 6
    assert max(float(gradient.abs().max()) for gradient in plain) > 0.1
    for got, want in zip(cached, plain, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_a_chunk_keeps_no_activations(tiny_encoder_folder: Path):
    model = load_towers(settings(tiny_encoder_folder), device="cpu").train()
    features = features_of(TowerTokenizer(model, "item", 32)(TEXTS))
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def held(chunk: int | None) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            vectors = embed(model, features, "item", chunk=chunk)
        assert vectors.requires_grad
        return sum(kept.values())

    assert held(2) < 0.05 * held(None)


def test_encoding_leaves_the_model_in_training(tiny_encoder_folder: Path):
    model = load_towers(settings(tiny_encoder_folder), device="cpu").train()
    encode_texts(model, TEXTS, role="query", max_tokens=8)
    assert model.training
    assert model[0].training


def test_texts_are_cut_to_the_limit(tiny_encoder_folder: Path):
    model = load_towers(settings(tiny_encoder_folder), device="cpu")
    batch = TowerTokenizer(model, "query", 4)(TEXTS)
    assert batch.input_ids.shape == (4, 4)
    assert batch.attention_mask.sum(axis=1).tolist() == [4, 4, 3, 4]


def test_more_tokens_than_the_model_reads_are_refused(tiny_encoder_folder: Path):
    with pytest.raises(ConfigError, match="at most 128 tokens"):
        load_towers(settings(tiny_encoder_folder, max_item_tokens=129), device="cpu")


def test_more_dimensions_than_the_model_gives_are_refused(tiny_encoder_folder: Path):
    for changes in ({"dim": 33}, {"train": {"matryoshka_dims": [8, 33]}}):
        with pytest.raises(ConfigError, match="32 dimensions, 33 are asked for"):
            load_towers(settings(tiny_encoder_folder, **changes), device="cpu")


def test_a_pooling_that_cannot_be_served_is_refused(tiny_bert_folder: Path, tmp_path: Path):
    transformer = Transformer(str(tiny_bert_folder))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="max"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(ConfigError, match="mean or cls"):
        load_towers(settings(tmp_path), device="cpu")


def test_a_broken_model_folder_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="text encoder"):
        load_towers(settings(tmp_path), device="cpu")
