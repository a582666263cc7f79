import json

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_indexes import check_indexes, made_up_vectors, top_rows
from benchmarks.gpu_models import open_stack, pairs_of, words
from corpus.errors import DeviceUnavailable


def test_a_dry_run_goes_through_every_check_and_says_that_it_proves_nothing(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(["--dry-run", "--out", str(out)])
    document = json.loads(out.read_text())
    assert document["proven"] is False
    assert document["machine"]["device"]
    checks = document["checks"]
    assert not {name: each for name, each in checks.items() if "failed" in each or "skipped" in each}
    for name in ("MiniLM-L6", "BERT-base"):
        assert checks[f"{name}: embedding"]["times_faster"] > 0
        assert checks[f"{name}: pairs"]["Tandem bf16"] > 0
        assert checks[f"{name}: rerank 6"]["Tandem bf16"]["p50"] > 0
        assert checks[f"{name}: end to end"]["n_items"] == 500
    indexes = checks["indexes of 500"]
    assert indexes["torch fp16"]["times_floor"] > 0
    assert indexes["FAISS flat"]["recall"] > 0.9  # its exact search against that of 16-bit numbers
    assert "GPU figures are unproven" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_only_a_dry_run_is_made(tmp_path):
    with pytest.raises(DeviceUnavailable, match="--dry-run"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert not (tmp_path / "gpu.json").exists()


def test_a_failing_check_leaves_the_others_and_late_ones_are_skipped(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "open_stack", broken)
    found = gpu.run(gpu.DRY, "cpu", tmp_path, tiny=True)
    assert "out of memory" in found["MiniLM-L6: open"]["failed"]
    assert found["bandwidth"]["bytes_per_s"] > 0
    assert "torch fp16" in found["indexes of 500"]
    late = gpu.run(gpu.GpuPlan(limit_s=-1.0), "cpu", tmp_path, tiny=True)
    assert all("no time left" in each["skipped"] for each in late.values())


def test_the_two_engines_read_the_same_and_agree(tmp_path):
    stack = open_stack("MiniLM-L6", tmp_path, "cpu", tiny=True)
    first, passages = words(1, 3, 3, seed=0)[0], words(5, 2, 9, seed=1)
    assert [len(text.split()) for text in words(3, 2, 2, seed=0)] == [2, 2, 2]
    pairs = pairs_of(stack, first, passages)
    batch = stack.scorer.batch(pairs, range(5))
    told = stack.plain_scorer.tokenizer([[first, text] for text in passages])["input_ids"]
    for line, ids in enumerate(told):
        assert batch.input_ids[line, : len(ids)].tolist() == ids
    want = stack.plain_scorer.predict([(first, text) for text in passages], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(stack.scorer.heads(pairs), want, atol=0.02)  # bf16
    np.testing.assert_allclose(stack.encoder.encode(passages), stack.plain_encoder.encode(passages), atol=0.02)


def test_embeddings_are_of_length_one_and_the_nearest_come_first():
    rows = made_up_vectors(50, 8, "cpu", seed=1)
    np.testing.assert_allclose(rows.norm(dim=1).numpy(), 1, atol=1e-5)
    want = np.argsort(-(rows[:2] @ rows.T).numpy(), axis=1)[:, :5]
    np.testing.assert_array_equal(top_rows(rows, rows[:2], 5), want)
    found = check_indexes(300, 16, "cpu", 1e9, n_searches=3, seed=0)
    assert found["floor_ms"] == round(1e3 * 2 * 300 * 16 / 1e9, 4)
    assert found["FAISS CAGRA"]
