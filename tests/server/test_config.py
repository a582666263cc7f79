import subprocess
import sys
from pathlib import Path

import pytest

from corpus.config import load_config
from corpus.errors import ConfigError
from server.config import TandemConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "tandem.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_gives_every_default(tmp_path):
    config = load_config(TandemConfig, write(tmp_path, ""), environ={})
    assert config == TandemConfig()
    assert config.server.address == "127.0.0.1:50051"


def test_environment_and_overrides_reach_every_level(tmp_path):
    path = write(tmp_path, "[server]\nrerank_depth = 20\nretrieval_depth = 30\n")
    environ = {"TANDEM_SERVER__RERANK_DEPTH": "21", "TANDEM_RETRIEVER__TRAIN__EPOCHS": "5"}
    config = load_config(TandemConfig, path, overrides=['server.address="127.0.0.1:0"'], environ=environ)
    assert (config.server.rerank_depth, config.server.retrieval_depth) == (21, 30)
    assert config.retriever.train.epochs == 5
    assert config.server.address == "127.0.0.1:0"


def test_an_unknown_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"server\.adress"):
        load_config(TandemConfig, write(tmp_path, '[server]\nadress = "x"\n'), environ={})


@pytest.mark.parametrize("key", ["retrieval_depth", "rerank_depth", "default_page_size"])
def test_a_default_above_its_limit_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=f"expected {key} <= max_"):
        load_config(TandemConfig, write(tmp_path, f"[server]\n{key} = 5000\n"), environ={})


def test_reading_a_configuration_imports_neither_models_nor_grpc():
    heavy = {"torch", "transformers", "faiss", "openvino", "grpc", "sentence_transformers"}
    code = f"import sys, server.config; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
