import numpy as np

from benchmarks import build
from benchmarks.build import FP32, INT8, PEER, SYSTEMS, Sample, Spread, markdown, measure


def one_hot(texts):
    return np.eye(12, dtype=np.float32)[[int(text) for text in texts]]


def test_a_spread_holds_the_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_every_system_embeds_every_shard_by_turns_and_is_compared_with_the_peer(monkeypatch):
    calls = []

    def system(name):
        def encode(texts):
            calls.append((name, len(texts)))
            vectors = one_hot(texts)
            if name == INT8:
                vectors[[text == "3" for text in texts]] *= -1
            return vectors

        return encode

    monkeypatch.setattr(build, "DEPTH", 1)
    monkeypatch.setattr(build, "open_systems", lambda *_: ({name: system(name) for name in SYSTEMS}, one_hot))
    texts = [str(number) for number in range(12)]
    sample = Sample(texts=texts, queries=["3", "4"], wanted=[np.array([3]), np.array([4])])
    results = measure(sample, rounds=4)
    assert calls[:3] == [(name, 12) for name in SYSTEMS]  # to warm up
    assert calls[3:9] == [(name, 3) for name in (PEER, FP32, INT8, FP32, INT8, PEER)]
    assert len(calls) == 3 + 4 * 3
    peer, fp32, int8 = results
    assert [result.name for result in results] == list(SYSTEMS)
    assert peer.speedup == Spread(median=1.0, low=1.0, high=1.0)
    assert (fp32.recall, fp32.recall_lost, fp32.cosine) == (1.0, 0.0, 1.0)
    # one of two queries loses its item; one of twelve embeddings points the other way
    assert (int8.recall, int8.recall_lost, int8.cosine) == (0.5, 0.5, round(10 / 12, 4))
    assert int8.recall_lost_error == round(1.96 * 0.5 / np.sqrt(2), 4)
    machine = {"n_cores": 2, "processor": "x", "load_average_before": [1, 1, 1], "load_average_after": [2, 2, 2]}
    page = markdown({"tests": results}, {"command": "c", "machine": machine}, 4, 3)
    assert page.count("| tests |") == 3
    assert "| 0.5000 | +0.5000 ±0.6930 | 0.8333 |" in page
