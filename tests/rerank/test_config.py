import pytest
from pydantic import ValidationError

from rerank.config import RerankerConfig, RerankerTrainConfig


def test_the_reference_preset_is_the_recipe_the_system_was_specified_with():
    train = RerankerConfig(preset="reference").train
    assert train.learning_rate == 2e-5
    assert train.lists_per_batch * train.list_size == 32
    assert train.epochs == 5
    assert train.patience >= train.epochs  # early stopping cannot shorten it


def test_the_default_is_not_the_reference():
    assert RerankerConfig().train == RerankerTrainConfig()
    assert RerankerConfig().train != RerankerConfig(preset="reference").train


@pytest.mark.parametrize("train", [{"epochs": 2}, RerankerTrainConfig(epochs=2)])
def test_a_value_beside_the_preset_wins(train: object):
    config = RerankerConfig.model_validate({"preset": "reference", "train": train})
    assert config.train.epochs == 2
    assert config.train.learning_rate == 2e-5


def test_a_resolved_configuration_reads_back_as_itself():
    config = RerankerConfig(preset="reference", train=RerankerTrainConfig(learning_rate=1e-5))
    assert RerankerConfig.model_validate_json(config.model_dump_json()) == config


def test_a_teacher_without_a_depth_is_an_error():
    with pytest.raises(ValidationError, match="n_layers"):
        RerankerConfig(teacher="v1")


def test_an_unknown_key_is_an_error_also_under_a_preset():
    with pytest.raises(ValidationError, match="learning_rat"):
        RerankerConfig.model_validate({"preset": "reference", "train": {"learning_rat": 1}})
