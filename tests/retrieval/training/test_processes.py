import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.model_info import RetrieverModelInfo, load_retriever_info
from retrieval.passages import passages
from retrieval.training import processes
from retrieval.training.losses import InBatchSoftmaxLoss
from retrieval.training.pairs import PairCollator, TrainingPairs
from retrieval.training.processes import from_first, gather_shares, is_first, n_processes, share_of
from retrieval.training.towers import TowerTokenizer, load_towers
from retrieval.training.train import train_retriever

ROOT = Path(__file__).parents[3]

STEP = """
import sys
from pathlib import Path
import torch
from retrieval.training.processes import joined
sys.path.insert(0, sys.argv[5])
from test_processes import step
torch.set_num_threads(1)
with joined("cpu"):
    step(*sys.argv[1:5])
"""

TRAIN = """
import sys
from pathlib import Path
import torch
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.training.train import train_retriever
torch.set_num_threads(1)
data, config, out = sys.argv[1:]
info = train_retriever(
    Prepared(Path(data)), RetrieverConfig.model_validate_json(config), Path(out), cache=Path(out) / "cache"
)
sys.stdout.write(info.fingerprint + "\\n")  # at once: two processes share the stream
"""


def in_two_processes(tmp_path: Path, script: str, *arguments: str) -> str:
    """Run a script as torchrun runs it, in two processes; return what they print."""
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def settings(folder: Path, **train: object) -> RetrieverConfig:
    options = {"batch_size": 16, "n_uniform_negatives": 9, "learning_rate": 3e-3, "device": "cpu", "epochs": 1}
    return RetrieverConfig.model_validate(
        {"base_model": str(folder), "max_item_tokens": 32, "fusion": {"dense_weight": 1.0}, "train": options | train}
    )


def step(data: str, config_json: str, sizes: str, out: str) -> None:
    """Save the loss and the gradients of a batch of each size, one file per process."""
    prepared, config = Prepared(Path(data)), RetrieverConfig.model_validate_json(config_json)
    model = load_towers(config, device="cpu").eval()
    pairs = TrainingPairs.read(prepared)
    collator = PairCollator(
        pairs,
        passages(prepared.items, config.item_fields),
        config.train,
        query_tokenizer=TowerTokenizer(model, "query", config.max_query_tokens),
        item_tokenizer=TowerTokenizer(model, "item", config.max_item_tokens),
    )
    process = str(torch.distributed.get_rank()) if n_processes() > 1 else "alone"
    for size in sizes.split(","):
        batch = collator([{"pair": pair} for pair in range(int(size))])
        features = [
            {name.removeprefix(f"{side}_"): tensor for name, tensor in batch.items() if name.startswith(f"{side}_")}
            for side in ("query", "item")
        ]
        model.zero_grad()
        loss = InBatchSoftmaxLoss(model, temperature=0.1, chunk=config.train.cached_chunk)(features, batch["label"])
        loss.backward()
        processes.sum_gradients(model.parameters())
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        found |= {"loss": loss.detach(), "n_texts": torch.tensor(len(features[1]["input_ids"]))}
        save_file(found, Path(out) / f"{size}-{process}.safetensors")


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    """A batch of one pair leaves the second process without a query of its own."""
    config = settings(tiny_encoder_folder, cached_chunk=4, weighting="loss")
    arguments = [str(tiny_prepared.folder), config.model_dump_json(), "1,24", str(tmp_path)]
    step(*arguments)
    in_two_processes(tmp_path, STEP, *arguments, str(Path(__file__).parent))
    for size in (1, 24):
        alone = load_file(tmp_path / f"{size}-alone.safetensors")
        shares = [load_file(tmp_path / f"{size}-{rank}.safetensors") for rank in range(2)]
        assert sum(int(share["n_texts"]) for share in shares) == int(alone["n_texts"])
        assert max(float(gradient.abs().max()) for gradient in alone.values()) > 0.1
        for share in shares:
            assert share.keys() == alone.keys()
            for name in share.keys() - {"n_texts"}:
                torch.testing.assert_close(share[name], alone[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_trains(
    tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path
):
    """Validation, checkpoints, mining and a second round included."""
    config = settings(
        tiny_encoder_folder, hard_negatives=2, mining_margin=1.0, evaluations_per_epoch=2, checkpoint_minutes=0
    )
    alone = train_retriever(tiny_prepared, config, tmp_path / "alone", cache=tmp_path / "cache")
    out = tmp_path / "together"
    printed = in_two_processes(tmp_path, TRAIN, str(tiny_prepared.folder), config.model_dump_json(), str(out))
    together: RetrieverModelInfo = load_retriever_info(out)
    assert printed.split() == [together.fingerprint] * 2
    assert together.n_steps == alone.n_steps
    assert together.metrics == pytest.approx(alone.metrics, abs=0.01)
    assert sorted(path.name for path in out.iterdir()) == ["cache", "logs", "model", "model.json"]
    assert len(list((out / "logs").glob("events*"))) == 1
    want = load_file(tmp_path / "alone" / "model" / "model.safetensors")
    got = load_file(out / "model" / "model.safetensors")
    # softmax does not see a key's bias: its gradient is rounding noise, which Adam blows up to whole steps
    for name, tensor in ((name, tensor) for name, tensor in got.items() if not name.endswith("key.bias")):
        torch.testing.assert_close(tensor, want[name], atol=1e-3, rtol=1e-2, msg=name)


def test_alone_nothing_is_shared():
    vectors = torch.randn(3, 2)
    assert (n_processes(), is_first()) == (1, True)
    assert from_first(lambda: "made") == "made"
    assert range(3)[share_of(3)] == range(3)
    assert gather_shares(vectors, 3) is vectors


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8])
def test_shares_are_even_and_leave_nothing_out(n: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "n_processes", lambda: 3)
    shares = [list(range(n)[share_of(n, process)]) for process in range(3)]
    assert [text for share in shares for text in share] == list(range(n))
    assert np.ptp([len(share) for share in shares]) <= 1
