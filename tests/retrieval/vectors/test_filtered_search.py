import numpy as np
import pytest

from corpus.errors import InputError
from retrieval.config import VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.vectors.vector_index import VectorIndex
from tests.retrieval.vectors.made_up import FLAT, every_kind, exact, recall, unit


@pytest.mark.parametrize("n_allowed", [3, 40, 700, 1600], ids=["fewer than k", "few", "many", "most"])
@pytest.mark.parametrize("rule", ["cheaper", "index"])
@every_kind
def test_search_among_some_rows_fills_the_page_with_the_best_of_them(
    vectors, queries, built, config, n_allowed, rule, monkeypatch
):
    if rule == "index":  # never by comparing with the allowed rows alone, unless the index finds too little
        monkeypatch.setattr(VectorIndex, "_comparisons", lambda *_: 0)
    rows = np.sort(np.random.default_rng(5).choice(2000, n_allowed, replace=False))
    hits = built[config.kind].search(queries, 10, allowed=RowSet.of(rows, 2000))
    want = rows[exact(queries, vectors[rows], 10)]
    assert hits.ids.shape == want.shape
    assert set(hits.ids.ravel()) <= set(rows)
    assert recall(hits.ids, want) >= (1 if config.kind == "flat" else 0.95)


def test_a_filtered_search_compares_with_the_allowed_rows_alone_where_that_is_cheaper(built, monkeypatch):
    def comparisons(kind, n_allowed, **settings):
        index = built[kind].with_settings(**settings)
        return index._comparisons(RowSet.of(np.arange(n_allowed), 2000), n_allowed / 2000)

    assert comparisons("hnsw", 200, ef_search=10) == 16 * 10 / 0.1  # m ef_search / share: exact is cheaper
    assert comparisons("hnsw", 1000, ef_search=10) == 16 * 10 / 0.5  # the graph is
    assert comparisons("ivf_flat", 200, nprobe=3) == comparisons("ivf_flat", 1000, nprobe=3) == 2000 * 3 / 51
    assert comparisons("ivf_pq", 200, nprobe=3) == 10_000  # an index is not worth it
    monkeypatch.setattr("retrieval.vectors.vector_index.FEW", 0)
    for kind, codes in (("ivf_pq", 16), ("ivf_rabitq", 4)):
        n_visited = 2000 * 3 / 51
        assert comparisons(kind, 1000, nprobe=3, refine_factor=2) == n_visited / 0.5 / codes + 200
        assert comparisons(kind, 20, nprobe=3, refine_factor=2) == 2000 / codes + 200  # all of them, and no more
    assert comparisons("sq8", 200) == 500


def test_the_cheaper_way_is_exact(vectors, queries, built):
    rows = np.arange(0, 2000, 20)  # 100: few
    index = built["ivf_pq"].with_settings(nprobe=3, refine_factor=1)
    hits = index.search(queries, 10, allowed=RowSet.of(rows, 2000))
    np.testing.assert_array_equal(hits.ids, rows[exact(queries, vectors[rows], 10)])


@pytest.fixture(scope="module")
def departments():
    """A catalogue of 30 departments, each a crowd of smaller ones, and searches in the first and in the last."""
    generator = np.random.default_rng(8)
    centres = unit(30, 32, 8)
    places = (centres[:, None] + 0.08 * generator.normal(size=(30, 60, 32))).reshape(-1, 32)

    def around(departments, noise):
        rows = places[departments * 60 + generator.integers(0, 60, len(departments))]
        rows = rows + noise * generator.normal(size=rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    of = np.repeat(np.arange(30), 1000)
    return around(of, 0.05), of, around(np.repeat([0, 29], 10), 0.06)


@pytest.mark.parametrize(
    "config",
    [
        VectorIndexConfig(kind="hnsw", m=16, ef_construction=60, ef_search=40),
        VectorIndexConfig(kind="ivf_flat", nprobe=25),
        VectorIndexConfig(kind="ivf_pq", nprobe=30, refine_factor=16),
        VectorIndexConfig(kind="ivf_rabitq", nprobe=25, refine_factor=8),
    ],
    ids=lambda config: config.kind,
)
def test_a_filter_that_rules_out_what_is_near_costs_no_recall(departments, config):
    vectors, of, queries = departments
    index = VectorIndex.build(vectors, config)
    allowed = RowSet(of >= 15)
    assert not index._cheaper_exactly(allowed, 0.5)  # so the index is searched
    near = index._shares_nearby(queries, allowed)
    assert near[:10].max() < 0.25
    assert set(near[10:]) == {0.5}
    hits = index.search(queries, 100, allowed=allowed)
    want = index.search(queries, 100, allowed=allowed, exact=True)
    found = np.mean(hits.scores >= want.scores[:, -1:] - 1e-6, axis=1)
    assert found[:10].mean() > 0.97
    assert found[10:].mean() > 0.97
    assert hits.ids.min() >= 0
    assert allowed.mask[hits.ids].all()


def test_rows_of_another_catalogue_are_refused(vectors, queries):
    with pytest.raises(InputError, match="catalogue of 2000 items, got ones of 5"):
        VectorIndex.build(vectors, FLAT).search(queries, 3, allowed=RowSet.of(np.array([1]), 5))
