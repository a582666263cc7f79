from itertools import pairwise

import numpy as np
import pytest

from corpus.errors import ArtefactError
from retrieval.config import VectorIndexConfig
from retrieval.vectors.index_tuning import build_tuned, cheapest, measure_recall, narrow, sweep, tune
from retrieval.vectors.tuning_point import TuningPoint
from retrieval.vectors.vector_index import VectorHits, VectorIndex


def unit_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


QUERIES = unit_vectors(40, 24, 2)


@pytest.fixture(scope="module")
def vectors():
    return unit_vectors(3000, 24, 1)


@pytest.fixture(scope="module")
def codes(vectors):
    return VectorIndex.build(vectors, VectorIndexConfig(kind="ivf_pq"))


def point(recall, ms, nprobe, refine_factor=None):
    return TuningPoint(ef_search=None, nprobe=nprobe, refine_factor=refine_factor, recall=recall, ms_per_query=ms)


def test_an_exact_index_has_full_recall(vectors):
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="flat"))
    assert measure_recall(index, QUERIES) == 1.0


def test_recall_is_the_share_of_exact_neighbours_that_were_found(vectors):
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=2, ef_construction=4, ef_search=1))
    exact = np.argsort(-(QUERIES @ vectors.T), axis=1)[:, :100]
    found = index.search(QUERIES, 100, complete=False).ids
    by_hand = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert by_hand < 0.9  # the graph is meant to be bad
    assert measure_recall(index, QUERIES) == pytest.approx(by_hand)


def test_what_an_exact_search_had_to_complete_was_not_found(codes):
    # one cell of 76 holds about 40 of 3,000 rows
    assert measure_recall(codes.with_settings(nprobe=1), QUERIES) < 0.4


def test_items_of_equal_text_are_one_as_good_as_the_other():
    class Reversed(VectorIndex):
        def search(self, queries, k, *, exact=False, complete=True):
            hits = super().search(queries, len(self), exact=True)
            order = np.arange(k) if exact else np.arange(len(self))[::-1][:k]
            return VectorHits(ids=hits.ids[:, order], scores=hits.scores[:, order])

    same = np.repeat(unit_vectors(1, 8, 1), 250, axis=0)
    index = VectorIndex.build(same, VectorIndexConfig(kind="flat"))
    index.__class__ = Reversed
    assert not set(index.search(same[:1], 100).ids[0]) & set(index.search(same[:1], 100, exact=True).ids[0])
    assert measure_recall(index, same[:1]) == 1.0


@pytest.mark.parametrize("kind", ["flat", "flat_fp16", "sq8", "hnsw", "hnsw_sq8", "ivf_flat", "ivf_pq", "ivf_rabitq"])
def test_a_catalogue_below_the_depth_is_tuned_as_well(kind):
    config = VectorIndexConfig(kind=kind)
    tuned = tune(VectorIndex.build(unit_vectors(7, 8, 1), config), unit_vectors(5, 8, 2), 1.0, config)
    assert (len(tuned.curve), tuned.chosen.recall) == (1, 1.0)


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat", "ivf_pq", "ivf_rabitq", "hnsw_sq8", "sq8"])
def test_the_setting_kept_reaches_the_minimum_and_no_cheaper_one_does(vectors, kind):
    config = VectorIndexConfig(kind=kind, m=4, ef_construction=20)
    index = VectorIndex.build(vectors, config)
    tuned = tune(index, QUERIES, 0.9, config)
    assert tuned.chosen in tuned.curve
    assert measure_recall(tuned.index, QUERIES) == tuned.chosen.recall >= 0.9
    settings = tuned.index.config
    assert (settings.ef_search, settings.nprobe, settings.refine_factor) == (
        tuned.chosen.ef_search,
        tuned.chosen.nprobe,
        tuned.chosen.refine_factor,
    )
    for name in ("ef_search", "nprobe", "refine_factor"):
        if (value := getattr(settings, name)) and value > 1 and (name != "ef_search" or value > 100):
            narrower = index.with_settings(
                **{each: getattr(settings, each) for each in ("ef_search", "nprobe", "refine_factor")}
                | {name: value // 2}
            )
            assert measure_recall(narrower, QUERIES) < 0.9


def test_a_setting_that_is_configured_is_kept(codes):
    config = VectorIndexConfig(kind="ivf_pq", nprobe=60)
    points = sweep(codes, QUERIES, 0.9, config)
    assert {each.nprobe for each in points} == {60}
    assert [each.refine_factor for each in points] == [1, 2, 4, 8][: len(points)]
    assert points[-1].recall >= 0.9 > points[-2].recall
    tuned = tune(codes, QUERIES, 0.5, VectorIndexConfig(kind="ivf_pq", refine_factor=5))
    assert {each.refine_factor for each in tuned.curve} == {5}


def test_no_setting_is_measured_that_cannot_be_the_cheapest(codes):
    points = sweep(codes, QUERIES, 0.99, VectorIndexConfig(kind="ivf_pq"))
    settings = [(each.refine_factor, each.nprobe) for each in points]
    assert len(settings) == len(set(settings)) < 6 * 8
    reached = [each for each in points if each.recall >= 0.99]
    assert reached
    assert all(later.nprobe < first.nprobe for first, later in pairwise(reached))
    doubled = {1, 2, 4, 8, 16, 32, 64, codes.n_cells}
    assert len({each.nprobe for each in points} - doubled) >= 2  # narrowed between two of them
    # one cell has what it has: once a greater factor found no more there, no still greater one is tried
    single = [each.recall for each in points if each.nprobe == 1]
    assert len(single) <= 3
    assert single[-1] - single[-2] < 0.001


def test_of_settings_that_reach_the_recall_the_fastest_is_kept_and_none_that_another_undercuts():
    curve = [point(0.8, 0.1, 1, 1), point(0.99, 5.0, 8, 4), point(0.99, 3.0, 4, 8), point(0.99, 0.2, 8, 8)]
    assert cheapest(curve, 0.99) == curve[2]
    assert cheapest(curve, 0.5) == curve[0]
    assert cheapest(curve, 0.999) is None


def test_too_little_recall_is_refused_with_the_remedy(vectors):
    config = VectorIndexConfig(kind="hnsw", m=2, ef_construction=4)
    index = VectorIndex.build(vectors, config)
    with pytest.raises(ArtefactError, match=r"at least 1 .* got 0\.\d+ with ef_search = 2048; raise .*ef_construction"):
        tune(index, QUERIES, 1.0, config)
    named = config.model_copy(update={"ef_search": 100})
    with pytest.raises(ArtefactError, match=r"with ef_search = 100; leave retriever\.index\.ef_search to the build"):
        tune(index, QUERIES, 1.0, named)


@pytest.mark.parametrize(
    ("needed", "found", "tried"),
    [(1025, 1218, [1448, 1218]), (1300, 1448, [1448, 1218]), (1500, 1722, [1448, 1722]), (2048, 2048, [1448, 1722])],
)
def test_a_breadth_is_narrowed_between_one_that_falls_short_and_its_double(needed, found, tried):
    asked = []

    def recall_of(breadth):
        asked.append(breadth)
        return 0.99 if breadth >= needed else 0.98

    assert narrow(1024, 2048, 0.99, recall_of) == found
    assert asked == tried


@pytest.mark.parametrize(("short", "reaching"), [(0, 1), (0, 64), (1, 2)])
def test_where_there_is_nothing_between_nothing_is_measured(short, reaching):
    assert narrow(short, reaching, 0.99, lambda breadth: pytest.fail(f"measured {breadth}")) == reaching


def test_a_graph_that_falls_short_gives_way_to_cells_if_the_kind_is_left_to_choose(caplog):
    vectors = unit_vectors(20_001, 24, 3)  # the fewest for a graph
    config = VectorIndexConfig(m=2, ef_construction=4)
    tuned = build_tuned(vectors, QUERIES, 0.9, config)
    assert tuned.index.config.kind == "ivf_pq"
    assert tuned.chosen.recall >= 0.9
    assert tuned.chosen.nprobe is not None
    assert "hnsw gives way to ivf_pq: expected ann_recall@100 of at least 0.9" in caplog.text
    with pytest.raises(ArtefactError, match=r"at least 0\.9 "):
        build_tuned(vectors, QUERIES, 0.9, config.model_copy(update={"kind": "hnsw"}))
    assert build_tuned(vectors, QUERIES, 0.9, VectorIndexConfig()).index.config.kind == "hnsw"
