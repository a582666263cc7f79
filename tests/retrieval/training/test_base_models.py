import sys
from pathlib import Path

import pytest

from corpus.errors import ConfigError
from retrieval.training.base_models import PACKAGED_MODEL, resolve_base_model


def test_the_default_is_the_packaged_model_found_without_importing_it():
    sys.modules.pop(PACKAGED_MODEL, None)
    folder = Path(resolve_base_model("default"))
    assert (folder / "model.safetensors").is_file()
    assert PACKAGED_MODEL not in sys.modules


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("retrieval.training.base_models.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tandem-search\[train\]"):
        resolve_base_model("default")


def test_a_folder_is_taken_as_it_is(tiny_encoder_folder: Path, tiny_bert_folder: Path):
    assert resolve_base_model(str(tiny_encoder_folder)) == str(tiny_encoder_folder)
    assert resolve_base_model(str(tiny_bert_folder)) == str(tiny_bert_folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="found neither"):
        resolve_base_model(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "~/no-such-model", "a/b/c", "", "a model"])
def test_a_missing_folder_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"check the path|found neither"):
        resolve_base_model(name)


def test_a_hub_id_is_passed_on():
    assert resolve_base_model("intfloat/e5-small-v2") == "intfloat/e5-small-v2"
