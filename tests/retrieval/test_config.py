import pytest
from pydantic import ValidationError

from retrieval.config import RetrieverConfig, RetrieverTrainConfig


def test_an_unknown_item_field_is_refused():
    with pytest.raises(ValidationError, match="colour"):
        RetrieverConfig(item_fields=("title", "colour"))


def test_a_repeated_item_field_is_refused():
    with pytest.raises(ValidationError, match="each once"):
        RetrieverConfig(item_fields=("title", "title"))


def test_widths_are_distinct_and_above_0():
    for dims in ((8, 8), (0, 8)):
        with pytest.raises(ValidationError, match="each once"):
            RetrieverTrainConfig(matryoshka_dims=dims)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        RetrieverConfig.model_validate({"train": {"epoch": 3}})


def test_a_resolved_configuration_survives_json():
    config = RetrieverConfig.model_validate({"train": {"epochs": 3}, "fusion": {"dense_weight": 0.5}})
    assert RetrieverConfig.model_validate_json(config.model_dump_json()) == config
