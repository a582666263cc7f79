import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from corpus.errors import ArtefactError, ConfigError
from corpus.items import ItemTable
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.fusion import FusionWeights
from retrieval.model_info import MODEL_FILE, RetrieverModelInfo, load_retriever_info
from retrieval.training.train import SETTINGS_FILE, TUNED_FILE, train_retriever
from retrieval.training.tuning import CHECKPOINTS, LOGS

ROOT = Path(__file__).parents[3]


def settings(folder: Path, **changes: object) -> RetrieverConfig:
    train: dict[str, object] = {
        "epochs": 3,
        "batch_size": 16,
        "n_uniform_negatives": 8,
        "learning_rate": 3e-3,
        "device": "cpu",
        "patience": 10,
        "checkpoint_minutes": 60,
    }
    train |= changes.pop("train", {})  # type: ignore[arg-type]
    return RetrieverConfig.model_validate(
        {"base_model": str(folder), "max_item_tokens": 32, "index": {"kind": "flat"}, "train": train, **changes}
    )


@pytest.fixture(scope="module")
def trained(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RetrieverModelInfo]:
    out = tmp_path_factory.mktemp("trained")
    info = train_retriever(tiny_prepared, settings(tiny_encoder_folder), out / "v1", cache=out / "cache")
    return out / "v1", info


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


def test_training_finds_more_than_the_untuned_model(
    trained, tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    _, info = trained
    idle = settings(tiny_encoder_folder, train={"max_steps": 1, "learning_rate": 1e-12}, fusion={"dense_weight": 1.0})
    untuned = train_retriever(tiny_prepared, idle, tmp_path / "v1", cache=tmp_path / "cache")
    assert info.metrics["MRR@10"] > untuned.metrics["MRR@10"] + 0.2


def test_a_finished_version_says_what_it_is_and_keeps_no_scaffolding(trained, tiny_prepared: Prepared):
    folder, info = trained
    assert load_retriever_info(folder) == info
    assert info.data_fingerprint == tiny_prepared.fingerprint
    assert info.dim == 32
    assert info.n_steps == 3 * -(-info.n_pairs // 16)
    assert info.fusion.fitted is not None
    assert info.fusion.weights == info.fusion.fitted.weights
    assert info.fusion.fitted.behaviour_alone.mrr > 0  # the training split's choices, which come again
    assert info.fusion.fitted.dense_alone.mrr == pytest.approx(info.metrics["MRR@10"])  # all 60 items are the sample
    assert sorted(path.name for path in folder.iterdir()) == sorted(["model", LOGS, MODEL_FILE])
    assert not [path for path in folder.rglob("*") if path.suffix in {".pt", ".pth", ".bin", ".pkl"}]


def test_tensorboard_holds_loss_learning_rate_and_figures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0] / LOGS))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "eval/MRR@10", "eval/hit@100"} <= tags
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    assert max(rates) <= 3e-3
    assert rates[-1] < max(rates)


def test_the_kept_model_is_the_best_one_not_the_last(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    """A learning rate that wrecks the model after its first evaluation: the best checkpoint comes back."""
    config = settings(
        tiny_encoder_folder,
        train={"learning_rate": 3.0, "warmup_share": 0.0, "epochs": 2, "patience": 2, "evaluations_per_epoch": 4},
        fusion={"dense_weight": 1.0},
    )
    info = train_retriever(tiny_prepared, config, tmp_path / "v1", cache=tmp_path / "cache")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "v1" / LOGS))
    events.Reload()
    figures = [event.value for event in events.Scalars("eval/MRR@10")]
    assert info.metrics["MRR@10"] == pytest.approx(max(figures))
    assert figures[-1] < max(figures)
    assert info.n_steps < 22  # stopped early


def test_the_same_seed_gives_the_same_weights(tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path):
    config = settings(tiny_encoder_folder, train={"max_steps": 5}, fusion={"dense_weight": 1.0})
    for name in ("v1", "v2"):
        train_retriever(tiny_prepared, config, tmp_path / name, cache=tmp_path / "cache")
    first, second = weights(tmp_path / "v1"), weights(tmp_path / "v2")
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name])


def test_the_fingerprint_follows_the_text_that_the_model_reads(
    trained, tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    config = settings(tiny_encoder_folder, train={"max_steps": 1, "learning_rate": 1e-12}, fusion={"dense_weight": 1.0})
    other = config.model_copy(update={"item_fields": ("title",)})
    prints = {
        train_retriever(tiny_prepared, chosen, tmp_path / name, cache=tmp_path / "cache").fingerprint
        for name, chosen in (("v1", config), ("v2", other))
    }
    assert len(prints | {trained[1].fingerprint}) == 3


def test_a_finished_folder_is_not_trained_over(trained, tiny_prepared: Prepared, tiny_encoder_folder: Path):
    with pytest.raises(ConfigError, match="finished"):
        train_retriever(tiny_prepared, settings(tiny_encoder_folder), trained[0], cache=trained[0] / "cache")


def test_separate_towers_train(tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path):
    config = settings(tiny_encoder_folder, towers="separate", train={"max_steps": 12})
    info = train_retriever(tiny_prepared, config, tmp_path / "v1", cache=tmp_path / "cache")
    assert info.fusion.fitted is not None
    assert info.fusion.fitted.dense_alone.mrr == pytest.approx(info.metrics["MRR@10"])


def test_without_validation_the_last_model_and_an_even_weight_are_kept(
    tiny_items: ItemTable, tiny_encoder_folder: Path, tmp_path: Path, write_examples, caplog: pytest.LogCaptureFixture
):
    prepared = write_examples(tmp_path / "data", tiny_items, n_examples=2)  # both for training
    config = settings(tiny_encoder_folder, train={"epochs": 1, "batch_size": 2})
    with caplog.at_level(logging.WARNING):
        info = train_retriever(prepared, config, tmp_path / "v1", cache=tmp_path / "cache")
    assert info.metrics == {}
    assert info.fusion.weights == FusionWeights(dense=0.5, behaviour=0.0)
    assert "no validation example" in caplog.text


def test_bf16_without_a_device_for_it_is_a_configuration_error(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    config = settings(tiny_encoder_folder, train={"precision": "bf16"})
    with pytest.raises(ConfigError, match="bfloat16"):
        train_retriever(tiny_prepared, config, tmp_path / "v1", cache=tmp_path / "cache")


SCRIPT = """
import sys
from pathlib import Path
import torch
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.training.train import train_retriever
torch.set_num_threads(1)
data, config, out = sys.argv[1:]
train_retriever(Prepared(Path(data)), RetrieverConfig.model_validate_json(config), Path(out), cache=Path(out) / "cache")
"""


def test_a_killed_training_goes_on_to_the_very_same_model(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    train = {"epochs": 4, "max_steps": 36, "evaluations_per_epoch": 2}
    config = settings(tiny_encoder_folder, train=train, fusion={"dense_weight": 1.0})
    hurried = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_minutes": 0.0})})
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(tiny_prepared.folder), hurried.model_dump_json(), str(out)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while (
        not list((out / CHECKPOINTS / "round-0").glob("checkpoint-1?/trainer_state.json"))
        and time.monotonic() < deadline
    ):
        assert child.poll() is None, child.stderr.read().decode()
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (out / MODEL_FILE).exists()

    with caplog.at_level(logging.INFO, logger="retrieval.training.tuning"):
        resumed = train_retriever(tiny_prepared, config, out, cache=tmp_path / "cache")
    assert "going on from checkpoint-" in caplog.text
    assert resumed.n_steps == 36
    whole = train_retriever(tiny_prepared, config, tmp_path / "whole", cache=tmp_path / "cache")
    assert resumed.metrics == whole.metrics
    once = weights(tmp_path / "whole")
    for name, tensor in weights(out).items():
        np.testing.assert_allclose(tensor, once[name], atol=1e-5, err_msg=name)


def mining(folder: Path, **train: object) -> RetrieverConfig:
    options = {"epochs": 1, "hard_negatives": 2, "mining_depth": 10, "mining_margin": 1.0, "learning_rate": 1e-3}
    return settings(folder, train=options | train, fusion={"dense_weight": 1.0})


def test_a_mined_round_follows_and_the_better_model_is_kept(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    plain = settings(tiny_encoder_folder, train={"epochs": 1, "learning_rate": 1e-3}, fusion={"dense_weight": 1.0})
    first = train_retriever(tiny_prepared, plain, tmp_path / "v1", cache=tmp_path / "cache")
    config = mining(tiny_encoder_folder, mining_epochs=2)
    mined = train_retriever(tiny_prepared, config, tmp_path / "v2", cache=tmp_path / "cache")
    assert mined.n_steps == 3 * first.n_steps
    assert mined.metrics["MRR@10"] > first.metrics["MRR@10"]
    assert list((tmp_path / "v2" / LOGS / "round-1").iterdir())
    assert not (tmp_path / "v2" / CHECKPOINTS).exists()


def test_a_round_that_brings_nothing_is_the_last(tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path):
    idle = mining(tiny_encoder_folder, learning_rate=1e-12, mining_rounds=3)
    info = train_retriever(tiny_prepared, idle, tmp_path / "v1", cache=tmp_path / "cache")
    assert info.n_steps == 2 * -(-info.n_pairs // 16)


def test_steps_are_limited_over_all_rounds(tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path):
    config = mining(tiny_encoder_folder, max_steps=13)
    assert train_retriever(tiny_prepared, config, tmp_path / "v1", cache=tmp_path / "cache").n_steps == 13


def test_a_mined_round_that_was_interrupted_goes_on_without_the_rounds_before(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = mining(tiny_encoder_folder)
    whole = train_retriever(tiny_prepared, config, tmp_path / "whole", cache=tmp_path / "cache")
    out = tmp_path / "stopped"

    def fail(*args: object, **kwargs: object) -> None:
        raise ArtefactError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.training.tuning.open_towers", fail)
        with pytest.raises(ArtefactError, match="stopped here"):
            train_retriever(tiny_prepared, config, out, cache=tmp_path / "cache")
    assert list((out / CHECKPOINTS / "round-1").glob("mined-*.safetensors"))
    monkeypatch.setattr("retrieval.training.tuning.load_towers", fail)  # the first round is not trained again
    monkeypatch.setattr("retrieval.training.tuning.mine_hard_negatives", fail)  # nor is mined again
    assert train_retriever(tiny_prepared, config, out, cache=tmp_path / "cache").metrics == whole.metrics
    once = weights(tmp_path / "whole")
    for name, tensor in weights(out).items():
        np.testing.assert_array_equal(tensor, once[name], err_msg=name)


def test_lora_leaves_a_plain_model_whose_linear_layers_alone_have_moved(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    """Its best checkpoint, not its last, included: what is kept is what was validated."""
    train = {"lora_rank": 2, "max_steps": 9, "evaluations_per_epoch": 4, "learning_rate": 1e-2, "hard_negatives": 1}
    info = train_retriever(tiny_prepared, settings(tiny_encoder_folder, train=train), tmp_path / "v1", cache=tmp_path)
    assert info.fusion.fitted is not None
    assert info.fusion.fitted.dense_alone.mrr == pytest.approx(info.metrics["MRR@10"])
    before, after = load_file(tiny_encoder_folder / "model.safetensors"), weights(tmp_path / "v1")
    assert before.keys() == after.keys()
    moved = {name for name, tensor in after.items() if not np.array_equal(tensor, before[name])}
    assert "encoder.layer.0.attention.self.query.weight" in moved
    assert "encoder.layer.1.output.dense.weight" in moved
    assert all(after[name].ndim == 2 and "embeddings" not in name for name in moved)


def test_widths_are_trained_and_the_chosen_one_is_validated_as_it_will_be_served(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    for name, dims in (("plain", []), ("nested", [4])):
        config = settings(tiny_encoder_folder, dim=4, train={"max_steps": 3, "matryoshka_dims": dims})
        info = train_retriever(tiny_prepared, config, tmp_path / name, cache=tmp_path / "cache")
        assert info.fusion.fitted is not None
        assert info.fusion.fitted.dense_alone.mrr == pytest.approx(info.metrics["MRR@10"])  # the sample is all items
        assert info.dim == 32  # the model's: a build may cut it elsewhere
    first, second = (weights(tmp_path / name)["embeddings.word_embeddings.weight"] for name in ("plain", "nested"))
    assert np.abs(first - second).max() > 1e-4


def interrupt_after_tuning(prepared: Prepared, config: RetrieverConfig, out: Path, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ArtefactError("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.training.train.fit_fusion", fail)
        with pytest.raises(ArtefactError, match="stopped here"):
            train_retriever(prepared, config, out, cache=out / "cache")


def test_tuned_towers_are_not_tuned_again(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = settings(tiny_encoder_folder, train={"max_steps": 2})
    interrupt_after_tuning(tiny_prepared, config, tmp_path / "v1", monkeypatch)
    assert (tmp_path / "v1" / TUNED_FILE).exists()
    before = (tmp_path / "v1" / "model" / "model.safetensors").stat().st_mtime_ns
    info = train_retriever(tiny_prepared, config, tmp_path / "v1", cache=tmp_path / "cache")
    assert info.n_steps == 2
    assert (tmp_path / "v1" / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("resume", [True, False])
def test_other_settings_or_a_fresh_start_begin_anew(
    tiny_prepared: Prepared,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resume: bool,
):
    config = settings(tiny_encoder_folder, train={"max_steps": 2})
    interrupt_after_tuning(tiny_prepared, config, tmp_path / "v1", monkeypatch)
    assert (tmp_path / "v1" / SETTINGS_FILE).exists()
    other = settings(tiny_encoder_folder, train={"max_steps": 3 if resume else 2})
    before = (tmp_path / "v1" / "model" / "model.safetensors").stat().st_mtime_ns
    info = train_retriever(tiny_prepared, other, tmp_path / "v1", cache=tmp_path / "cache", resume=resume)
    assert info.n_steps == (3 if resume else 2)
    assert (tmp_path / "v1" / "model" / "model.safetensors").stat().st_mtime_ns != before
    assert ("starting anew" in caplog.text) == resume
