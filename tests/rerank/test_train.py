"""Training end to end on a tiny store whose shoppers' taste only their histories tell."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from corpus.errors import ConfigError, DeviceUnavailable, InputError
from corpus.prepared import EXAMPLE_SCHEMA, FORMAT_VERSION, Prepared
from rerank.config import HeadWeights, RerankerConfig
from rerank.cross_encoder import CrossEncoder, load_classifier
from rerank.history import item_names
from rerank.inputs import PassageTokens
from rerank.model_info import MODEL_FILE, RerankerModelInfo
from rerank.scorer import PairScorer, open_torch_scorer
from rerank.train import train_reranker
from rerank.validation import build_validation
from retrieval.engines.torch_engine import TorchEngine
from retrieval.passages import passages

ROOT = Path(__file__).parents[2]


def changed(config: RerankerConfig, **train: object) -> RerankerConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def run(
    prepared: Prepared, retriever: object, config: RerankerConfig, out: Path, **options: object
) -> RerankerModelInfo:
    return train_reranker(prepared, retriever, config, out, retriever_fingerprint="retriever", **options)  # type: ignore[arg-type]


def test_training_beats_the_order_of_retrieval(trained_info: RerankerModelInfo):
    metrics = trained_info.metrics
    assert metrics["mrr_at_10_retrieval"] < 0.5
    assert metrics["mrr_at_10_rerank_only"] > 0.75
    assert metrics["mrr_at_10"] > 0.75


def test_a_version_holds_the_model_its_logs_and_its_description_only(trained: Path, trained_info: RerankerModelInfo):
    assert {path.name for path in trained.iterdir()} == {"model", "logs", MODEL_FILE}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        path.name for path in (trained / "model").iterdir()
    }
    assert not list(trained.rglob("*.bin")) + list(trained.rglob("*.pt")) + list(trained.rglob("*.pkl"))
    assert trained_info.retriever_fingerprint == "retriever"
    assert trained_info.packages["torch"]
    assert trained_info.config.train.epochs == 12


def test_purchases_alone_teach_one_head(trained_info: RerankerModelInfo):
    assert trained_info.heads == ("purchase",)
    assert trained_info.head_weights == {"click": 0.0, "cart": 0.0, "purchase": 1.0}


def test_calibration_mends_the_probabilities_of_the_taught_head(trained_info: RerankerModelInfo):
    assert set(trained_info.probability_maps) == {"purchase"}
    assert trained_info.metrics["ece_purchase"] < 0.5 * trained_info.metrics["ece_purchase_uncalibrated"]
    assert "ece_click" not in trained_info.metrics


def test_metrics_tell_what_histories_are_worth(trained_info: RerankerModelInfo):
    metrics = trained_info.metrics
    assert metrics["mrr_at_10_with_history"] > metrics["mrr_at_10_without_history"] + 0.2
    assert metrics["mrr_at_10_with_history_of_1_to_2"] == metrics["mrr_at_10_with_history"]  # all have one event
    assert "mrr_at_10_with_history_of_3_to_8" not in metrics


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_every_head_is_taught_by_the_choices_of_its_kind(
    tiny_prepared: Prepared, word_retriever, tiny_config: RerankerConfig, tmp_path: Path, loss: str
):
    # the store knows clicks and purchases, no carts
    config = changed(tiny_config, max_steps=40, loss=loss).model_copy(
        update={"head_weights": HeadWeights(click=1.0, purchase=3.0)}
    )
    info = run(tiny_prepared, word_retriever, config, tmp_path / "v1")
    assert info.heads == ("click", "purchase")
    assert set(info.probability_maps) == {"click", "purchase"}
    assert info.head_weights == {"click": 0.25, "cart": 0.0, "purchase": 0.75}
    began = _fresh_heads(config)
    ended = load_file(tmp_path / "v1" / "model" / "model.safetensors")["classifier.weight"]
    moved = np.abs(ended - began).max(axis=1)
    by_decay = 40 * 0.01 * 5e-3 * np.abs(began).max()  # all that happens to an untaught head
    assert moved[1] < by_decay < moved[0] / 5
    assert by_decay < moved[2] / 5


def _fresh_heads(config: RerankerConfig) -> np.ndarray:
    from transformers import set_seed

    set_seed(config.train.seed)
    return load_classifier(config.base_model).classifier.weight.detach().numpy()


def test_weights_without_a_taught_head_are_refused(tasteful, word_retriever, tiny_config, tmp_path: Path):
    config = tiny_config.model_copy(update={"head_weights": HeadWeights(purchase=0.0)})
    with pytest.raises(ConfigError, match="head_weights"):
        run(tasteful, word_retriever, config, tmp_path / "v1")


def test_tensorboard_shows_loss_and_validation(trained: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "logs"))
    events.Reload()
    losses = [scalar.value for scalar in events.Scalars("train/loss")]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    assert len(events.Scalars("eval/mrr_at_10")) == 12


def test_a_finished_version_is_not_trained_over(trained: Path, tasteful: Prepared, word_retriever, tiny_config):
    with pytest.raises(ConfigError, match="finished"):
        run(tasteful, word_retriever, tiny_config, trained)


def test_a_killed_training_goes_on_and_ends_where_an_undisturbed_one_does(
    tasteful: Prepared, tiny_config: RerankerConfig, word_retriever, tmp_path: Path
):
    config = changed(tiny_config, max_steps=25, checkpoint_minutes=0.0)
    (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    script = f"""
import importlib.util
from pathlib import Path
from corpus.prepared import Prepared
from rerank.config import RerankerConfig
from rerank.train import train_reranker
spec = importlib.util.spec_from_file_location("fixtures", {str(Path(__file__).with_name("conftest.py"))!r})
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)
prepared = Prepared(Path({str(tasteful.folder)!r}))
config = RerankerConfig.model_validate_json(Path({str(tmp_path / "config.json")!r}).read_text())
retriever = fixtures.WordRetriever(prepared.items)
train_reranker(prepared, retriever, config, Path({str(killed)!r}), retriever_fingerprint="retriever")
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    run(tasteful, word_retriever, changed(config, checkpoint_minutes=10.0), undisturbed)  # meanwhile
    while process.poll() is None and not list((killed / "checkpoints").glob("checkpoint-1?/trainer_state.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not (killed / MODEL_FILE).exists()
    states = [json.loads(p.read_text()) for p in (killed / "checkpoints").glob("*/trainer_state.json")]
    assert max(state["global_step"] for state in states) >= 10

    info = run(tasteful, word_retriever, config, killed)
    assert info.metrics["n_steps"] == 25
    got, want = (load_file(folder / "model" / "model.safetensors") for folder in (killed, undisturbed))
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5, err_msg=name)
    assert not (killed / "checkpoints").exists()
    assert _logged_steps(killed, "train/loss") == list(range(1, 26))


def _logged_steps(folder: Path, tag: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps: set[int] = set()
    for path in (folder / "logs").iterdir():
        events = EventAccumulator(str(path))
        events.Reload()
        steps.update(scalar.step for scalar in events.Scalars(tag))
    return sorted(steps)


def test_only_the_first_layers_are_kept_where_asked(tiny_bert_folder: Path):
    assert load_classifier(str(tiny_bert_folder), n_layers=1).config.num_hidden_layers == 1
    with pytest.raises(ConfigError, match="at most 2"):
        load_classifier(str(tiny_bert_folder), n_layers=3)


def test_steps_are_capped_and_the_end_is_validated(tasteful, word_retriever, tiny_config, tmp_path: Path):
    info = run(tasteful, word_retriever, changed(tiny_config, max_steps=3), tmp_path / "v1")
    assert info.metrics["n_steps"] == 3
    assert info.metrics["mrr_at_10"] > 0


def test_early_stopping_keeps_the_best_validation(tasteful, word_retriever, tiny_config, tmp_path: Path):
    # too small a step to change any order: the first validation stays the best
    config = changed(tiny_config, learning_rate=1e-12, epochs=5, patience=1, max_examples=60)
    info = run(tasteful, word_retriever, config, tmp_path / "v1")
    assert info.metrics["epoch"] == 1
    assert len(_logged_steps(tmp_path / "v1", "eval/mrr_at_10")) == 2


def test_a_student_learns_its_teachers_scores(
    trained: Path, trained_info: RerankerModelInfo, tasteful: Prepared, word_retriever, tiny_config, tmp_path: Path
):
    config = changed(tiny_config, epochs=4).model_copy(update={"teacher": "v1", "n_layers": 1})
    info = run(tasteful, word_retriever, config, tmp_path / "v2", teacher=trained)
    assert info.teacher_fingerprint == trained_info.fingerprint
    assert (info.base_model, info.heads) == ("v1", ("purchase",))
    assert info.n_parameters < trained_info.n_parameters
    began = load_file(trained / "model" / "model.safetensors")
    assert not [name for name in load_file(tmp_path / "v2" / "model" / "model.safetensors") if name not in began]

    teacher, student = (open_torch_scorer(folder, device="cpu") for folder in (trained, tmp_path / "v2"))
    untaught = PairScorer(
        TorchEngine(CrossEncoder(load_classifier(str(trained / "model"), n_layers=1)), "cpu"),
        teacher.tokenizer,
        trained_info.head_weights,
    )
    names = item_names(tasteful.items)
    tokens = PassageTokens.build(teacher.tokenizer, passages(tasteful.items, config.item_fields), 16)
    validation = build_validation(tasteful, word_retriever, teacher.tokenizer, tokens, names, config)
    want, before, after = (validation.score(scorer)[validation.known] for scorer in (teacher, untaught, student))
    assert np.corrcoef(want, after)[0, 1] > max(0.7, np.corrcoef(want, before)[0, 1] + 0.1)


def test_a_teacher_of_other_candidates_or_inputs_is_refused(
    trained: Path, tasteful: Prepared, word_retriever, tiny_config, tmp_path: Path
):
    config = tiny_config.model_copy(update={"teacher": "v1", "n_layers": 1})
    with pytest.raises(ConfigError, match="another's"):
        train_reranker(
            tasteful, word_retriever, config, tmp_path / "v2", retriever_fingerprint="other", teacher=trained
        )
    config = config.model_copy(update={"max_item_tokens": 12})
    with pytest.raises(ConfigError, match="max_item_tokens; set"):
        run(tasteful, word_retriever, config, tmp_path / "v2", teacher=trained)


def test_too_long_token_budgets_are_refused_before_training(tasteful, word_retriever, tiny_config, tmp_path: Path):
    config = tiny_config.model_copy(update={"max_history_tokens": 200})
    with pytest.raises(ConfigError, match="at most 128"):
        run(tasteful, word_retriever, config, tmp_path / "v1")


def test_bfloat16_is_refused_where_no_device_has_it(tasteful, word_retriever, tiny_config, tmp_path: Path):
    with pytest.raises(DeviceUnavailable, match="auto"):
        run(tasteful, word_retriever, changed(tiny_config, precision="bf16"), tmp_path / "v1")


def test_a_missing_base_model_is_a_configuration_error(tasteful, word_retriever, tiny_config, tmp_path: Path):
    config = tiny_config.model_copy(update={"base_model": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match="nowhere"):
        run(tasteful, word_retriever, config, tmp_path / "v1")


def test_data_without_choices_is_refused(tiny_items, word_retriever, tiny_config, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    tiny_items.write(folder / "items.parquet")
    pl.DataFrame([], schema=EXAMPLE_SCHEMA).write_parquet(folder / "examples.parquet")
    (folder / "manifest.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "fingerprint": "0"}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="tandem prepare"):
        run(Prepared(folder), word_retriever, tiny_config, tmp_path / "v1")


def test_without_validation_searches_the_last_epoch_is_kept(
    tasteful: Prepared, word_retriever, tiny_config, tmp_path: Path
):
    folder = tmp_path / "data"
    folder.mkdir()
    tasteful.items.write(folder / "items.parquet")
    frame = pl.read_parquet(tasteful.folder / "examples.parquet")
    frame.filter(pl.col("split") == "train").write_parquet(folder / "examples.parquet")
    (folder / "manifest.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "fingerprint": "1"}), encoding="utf-8"
    )
    info = run(Prepared(folder), word_retriever, changed(tiny_config, max_steps=2), tmp_path / "v1")
    assert info.score_weights == {"rerank": 1.0, "retrieval": 0.0}
    assert "mrr_at_10" not in info.metrics
    assert info.probability_maps == {}


def test_a_reranker_can_start_from_the_retrievers_weights(
    tasteful, word_retriever, tiny_config, tiny_encoder_folder: Path, tmp_path: Path
):
    config = changed(tiny_config, max_steps=1, learning_rate=1e-9).model_copy(update={"base_model": "retriever"})
    with pytest.raises(ConfigError, match="shared encoder"):
        run(tasteful, word_retriever, config, tmp_path / "v1")
    train_reranker(
        tasteful,
        word_retriever,
        config,
        tmp_path / "v2",
        retriever_fingerprint="retriever",
        retriever_model=tiny_encoder_folder,
    )
    name = "embeddings.word_embeddings.weight"
    began = load_file(tiny_encoder_folder / "model.safetensors")
    ended = load_file(tmp_path / "v2" / "model" / "model.safetensors")
    np.testing.assert_allclose(ended[f"bert.{name}"], began[name], atol=1e-6)
