import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from tokenizers import Tokenizer

from corpus.errors import ArtefactError, ConfigError
from retrieval.engines.encoder import (
    ENCODER_FILE,
    TOKENIZER_FILE,
    EncoderInfo,
    TextEncoder,
    export_encoder,
    open_encoder,
    open_torch_encoder,
    pad,
)
from retrieval.engines.engine import GRAPH_FILE, WEIGHTS_FILE

TEXTS = [
    "red acme running shoe",
    "",
    "mug",
    "a steel pan for the home with the bread knife and a rose pot; for home, for the kitchen " * 3,
    "ünïcode & 日本語",
    "red acme running shoe",
]


@pytest.fixture(scope="module")
def torch_encoder(tiny_encoder_folder):
    return open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, device="cpu")


@pytest.fixture(scope="module")
def exported(tiny_encoder_folder, tiny_items, tmp_path_factory):
    """The tiny encoder as an fp32 graph."""
    folder = tmp_path_factory.mktemp("fp32")
    export_encoder(
        tiny_encoder_folder,
        folder,
        role="item",
        precision="fp32",
        calibration_texts=tiny_items.column("title"),
        max_tokens=24,
    )
    return folder


@pytest.fixture(scope="module")
def gentle_folder(tiny_encoder_folder, tmp_path_factory):
    """The tiny encoder with the weights of its layers shrunk to the range of trained ones, as int8 expects."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder_folder), device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layer." in name and parameter.ndim == 2:
                parameter.mul_(0.3)
    folder = tmp_path_factory.mktemp("gentle")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def separate_towers(tiny_encoder_folder, tmp_path_factory):
    """A Router whose two towers differ in their weights and in how much they read."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    sides = []
    for seed in (1, 2):
        model = SentenceTransformer(str(tiny_encoder_folder), device="cpu")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        sides.append(list(model.children()))
    folder = tmp_path_factory.mktemp("separate")
    router = Router.for_query_document(query_modules=sides[0], document_modules=sides[1])
    SentenceTransformer(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder


def cosines(a, b):
    return (a * b).sum(axis=1)


def test_embeddings_are_those_of_sentence_transformers(tiny_encoder_folder, torch_encoder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder_folder), device="cpu")
    model.max_seq_length = 24
    want = model.encode(TEXTS)
    got = torch_encoder.encode(TEXTS)
    assert np.abs(got - want).max() < 1e-5
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (np.float32, (len(TEXTS), 32), True)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_order_and_company_make_no_difference(torch_encoder):
    together = torch_encoder.encode(TEXTS)
    alone = np.concatenate([torch_encoder.encode([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_windows_and_batches_join_seamlessly(torch_encoder, monkeypatch):
    want = torch_encoder.encode(TEXTS)
    monkeypatch.setattr("retrieval.engines.encoder.WINDOW", 2)
    encoder = TextEncoder(torch_encoder.tokenizer, torch_encoder._engine, torch_encoder.info, token_budget=5)
    assert np.abs(encoder.encode(TEXTS, progress="embedding") - want).max() < 1e-5


def test_no_texts_give_no_embeddings(torch_encoder):
    assert torch_encoder.encode([]).shape == (0, 32)


def test_batches_that_run_side_by_side_give_the_same_numbers(torch_encoder, exported):
    texts = [f"{text} {number}" for number in range(9) for text in TEXTS]
    bulk = open_encoder(exported, n_threads=2, bulk=True)
    assert np.abs(bulk.encode(texts) - torch_encoder.encode(texts)).max() < 1e-5
    assert bulk.fingerprint == torch_encoder.fingerprint


def test_an_error_in_a_batch_of_several_is_raised(torch_encoder):
    class Broken:
        def run(self, input_ids, attention_mask, token_type_ids):
            return np.zeros((len(input_ids), 3), dtype=np.float32)

    encoder = TextEncoder(torch_encoder.tokenizer, Broken(), torch_encoder.info, token_budget=5, n_parallel=2)
    with pytest.raises(ArtefactError, match="export this encoder again"):
        encoder.encode(TEXTS)


def test_bfloat16_is_close_and_says_that_it_differs(tiny_encoder_folder, torch_encoder):
    encoder = open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, device="cpu", precision="bf16")
    got, want = encoder.encode(TEXTS), torch_encoder.encode(TEXTS)
    assert cosines(got, want).min() > 0.999
    assert np.abs(got - want).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert (encoder.info.precision, encoder.fingerprint != torch_encoder.fingerprint) == ("bf16", True)


def test_padding_and_truncation_of_the_tokenizer_file_are_not_heeded(torch_encoder):
    meddled = Tokenizer.from_str(torch_encoder.tokenizer.to_str())
    meddled.enable_truncation(4)
    meddled.enable_padding(length=60)
    encoder = TextEncoder(meddled, torch_encoder._engine, torch_encoder.info)
    assert np.abs(encoder.encode(TEXTS) - torch_encoder.encode(TEXTS)).max() < 1e-5
    assert meddled.truncation["max_length"] == 4


def test_texts_are_cut_to_max_tokens(tiny_encoder_folder):
    encoder = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=5, device="cpu")
    # [CLS] red acme running [SEP]
    a, b = encoder.encode(["red acme running shoe", "red acme running pan mug"])
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_fp32_export_gives_the_numbers_and_the_fingerprint_of_torch(exported, torch_encoder):
    encoder = open_encoder(exported, n_threads=1)
    assert np.abs(encoder.encode(TEXTS) - torch_encoder.encode(TEXTS)).max() < 1e-5
    assert encoder.fingerprint == torch_encoder.fingerprint
    assert encoder.dim == torch_encoder.dim == 32


def test_int8_export_is_quantised_and_close_and_says_that_it_differs(gentle_folder, exported, tiny_items, tmp_path):
    titles = tiny_items.column("title")
    export_encoder(gentle_folder, tmp_path, role="item", precision="int8", calibration_texts=titles, max_tokens=24)
    got, want = open_encoder(tmp_path, n_threads=1), open_torch_encoder(gentle_folder, role="item", max_tokens=24)
    assert cosines(got.encode(titles), want.encode(titles)).min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(got.encode(TEXTS), axis=1), 1, atol=1e-3)
    assert got.fingerprint != want.fingerprint
    assert got.info.precision == "int8"
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 0.6 * (exported / WEIGHTS_FILE).stat().st_size
    assert "FakeQuantize" in (tmp_path / GRAPH_FILE).read_text(encoding="utf-8")


def test_separate_towers_are_told_apart_by_role(separate_towers, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(separate_towers), device="cpu")
    queries = open_torch_encoder(separate_towers, role="query", max_tokens=64, device="cpu")
    items = open_torch_encoder(separate_towers, role="item", max_tokens=64, device="cpu")
    assert np.abs(queries.encode(TEXTS) - model.encode_query(TEXTS)).max() < 1e-5
    assert np.abs(items.encode(TEXTS) - model.encode_document(TEXTS)).max() < 1e-5
    assert np.abs(queries.encode(TEXTS) - items.encode(TEXTS)).max() > 0.01
    assert queries.fingerprint != items.fingerprint
    options = {"precision": "fp32", "calibration_texts": TEXTS, "max_tokens": 64}
    export_encoder(separate_towers, tmp_path, role="query", **options)
    assert np.abs(open_encoder(tmp_path).encode(TEXTS) - queries.encode(TEXTS)).max() < 1e-5


def test_fingerprint_depends_on_weights_and_length_but_not_on_the_role_of_shared_towers(
    tiny_encoder_folder, separate_towers, torch_encoder
):
    def fingerprint(folder, role, max_tokens):
        return open_torch_encoder(folder, role=role, max_tokens=max_tokens, device="cpu").fingerprint

    assert fingerprint(tiny_encoder_folder, "query", 24) == torch_encoder.fingerprint
    assert fingerprint(tiny_encoder_folder, "item", 25) != torch_encoder.fingerprint
    assert fingerprint(separate_towers, "item", 24) != torch_encoder.fingerprint


def test_a_cut_encoder_gives_the_first_numbers_normalised_again(tiny_encoder_folder, torch_encoder, tmp_path):
    options = {"role": "item", "max_tokens": 24, "dim": 8}
    cut = open_torch_encoder(tiny_encoder_folder, device="cpu", **options)
    want = torch_encoder.encode(TEXTS)[:, :8]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert cut.dim == cut.info.dim == 8
    np.testing.assert_allclose(cut.encode(TEXTS), want, atol=1e-5)
    info = export_encoder(tiny_encoder_folder, tmp_path, precision="fp32", calibration_texts=TEXTS, **options)
    assert info.dim == 8
    assert np.abs(open_encoder(tmp_path).encode(TEXTS) - want).max() < 1e-5
    assert info.fingerprint == cut.fingerprint != torch_encoder.fingerprint


def test_the_whole_width_is_no_cut(tiny_encoder_folder, torch_encoder):
    whole = open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, dim=32, device="cpu")
    assert whole.fingerprint == torch_encoder.fingerprint
    with pytest.raises(ConfigError, match="at most 32"):
        open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, dim=33, device="cpu")


def test_exported_encoder_is_safe_for_several_threads(exported):
    encoder = open_encoder(exported, n_threads=1)
    titles = [f"{colour} {kind}" for colour in ("red", "blue", "green") for kind in ("mug", "hose", "steel pan")]
    want = encoder.encode(titles)
    faults = []

    def work(position):
        for _ in range(30):
            got = encoder.encode([titles[position]])[0]
            if np.abs(got - want[position]).max() > 1e-5:
                faults.append(position)

    threads = [threading.Thread(target=work, args=(position,)) for position in range(len(titles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_serving_an_exported_encoder_imports_no_torch(exported):
    code = (
        "import sys; from pathlib import Path; import retrieval.retriever; "
        "from retrieval.engines.encoder import open_encoder; "
        f"encoder = open_encoder(Path({str(exported)!r})); "
        "print(encoder.encode(['red mug']).shape, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 32) False False"


def test_a_folder_that_is_no_encoder_is_an_artefact_error(tmp_path):
    with pytest.raises(ArtefactError, match="train the retriever"):
        open_torch_encoder(tmp_path, role="item", max_tokens=8)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE, TOKENIZER_FILE, ENCODER_FILE])
def test_a_missing_or_broken_file_is_an_artefact_error(exported, tmp_path, name):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        open_encoder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError, match="build the bundle again"):
        open_encoder(tmp_path)


def test_another_format_version_is_refused(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / ENCODER_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(ArtefactError, match="format 2"):
        open_encoder(tmp_path)


def test_export_without_texts_is_refused(tiny_encoder_folder, tmp_path):
    with pytest.raises(ConfigError, match="at least one text"):
        export_encoder(tiny_encoder_folder, tmp_path, role="item", precision="fp32", calibration_texts=[], max_tokens=8)


class Broken:
    """An engine whose numbers cannot be used."""

    def __init__(self, width, number):
        self.width, self.number = width, number

    def run(self, input_ids, attention_mask, token_type_ids):
        return np.full((len(input_ids), self.width), self.number, dtype=np.float32)


@pytest.mark.parametrize(("width", "number", "message"), [(31, 0.1, r"\(1, 32\)"), (32, np.nan, "finite")])
def test_an_engine_that_returns_rubbish_is_an_artefact_error(torch_encoder, width, number, message):
    encoder = TextEncoder(torch_encoder.tokenizer, Broken(width, number), torch_encoder.info)
    with pytest.raises(ArtefactError, match=message):
        encoder.encode(["mug"])


def test_padding_is_masked():
    batch = pad([[5, 6, 7], [8]], pad_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert batch.input_ids.dtype == np.int64
    assert len(batch) == 2


def test_info_refuses_unknown_keys():
    with pytest.raises(ValueError, match="surprise"):
        EncoderInfo.model_validate(
            {"dim": 3, "max_tokens": 8, "fingerprint": "0", "precision": "fp32", "role": "item", "surprise": 1}
        )
