from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from rerank.cross_encoder import CrossEncoder
from rerank.first_token import FirstTokenLayer, read_first_token
from rerank.scorer import load_module

# the second input is padded, by tokens that would change the answer if they were read
PAIRS = {
    "input_ids": torch.tensor([[2, 9, 3, 10, 7, 3], [2, 11, 3, 3, 8, 8]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]]),
}
SIZES = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # so that untrained inputs differ
    "num_labels": 3,
}
FAMILIES = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2),
}


def classifier(config: PreTrainedConfig, attention: str = "sdpa") -> torch.nn.Module:
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def logits(model: torch.nn.Module, pairs: dict[str, torch.Tensor] = PAIRS) -> torch.Tensor:
    with torch.no_grad():
        return CrossEncoder(model).eval()(**pairs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_that_of_the_whole_layer(family: str, attention: str):
    model = classifier(FAMILIES[family], attention)
    want = logits(model)
    cut = read_first_token(model)
    assert isinstance(cut.base_model.encoder.layer[-1], FirstTokenLayer)
    torch.testing.assert_close(logits(cut), want)


def test_no_padding_needs_no_mask():
    model = classifier(FAMILIES["bert"])
    pairs = {name: values[:1] for name, values in PAIRS.items()}
    want = logits(model, pairs)
    torch.testing.assert_close(logits(read_first_token(model), pairs), want)


def test_only_the_first_token_leaves_the_last_layer():
    model = read_first_token(classifier(FAMILIES["bert"]))
    with torch.no_grad():
        hidden = model.base_model(**PAIRS).last_hidden_state
    assert hidden.shape == (2, 1, 32)


def test_another_family_is_left_as_it_is():
    config = DistilBertConfig(vocab_size=20, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=3)
    model = classifier(config)
    names = list(model.state_dict())
    assert list(read_first_token(model).state_dict()) == names


def test_a_trained_version_is_opened_so(trained: Path):
    layers = load_module(trained / "model").classifier.base_model.encoder.layer
    assert [isinstance(layer, FirstTokenLayer) for layer in layers] == [False, True]
