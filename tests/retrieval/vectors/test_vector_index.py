from pathlib import Path

import faiss
import numpy as np
import pytest

from corpus.errors import ArtefactError, DimensionMismatch, InputError, UnknownItem
from retrieval.config import VectorIndexConfig
from retrieval.vectors.index_kinds import Breadth, one_thread, search_structure
from retrieval.vectors.vector_index import VectorIndex, open_vectors
from tests.retrieval.vectors.made_up import FLAT, HNSW, every_kind, exact, recall, unit


@pytest.fixture(scope="module")
def graph(vectors):
    return VectorIndex.build(vectors, HNSW)


def test_flat_index_matches_exact_search(vectors, queries):
    hits = VectorIndex.build(vectors, FLAT).search(queries, 10)
    want = exact(queries, vectors, 10)
    np.testing.assert_array_equal(hits.ids, want)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(queries @ vectors.T, want, 1), atol=1e-6)
    assert hits.ids.dtype == np.int64
    assert hits.scores.dtype == np.float32


def test_many_queries_in_many_cells_are_more_than_faiss_counts_and_are_cut():
    vectors, few = unit(4000, 384, seed=5), unit(20, 384, seed=6)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="ivf_rabitq"))
    everywhere = Breadth(ef_search=1, nprobe=index.n_cells)
    times = 2**31 // (4 * 384 * index.n_cells * len(few)) + 1  # beyond it, a call of FAISS's kills the process
    with one_thread():
        _, want = search_structure(index._structure, few, 5, everywhere, None)
        _, got = search_structure(index._structure, np.tile(few, (times, 1)), 5, everywhere, None)
    np.testing.assert_array_equal(got, np.tile(want, (times, 1)))


@every_kind
def test_every_kind_finds_nearly_all_that_exact_search_finds(config, queries, vectors, built):
    hits = built[config.kind].search(queries, 10)
    assert recall(hits.ids, exact(queries, vectors, 10)) >= 0.95


@every_kind
def test_scores_of_every_kind_are_exact(config, queries, vectors, built):
    hits = built[config.kind].search(queries, 10)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(queries @ vectors.T, hits.ids, 1), atol=1e-6)
    assert (np.diff(hits.scores) <= 0).all()


@every_kind
def test_every_kind_searches_exactly_and_knows_its_vectors(config, queries, vectors, built):
    index = built[config.kind].with_settings(ef_search=1, nprobe=1, refine_factor=1)
    np.testing.assert_array_equal(index.search(queries, 10, exact=True).ids, exact(queries, vectors, 10))
    np.testing.assert_array_equal(index.vectors_of(np.array([1999, 0, 3])), vectors[[1999, 0, 3]])


def test_rescoring_more_rows_finds_what_codes_alone_confuse(queries, vectors, built):
    want = exact(queries, vectors, 100)
    for kind in ("ivf_pq", "ivf_rabitq"):
        alone, rescored = (built[kind].with_settings(nprobe=51, refine_factor=factor) for factor in (1, 8))
        assert recall(alone.search(queries, 100).ids, want) < 0.8 < recall(rescored.search(queries, 100).ids, want)
        # who asks for ten gets the best of the hundred that the setting was tuned for
        np.testing.assert_array_equal(alone.search(queries, 10).ids, alone.search(queries, 100).ids[:, :10])


@pytest.fixture(scope="module")
def uneven():
    """Vectors that differ by four of their 24 numbers, nearly: one part of a code that is not rotated."""
    spread = np.where(np.arange(24) < 4, 1, 0.1).astype(np.float32)
    rows = np.random.default_rng(6).normal(size=(2000, 24)).astype(np.float32) * spread
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def unrotated(uneven):
    """Codes as bundles had them before they were rotated."""
    structure = faiss.index_factory(24, "IVF51,PQ6x4fs", faiss.METRIC_INNER_PRODUCT)
    structure.train(uneven)
    structure.add(uneven)
    return structure


def test_codes_are_rotated_so_that_each_part_tells_as_much(uneven, unrotated):
    config = VectorIndexConfig(kind="ivf_pq", nprobe=51, refine_factor=1)
    want = exact(uneven[:50], uneven, 100)
    rotated, plain = (
        index.search(uneven[:50], 100).ids
        for index in (VectorIndex.build(uneven, config), VectorIndex(unrotated, uneven, config))
    )
    assert recall(rotated, want) > recall(plain, want) + 0.2


def test_codes_of_centres_lead_to_the_same_cells_nearly(vectors, queries, built):
    structure = built["ivf_pq"]._structure
    cells, rotation = faiss.downcast_index(structure.index), structure.chain.at(0)
    assert isinstance(faiss.downcast_index(cells.quantizer), faiss.IndexPQFastScan)
    members = [faiss.rev_swig_ptr(cells.invlists.get_ids(i), cells.invlists.list_size(i)) for i in range(cells.nlist)]
    centres = np.array([vectors[ids].mean(axis=0) for ids in members])
    nearest = np.argsort(-(queries @ centres.T), axis=1)[:, :10]
    _, visited = cells.quantizer.search(rotation.apply(queries), 10)
    assert recall(visited, nearest) > 0.7  # by chance 0.2


def test_codes_of_earlier_bundles_are_searched_as_they_are(uneven, unrotated, tmp_path):
    faiss.write_index(unrotated, str(tmp_path / "vector.index"))
    config = VectorIndexConfig(kind="ivf_pq", nprobe=51, refine_factor=20)
    hits = VectorIndex.load(tmp_path / "vector.index", config, uneven).search(uneven[:50], 10)
    assert recall(hits.ids, exact(uneven[:50], uneven, 10)) > 0.95


@every_kind
def test_what_a_kind_heeds_is_a_number_and_what_it_does_not_is_none(config, built):
    heeded = {name for name in ("ef_search", "nprobe", "refine_factor") if getattr(built[config.kind].config, name)}
    assert (
        heeded
        == {
            "flat": set(),
            "flat_fp16": {"refine_factor"},
            "sq8": {"refine_factor"},
            "hnsw": {"ef_search"},
            "hnsw_sq8": {"ef_search", "refine_factor"},
            "ivf_flat": {"nprobe"},
            "ivf_pq": {"nprobe", "refine_factor"},
            "ivf_rabitq": {"nprobe", "refine_factor"},
        }[config.kind]
    )


def test_a_built_index_names_its_kind_where_auto_was_asked(vectors):
    assert VectorIndex.build(vectors, VectorIndexConfig()).config.kind == "flat"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [0, 1, 7, 100])
@every_kind
def test_search_returns_everything_without_padding_when_k_exceeds_the_size(config, n):
    index = VectorIndex.build(unit(n, 8, seed=3) if n else np.empty((0, 8), dtype=np.float32), config)
    rows, scores = index.search_one(unit(1, 8, seed=4)[0], 150)
    assert sorted(rows.tolist()) == list(range(n))
    assert (np.diff(scores) <= 0).all()
    assert index.search(unit(2, 8, seed=4), 150).ids.shape == (2, n)


def test_a_page_is_full_even_if_the_graph_leads_nowhere(vectors):
    # all edges cut: the graph reaches its entry point only
    index = VectorIndex.build(vectors[:100], HNSW)
    links = faiss.vector_to_array(index._structure.hnsw.neighbors)
    faiss.copy_array_to_vector(np.full_like(links, -1), index._structure.hnsw.neighbors)
    rows, _ = index.search_one(vectors[5], 20)
    np.testing.assert_array_equal(rows, exact(vectors[5:6], vectors[:100], 20)[0])
    assert (index.search(vectors[5:6], 20, complete=False).ids == -1).sum() == 19


def test_a_page_is_full_even_if_the_visited_cells_hold_too_little(vectors, queries, built):
    for kind in ("ivf_flat", "ivf_pq", "ivf_rabitq"):
        index = built[kind].with_settings(nprobe=1, refine_factor=1)
        assert (index.search(queries, 300, complete=False).ids[:, -1] == -1).all()
        np.testing.assert_array_equal(index.search(queries, 300).ids, exact(queries, vectors, 300))


def test_a_beam_narrower_than_k_still_fills_the_page(vectors):
    index = VectorIndex.build(vectors, HNSW.model_copy(update={"ef_search": 1}))
    rows, _ = index.search_one(vectors[0], 300)
    assert len(rows) == len(set(rows.tolist())) == 300


def test_equal_scores_come_in_row_order():
    vectors = np.tile(unit(1, 4, seed=5), (6, 1))
    rows, _ = VectorIndex.build(vectors, FLAT).search_one(vectors[0], 6)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def stored(vectors, tmp_path):
    np.save(tmp_path / "vectors.npy", vectors)
    return open_vectors(tmp_path / "vectors.npy")


@every_kind
def test_index_survives_a_round_trip(config, queries, built, stored, tmp_path):
    index, path = built[config.kind], tmp_path / "vector.index"
    index.save(path)
    loaded = VectorIndex.load(path, index.config, stored)
    assert (len(loaded), loaded.dim, loaded.config) == (2000, 24, index.config)
    found, again = index.search(queries, 7), loaded.search(queries, 7)
    np.testing.assert_array_equal(again.ids, found.ids)
    np.testing.assert_array_equal(again.scores, found.scores)
    # a flat index is its vectors; of all others the file is mapped, but FAISS reads codes in blocks into memory, which
    # the fast scans want, and of ivf_rabitq maps no more than the centres
    assert path.exists() == (config.kind != "flat")
    assert (str(path) in Path("/proc/self/maps").read_text()) == (config.kind not in ("flat", "ivf_pq"))


def test_the_file_of_a_graph_holds_no_vectors(built, tmp_path):
    # 2m links of 4 bytes at the bottom, 4 for the level, 8 for the offset, and rare upper levels
    built["hnsw"].save(tmp_path / "vector.index")
    assert 2000 * (8 * 16 + 12) < (tmp_path / "vector.index").stat().st_size < 2000 * (8 * 16 + 12 + 4 * 24 / 2)


def test_loading_another_kind_is_refused(built, stored, tmp_path):
    built["ivf_pq"].save(tmp_path / "vector.index")
    for kind in ("hnsw", "sq8", "ivf_flat", "ivf_rabitq"):
        with pytest.raises(ArtefactError, match=f"kind {kind} .* got IndexIVFPQFastScan"):
            VectorIndex.load(tmp_path / "vector.index", VectorIndexConfig(kind=kind), stored)
    with pytest.raises(ArtefactError, match="got auto"):
        VectorIndex.load(tmp_path / "vector.index", VectorIndexConfig(), stored)


def test_loading_another_metric_is_refused(stored, tmp_path):
    faiss.write_index(faiss.IndexScalarQuantizer(24, faiss.ScalarQuantizer.QT_8bit), str(tmp_path / "vector.index"))
    with pytest.raises(ArtefactError, match="inner-product"):
        VectorIndex.load(tmp_path / "vector.index", VectorIndexConfig(kind="sq8"), stored)


def test_an_index_of_other_vectors_is_refused(built, stored, tmp_path):
    built["hnsw"].save(tmp_path / "vector.index")
    with pytest.raises(ArtefactError, match=r"1,999 embeddings by 24 .* got 2,000 by 24"):
        VectorIndex.load(tmp_path / "vector.index", HNSW, stored[:1999])


@every_kind
def test_a_missing_or_truncated_file_is_an_artefact_error(config, built, stored, tmp_path):
    if config.kind == "flat":
        pytest.skip("a flat index has no file")
    path = tmp_path / "vector.index"
    with pytest.raises(ArtefactError, match="build the bundle again"):
        VectorIndex.load(path, config, stored)
    built[config.kind].save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        VectorIndex.load(path, config, stored)


def test_vectors_that_are_missing_cut_or_no_embeddings_are_refused(vectors, tmp_path):
    path = tmp_path / "vectors.npy"
    with pytest.raises(ArtefactError, match="build the bundle again"):
        open_vectors(path)
    for wrong in (vectors.astype(np.float64), vectors[0], np.asfortranarray(vectors)):
        np.save(path, wrong)
        with pytest.raises(ArtefactError, match="expected float32"):
            open_vectors(path)
    np.save(path, vectors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        open_vectors(path)


def test_saving_into_a_missing_folder_is_an_artefact_error(built, tmp_path):
    with pytest.raises(ArtefactError, match=r"missing/vector\.index, got: .*No such file.*; free or mend the disk"):
        built["sq8"].save(tmp_path / "missing" / "vector.index")


@pytest.mark.parametrize("kind", ["sq8", "hnsw", "ivf_pq"])
def test_a_full_disk_is_an_artefact_error_however_little_is_missing(built, kind):
    with pytest.raises(ArtefactError, match="No space left on device; free or mend the disk"):
        built[kind].save(Path("/dev/full"))


def test_bad_queries_are_refused(graph):
    with pytest.raises(DimensionMismatch):
        graph.search(np.zeros((1, 23), dtype=np.float32), 5)
    with pytest.raises(DimensionMismatch):
        graph.search_one(np.zeros((1, 24), dtype=np.float32), 5)
    with pytest.raises(InputError, match="finite"):
        graph.search_one(np.full(24, np.nan, dtype=np.float32), 5)
    with pytest.raises(InputError, match="at least 1"):
        graph.search_one(np.zeros(24, dtype=np.float32), 0)


def test_vectors_of_rows_outside_the_index_are_refused(graph):
    for row in (-1, 2000):
        with pytest.raises(UnknownItem, match="2000"):
            graph.vectors_of(np.array([0, row]))
    assert graph.vectors_of(np.array([], dtype=np.int64)).shape == (0, 24)
