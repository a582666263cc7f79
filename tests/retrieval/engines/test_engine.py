import numpy as np
import pytest
import torch

from corpus.errors import ArtefactError, ConfigError, DeviceUnavailable
from retrieval.engines.engine import GRAPH_FILE, OpenVinoEngine, TokenBatch, even_rows, even_width
from retrieval.engines.export import export_openvino
from retrieval.engines.openvino_runtime import openvino_core
from retrieval.engines.torch_engine import EmbeddingModule, TorchEngine


def batch(n=3, length=6, seed=0):
    generator = np.random.default_rng(seed)
    ids = generator.integers(5, 60, (n, length))
    mask = np.ones_like(ids)
    mask[0, length // 2 :] = 0
    segments = np.zeros_like(ids)
    segments[:, length // 2 :] = 1
    return TokenBatch(input_ids=ids, attention_mask=mask, token_type_ids=segments)


def run(engine, tokens):
    return engine.run(tokens.input_ids, tokens.attention_mask, tokens.token_type_ids)


def request_of(engine):
    request = engine._idle.get()
    engine._idle.put(request)
    return request


@pytest.fixture(scope="module")
def pair_model(tiny_bert_folder):
    """A cross-encoder: one score per pair, as the reranker exports it."""
    from transformers import BertForSequenceClassification

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.model = BertForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=1)

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    return Scores().eval()


@pytest.fixture(scope="module")
def pair_folder(pair_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    export_openvino(pair_model, folder, precision="fp32", calibration=[batch()])
    return folder


@pytest.fixture(scope="module")
def int8_folder(pair_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    export_openvino(pair_model, folder, precision="int8", calibration=[batch(seed=seed) for seed in range(8)])
    return folder


def test_exported_graph_gives_the_numbers_of_torch_for_any_shape(pair_model, pair_folder):
    torch_engine, engine = TorchEngine(pair_model, "cpu"), OpenVinoEngine.load(pair_folder, n_threads=1)
    for n, length in ((1, 2), (3, 6), (17, 40), (2, 6)):
        tokens = batch(n, length, seed=n)
        want, got = run(torch_engine, tokens), run(engine, tokens)
        assert got.shape == want.shape == (n, 1)
        assert got.dtype == want.dtype == np.float32
        assert np.abs(got - want).max() < 1e-5


def test_segments_and_padding_reach_the_model(pair_folder):
    engine, tokens = OpenVinoEngine.load(pair_folder), batch()
    plain = run(engine, tokens)
    assert np.abs(engine.run(tokens.input_ids, tokens.attention_mask, 0 * tokens.token_type_ids) - plain).max() > 1e-3
    filler = np.where(tokens.attention_mask == 1, tokens.input_ids, 7)
    assert np.abs(engine.run(filler, tokens.attention_mask, tokens.token_type_ids) - plain).max() < 1e-6


def test_streams_side_by_side_give_the_numbers_of_one(pair_folder):
    from concurrent.futures import ThreadPoolExecutor

    one, two = OpenVinoEngine.load(pair_folder), OpenVinoEngine.load(pair_folder, n_threads=2, n_streams=2)
    batches = [batch(n=1 + seed % 5, length=4 + seed, seed=seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:  # more callers than streams
        got = list(pool.map(lambda tokens: run(two, tokens), batches))
    for tokens, answer in zip(batches, got, strict=True):
        np.testing.assert_allclose(answer, run(one, tokens), atol=1e-5)


@pytest.mark.parametrize(("n_threads", "is_pinned"), [(None, True), (1, False)])
def test_threads_are_pinned_only_where_they_have_all_cores(pair_folder, n_threads, is_pinned):
    request = request_of(OpenVinoEngine.load(pair_folder, n_threads=n_threads))
    assert request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is is_pinned


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_floats_are_computed_in_32_bits_also_on_cpus_with_bfloat16(pair_folder, int8_folder, kind):
    engine = OpenVinoEngine.load({"fp32": pair_folder, "int8": int8_folder}[kind])
    hint = request_of(engine).get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
    assert hint.get_type_name() == "f32"


def test_int8_leaves_the_tables_of_tokens_in_the_mapped_file(int8_folder):
    operations = openvino_core().read_model(str(int8_folder / GRAPH_FILE)).get_ops()
    looked_up = [each.input_value(0).get_node() for each in operations if each.get_type_name() == "Gather"]
    shapes = [node.get_output_partial_shape(0) for node in looked_up]
    tables = [node for node, shape in zip(looked_up, shapes, strict=True) if shape.is_static and len(shape) == 2]
    assert len(tables) >= 2  # tokens and segments; places need no looking up
    assert {(node.get_type_name(), node.get_element_type().get_type_name()) for node in tables} == {("Constant", "f32")}
    constants = [node for node in operations if node.get_type_name() == "Constant"]
    assert "i8" in {node.get_element_type().get_type_name() for node in constants}  # the products' weights


def test_graphs_read_few_sizes_of_batches(pair_folder, int8_folder):
    assert [even_rows(n) for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 12]
    for folder in (pair_folder, int8_folder):
        engine = OpenVinoEngine.load(folder)
        request = request_of(engine)
        tokens = batch(n=12)
        whole = run(engine, tokens)
        for n in (1, 3, 6):
            part = TokenBatch(**{name: getattr(tokens, name)[:n] for name in TokenBatch.__slots__})
            np.testing.assert_array_equal(run(engine, part), whole[:n])
            assert {request.get_input_tensor(port).shape[0] for port in range(3)} == {even_rows(n)}


def test_graphs_read_few_widths(pair_folder, int8_folder):
    assert [even_width(width) for width in (1, 8, 9, 16, 17, 33)] == [8, 8, 16, 16, 32, 48]
    for folder in (pair_folder, int8_folder):
        engine = OpenVinoEngine.load(folder)
        request = request_of(engine)
        widths = []
        for length in (3, 17, 32):
            run(engine, batch(length=length))
            widths += [request.get_input_tensor(port).shape[1] for port in range(3)]
        assert widths == [width for width in (8, 32, 32) for _ in range(3)]


def test_scores_do_not_hang_on_the_width_that_others_need(pair_folder, int8_folder):
    for folder in (pair_folder, int8_folder):
        engine, alone = OpenVinoEngine.load(folder), batch(n=5, length=13)
        want = run(engine, alone)
        assert len(np.unique(want)) == 5
        for more in (2, 4, 20):
            wider = [np.pad(getattr(alone, name), ((0, 0), (0, more))) for name in TokenBatch.__slots__]
            np.testing.assert_array_equal(engine.run(*wider), want)


def test_an_answer_survives_the_next_call(pair_folder):
    engine = OpenVinoEngine.load(pair_folder)
    first = run(engine, batch(seed=1))
    copy = first.copy()
    run(engine, batch(seed=2))
    np.testing.assert_array_equal(first, copy)


def test_arrays_of_other_types_and_layouts_are_taken(pair_folder):
    engine, tokens = OpenVinoEngine.load(pair_folder), batch()
    got = engine.run(
        np.asfortranarray(tokens.input_ids), tokens.attention_mask.astype(np.int32), tokens.token_type_ids.astype(bool)
    )
    np.testing.assert_allclose(got, run(engine, tokens), atol=1e-6)


def test_a_model_without_segments_can_be_exported(tiny_bert_folder, tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(1)
    config = DistilBertConfig(vocab_size=80, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    module = EmbeddingModule(DistilBertModel(config), "mean").eval()
    export_openvino(module, tmp_path, precision="fp32", calibration=[batch()])
    got, want = run(OpenVinoEngine.load(tmp_path), batch(seed=4)), run(TorchEngine(module, "cpu"), batch(seed=4))
    assert np.abs(got - want).max() < 1e-5


def test_cls_pooling_takes_the_first_token(tiny_bert_folder):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_bert_folder)
    got = run(TorchEngine(EmbeddingModule(model, "cls"), "cpu"), batch())
    tokens = batch()
    with torch.inference_mode():
        hidden = model(
            input_ids=torch.as_tensor(tokens.input_ids),
            attention_mask=torch.as_tensor(tokens.attention_mask),
            token_type_ids=torch.as_tensor(tokens.token_type_ids),
        ).last_hidden_state[:, 0]
    np.testing.assert_allclose(got, torch.nn.functional.normalize(hidden, dim=1).numpy(), atol=1e-5)


def test_an_unknown_pooling_is_refused(tiny_bert_folder):
    with pytest.raises(ArtefactError, match="mean or cls"):
        EmbeddingModule(torch.nn.Identity(), "max")


def test_exporting_calls_nobody_and_prints_nothing_to_standard_output(pair_model, tmp_path, capsys, monkeypatch):
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    sent = []
    monkeypatch.setattr("openvino_telemetry.main.Telemetry.send_event", lambda self, *event, **rest: sent.append(self))
    export_openvino(pair_model, tmp_path, precision="int8", calibration=[batch(seed=seed) for seed in range(4)])
    assert capsys.readouterr().out == ""
    assert [telemetry for telemetry in sent if telemetry.consent] == []


def test_export_needs_a_batch(pair_model, tmp_path):
    with pytest.raises(ConfigError, match="at least one batch"):
        export_openvino(pair_model, tmp_path, precision="fp32", calibration=[])


def test_a_broken_graph_is_an_artefact_error(pair_folder, tmp_path):
    for file in pair_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / GRAPH_FILE).write_text("<net/>")
    with pytest.raises(ArtefactError, match="build the bundle again"):
        OpenVinoEngine.load(tmp_path)


def test_an_unknown_device_is_said_so():
    with pytest.raises(DeviceUnavailable, match="device cpu"):
        TorchEngine(torch.nn.Linear(1, 1), "warp")
