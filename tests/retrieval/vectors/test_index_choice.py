import numpy as np
import pytest

from corpus.errors import ConfigError
from retrieval.config import VectorIndexConfig
from retrieval.vectors import index_choice
from retrieval.vectors.index_choice import bytes_per_item, choose_kind, n_cells, n_subvectors
from retrieval.vectors.vector_index import VectorIndex


def auto(budget_gib: float | None = 1000.0) -> VectorIndexConfig:
    return VectorIndexConfig(memory_budget_gib=budget_gib)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("flat", 1536),
        ("flat_fp16", 768),
        ("sq8", 384),
        ("hnsw", 1808),  # 1536 + 8 · 32 + 16
        ("hnsw_sq8", 656),
        ("ivf_flat", 1544),
        ("ivf_pq", 40),  # 64 halves of a byte, and 8 for the row
        ("ivf_rabitq", 64),  # 48 of bits, 8 of factors, 8 for the row
    ],
)
def test_bytes_per_item_of_minilm(kind, expected):
    assert bytes_per_item(kind, 384, 32) == expected


@pytest.mark.parametrize("kind", ["flat_fp16", "sq8", "hnsw", "hnsw_sq8", "ivf_flat", "ivf_pq", "ivf_rabitq"])
def test_files_are_as_large_as_the_arithmetic_says(kind, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(4000, 64)).astype(np.float32)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind=kind, m=8, ef_construction=10))
    index.save(tmp_path / "index")
    centre = {"ivf_flat": 4 * 64, "ivf_pq": 64 / 4, "ivf_rabitq": 4 * 64}.get(kind, 0)
    rotation = 4 * 64 * 64 if kind == "ivf_pq" else 0
    beside = 4 * 64 if kind == "hnsw" else 0  # the embeddings themselves
    found = ((tmp_path / "index").stat().st_size - centre * index.n_cells - rotation) / 4000 + beside
    # blocks of 32 codes leave gaps at the ends of 102 cells
    slack = 1.5 if kind in ("ivf_pq", "ivf_rabitq") else 1.03
    expected = bytes_per_item(kind, 64, 8)
    assert expected * 0.97 <= found <= expected * slack


def test_cells_are_the_power_of_two_nearest_to_ten_roots_with_39_items_each():
    # 10 √n: 1,000 and 3,162, which are too many; 10,000; 31,623
    assert [n_cells(10**power) for power in (4, 5, 6, 7)] == [256, 2564, 8192, 32768]
    assert [n_cells(n) for n in (0, 38, 39, 2000)] == [1, 1, 1, 51]


def test_embeddings_are_cut_into_64_parts_of_four_to_six_numbers_or_a_few_more():
    assert [n_subvectors(dim) for dim in (768, 384, 256, 128, 32, 30, 7, 3)] == [128, 64, 64, 32, 8, 6, 1, 1]


def test_auto_is_exact_for_small_stores_a_graph_for_middling_ones_and_codes_beyond():
    assert [choose_kind(auto(), n, 384) for n in (0, 20_000, 20_001, 2_000_000, 2_000_001)] == [
        "flat",
        "flat",
        "hnsw",
        "hnsw",
        "ivf_pq",
    ]


def test_auto_takes_the_first_kind_that_fits_the_budget():
    # a million items of 384 numbers: 1.684 GiB as a graph of whole embeddings, 0.611 of bytes, 0.037 of codes
    assert choose_kind(auto(1.69), 10**6, 384) == "hnsw"
    assert choose_kind(auto(1.68), 10**6, 384) == "hnsw_sq8"
    assert choose_kind(auto(0.62), 10**6, 384) == "hnsw_sq8"
    assert choose_kind(auto(0.61), 10**6, 384) == "ivf_pq"
    with pytest.raises(ConfigError, match=r"1,000,000 items by 384 .* 0\.03 GiB, got 0\.0373 GiB for ivf_pq; raise"):
        choose_kind(auto(0.03), 10**6, 384)


def test_auto_on_a_gpu_is_a_scan():
    assert choose_kind(VectorIndexConfig(device="gpu"), 10**9, 384) == "flat"


def test_auto_on_a_gpu_heeds_the_budget():
    # ten million items of 384 numbers of 16 bits: 7.153 GiB
    assert choose_kind(VectorIndexConfig(device="gpu", memory_budget_gib=7.16), 10**7, 384) == "flat"
    with pytest.raises(ConfigError, match=r"to fit 7\.1 GiB, got 7\.15 GiB for flat on a GPU; raise"):
        choose_kind(VectorIndexConfig(device="gpu", memory_budget_gib=7.1), 10**7, 384)


def test_without_a_budget_half_of_the_memory_counts(monkeypatch):
    monkeypatch.setattr(index_choice, "memory_bytes", lambda: 2 * 1808 * 10**6)
    assert choose_kind(auto(None), 10**6, 384) == "hnsw"
    assert choose_kind(auto(None), 10**6 + 1, 384) == "hnsw_sq8"


def test_a_kind_that_is_named_is_kept():
    assert choose_kind(VectorIndexConfig(kind="sq8", memory_budget_gib=1e-6), 10**7, 384) == "sq8"
