import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ConfigError, TooLittleData
from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.blend import open_blend, predict
from rerank.blend_info import BLEND_FILE, FIRST_FILE, SECOND_FILE, BlendInfo, read_blend_info
from rerank.blend_lists import BlendList, collect_blend_lists, folds
from rerank.blend_training import FirstStage, _figures, _final_if_read, _fit, _fit_second, train_blend
from rerank.features import FEATURES, RERANK_FEATURES, rerank_features
from rerank.pruning import fit_reach, pruned, reaches_to_try
from retrieval.candidates import Candidates
from tests.rerank.conftest import TINY_BLEND, TasteReader


@pytest.fixture
def train(tasteful: Prepared, word_retriever, tasteful_behaviour, tiny_items: ItemTable):
    stage = FirstStage(
        retriever=word_retriever, behaviour=tasteful_behaviour, fingerprint="retriever", channels="channels"
    )

    def train(out: Path, *, data: Prepared = tasteful, reader: TasteReader | None = None, **settings: object):
        config = TINY_BLEND.model_copy(update=settings)
        reader = reader or TasteReader(tiny_items)
        return train_blend(data, stage, reader, config, out, reranker_fingerprint="reranker")

    return train


@pytest.fixture(scope="module")
def info(trained_blend: Path) -> BlendInfo:
    return read_blend_info(trained_blend)


def test_trees_learn_the_shoppers_brand_that_retrieval_cannot_see(info: BlendInfo):
    assert info.metrics["first_ndcg_at_10"] > info.metrics["retrieval_ndcg_at_10"] + 0.15
    assert info.metrics["first_mrr_at_10"] > info.metrics["retrieval_mrr_at_10"] + 0.15
    assert info.importance["brand_affinity"] > 0.1  # of those with a history
    assert info.importance["query_share"] > 0.1  # of those without: kiri is what they all buy


def test_figures_where_the_cross_encoder_read_stand_side_by_side(info: BlendInfo):
    names = {"first_where_read", "linear_where_read", "final_where_read", "retrieval", "first"}
    figures = {f"{name}_{measure}" for name in names for measure in ("ndcg_at_10", "mrr_at_10")}
    assert set(info.metrics) == figures | {"pruning_lost", "pruning_n_read"}
    assert all(0 < info.metrics[name] <= 1 for name in figures)
    # what likes kiri alone is no match for trees that also know the shopper
    assert info.metrics["final_where_read_ndcg_at_10"] > info.metrics["linear_where_read_ndcg_at_10"]


def test_a_finished_version_says_what_it_is(info: BlendInfo, trained_blend: Path, tasteful: Prepared, extractor):
    assert sorted(path.name for path in trained_blend.iterdir()) == sorted([FIRST_FILE, BLEND_FILE, SECOND_FILE])
    assert (info.retriever_fingerprint, info.reranker_fingerprint) == ("retriever", "reranker")
    assert info.data_fingerprint == tasteful.fingerprint
    assert info.config == TINY_BLEND
    assert info.features == FEATURES
    assert info.rerank_features == RERANK_FEATURES
    searches = tasteful.examples("valid", part="fitting")
    assert info.n_searches == len(searches)  # copies without a history not counted
    assert info.n_reranked == TINY_BLEND.max_reranked
    assert all(1 <= n <= TINY_BLEND.max_trees for n in info.n_trees)
    assert sum(info.importance.values()) == pytest.approx(1.0, abs=0.01)
    assert set(info.packages) == {"lightgbm", "numpy", "scipy"}
    assert open_blend(trained_blend, extractor).info == info


def test_the_same_seed_gives_the_same_trees_and_another_seed_others(info: BlendInfo, train, tmp_path: Path):
    again = train(tmp_path / "again")
    assert again == info
    assert train(tmp_path / "other", seed=99).fingerprint != info.fingerprint


def test_the_cross_encoder_reads_the_firsts_best_of_the_lists_allowed(
    train, tiny_items: ItemTable, tasteful: Prepared, tmp_path: Path, word_retriever
):
    reader = TasteReader(tiny_items)
    train(tmp_path / "v1", reader=reader, max_reranked=25, rerank_depth=3)
    assert len(reader.read) == 25
    retrieved_first = 0
    for query, _, rows in reader.read:
        found = word_retriever.retrieve(query, TINY_BLEND.depth).rows.tolist()
        assert len(rows) == len(set(rows)) == 3
        assert set(rows) <= set(found)
        retrieved_first += rows == found[:3]
    assert retrieved_first < 15  # the order is the trees', not that of retrieval


def test_reading_nothing_leaves_the_rerank_features_unused(train, tiny_items: ItemTable, tmp_path: Path):
    info = train(tmp_path / "v1", rerank_depth=0)
    assert [info.importance[name] for name in RERANK_FEATURES] == [0.0] * len(RERANK_FEATURES)


def test_within_a_page_there_is_nothing_to_leave_unread(info: BlendInfo):
    assert info.reach is None  # the depth is 8
    assert (info.metrics["pruning_lost"], info.metrics["pruning_n_read"]) == (0.0, 8.0)


def test_the_reach_is_fitted_beyond_a_page_and_kept_unless_it_is_off(train, tmp_path: Path, extractor):
    everything = train(tmp_path / "all", rerank_depth=20, max_lost=0.0)
    assert everything.reach is None
    assert everything.metrics["pruning_n_read"] == 20
    info = train(tmp_path / "some", rerank_depth=20, max_lost=0.2)
    assert info.reach == 0.0  # these few trees score all candidates behind the page like its last: they are read
    assert info.metrics["pruning_n_read"] == 20
    assert info.fingerprint != everything.fingerprint
    assert open_blend(tmp_path / "some", extractor).info.reach == 0.0


def test_a_finished_folder_is_not_trained_over(train, trained_blend: Path):
    with pytest.raises(ConfigError, match="finished"):
        train(trained_blend)


def test_an_interrupted_folder_is_trained_over(train, info: BlendInfo, tmp_path: Path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / FIRST_FILE).write_text("half", encoding="utf-8")
    assert train(tmp_path / "v1").fingerprint == info.fingerprint


def test_too_few_searches_are_refused_and_leave_nothing_behind(train, tasteful: Prepared, tmp_path: Path):
    n_searches = len(tasteful.examples("valid", part="fitting"))
    with pytest.raises(TooLittleData, match=rf"at least 1000 .* got \d+ of {n_searches};"):
        train(tmp_path / "v1", min_searches=1000)
    assert not (tmp_path / "v1").exists()


def only_query(prepared: Prepared, folder: Path, n_queries: int) -> Prepared:
    """The same store, whose validation searches are all for the first few queries."""
    import shutil

    import polars as pl

    shutil.copytree(prepared.folder, folder)
    examples = pl.read_parquet(folder / "examples.parquet")
    queries = examples["query"].unique(maintain_order=True)[:n_queries]
    examples.filter((pl.col("split") == "train") | pl.col("query").is_in(queries.to_list())).write_parquet(
        folder / "examples.parquet"
    )
    return Prepared(folder)


def test_searches_for_one_query_alone_are_too_little_to_hold_any_out(train, tasteful: Prepared, tmp_path: Path):
    data = only_query(tasteful, tmp_path / "data", 1)
    with pytest.raises(TooLittleData, match="queries"):
        train(tmp_path / "v1", data=data, min_searches=2)


def test_one_list_to_read_is_too_little_to_hold_any_out(train, tmp_path: Path):
    with pytest.raises(TooLittleData, match="queries"):
        train(tmp_path / "v1", max_reranked=1)


def test_fewer_queries_than_folds_are_enough(train, tasteful: Prepared, tmp_path: Path):
    info = train(tmp_path / "v1", data=only_query(tasteful, tmp_path / "data", 2), min_searches=2, n_folds=4)
    assert all(0 < value <= 1 for name, value in info.metrics.items() if not name.startswith("pruning_"))


def noise(n_lists: int, n_candidates: int) -> list[BlendList]:
    """Lists in which no feature says anything about the grades, each of a query of its own."""
    generator = np.random.default_rng(11)
    scores = np.zeros(n_candidates, dtype=np.float32)
    rows = np.arange(n_candidates, dtype=np.int64)
    lists = []
    for number in range(n_lists):
        grades = np.zeros(n_candidates, dtype=np.float32)
        grades[generator.integers(n_candidates)] = 3.0
        lists.append(
            BlendList(
                query_id=f"s{number}",
                query=f"q{number}",
                history=(),
                candidates=Candidates(rows=rows, scores=scores, dense=scores, lexical=scores, behaviour=scores),
                features=generator.normal(size=(n_candidates, len(FEATURES))).astype(np.float32),
                grades=grades,
            )
        )
    return lists


def test_held_out_scores_know_nothing_of_their_own_query():
    lists = noise(240, 20)
    config = TINY_BLEND.model_copy(update={"n_leaves": 31, "min_leaf": 1, "max_trees": 60, "patience": 60})
    features = [entry.features for entry in lists]
    fitted = _fit(lists, features, None, folds(lists, 3, seed=1), config, names=FEATURES)
    held_out = _figures("x", lists, lambda number: fitted.held_out[number])["x_mrr_at_10"]
    seen = _figures("x", lists, lambda number: fitted.booster.predict(features[number]))["x_mrr_at_10"]
    chance = sum(1 / rank for rank in range(1, 11)) / 20  # of 20 places, the first ten count
    assert held_out == pytest.approx(chance, abs=0.05)
    assert seen > held_out + 0.15


def test_fitting_goes_on_from_where_it_starts():
    lists = noise(30, 10)
    known = [entry.grades * 10 for entry in lists]  # the answers
    features = [entry.features for entry in lists]
    fitted = _fit(lists, features, known, folds(lists, 3, seed=1), TINY_BLEND, names=FEATURES)
    assert _figures("x", lists, lambda number: fitted.held_out[number])["x_mrr_at_10"] == 1.0


def test_the_second_model_learns_from_copies_that_were_read_within_a_reach():
    lists, n = noise(60, 20), 60
    generator = np.random.default_rng(5)
    before = [generator.normal(size=20).astype(np.float32) for _ in lists]
    read = [entry.grades.copy() for entry in lists]  # a cross-encoder that knows the answer, of the best fifteen
    for first, scores in zip(before, read, strict=True):
        scores[np.argsort(-first)[15:]] = np.nan
    fold = folds(lists, 3, seed=1)
    second = _fit_second(lists, before, read, fold, TINY_BLEND)
    whole = _fit_second(lists, before, read, fold, TINY_BLEND.model_copy(update={"max_lost": 0.0}))
    assert (len(second.held_out), len(whole.held_out)) == (2 * n, n)
    reaches = reaches_to_try(before, read)
    used = set()
    for number, (entry, first, scores) in enumerate(zip(lists, before, read, strict=True)):
        assert second.apart[n + number] is second.apart[number]  # held out together

        def final(seen: np.ndarray, entry=entry, first=first, trees=second.apart[number]) -> np.ndarray:
            return first + predict(trees, np.hstack([entry.features, rerank_features(seen)]), n_trees=second.n_trees)

        np.testing.assert_array_equal(second.held_out[number], final(scores))
        wants = [final(pruned(first, scores, reach)) for reach in reaches]
        found = [
            reach for reach, want in zip(reaches, wants, strict=True) if (want == second.held_out[n + number]).all()
        ]
        assert found
        used.update(found[:1])
        page = pruned(first, scores, 0.0)
        np.testing.assert_array_equal(_final_if_read(lists, before, second, number, page), final(page))
    assert len(used) > 5
    # what it lifts onto the first page is lost if it is not read
    grades, final_of = [entry.grades for entry in lists], partial(_final_if_read, lists, before, second)
    kept, strict = (fit_reach(before, read, grades, final_of, max_lost=share) for share in (0.9, 1e-6))
    assert 10 <= kept.n_read < 11
    assert strict.n_read == 15


def test_figures_match_hand_worked_numbers():
    (first,) = noise(1, 4)
    entry = replace(first, grades=np.array([1, 0, 3, 0], dtype=np.float32))
    # in the order 1, 0, 2, 3: grades 0, 1, 3, 0
    got = _figures("some", [entry], lambda _: np.array([0.8, 0.9, 0.7, 0.1], dtype=np.float32))
    dcg = 0 + 1 / np.log2(3) + 3 / np.log2(4)
    ideal = 3 + 1 / np.log2(3)
    assert got["some_ndcg_at_10"] == pytest.approx(dcg / ideal)
    assert got["some_mrr_at_10"] == pytest.approx(1 / 2)
    both = _figures("some", [entry, entry], lambda n: np.array([0.8, 0.9, 0.7, 0.1]) * (1 if n else -1))
    # backwards: 3, 2, 0, 1 has grades 0, 3, 1, 0
    back = (3 / np.log2(3) + 1 / np.log2(4)) / ideal
    assert both["some_ndcg_at_10"] == pytest.approx((dcg / ideal + back) / 2)
    assert both["some_mrr_at_10"] == pytest.approx(1 / 2)


def test_figures_end_at_the_tenth_place():
    (first,) = noise(1, 12)
    grades = np.zeros(12, dtype=np.float32)
    grades[10] = 3.0
    got = _figures("some", [replace(first, grades=grades)], lambda _: -np.arange(12, dtype=np.float32))
    assert got == {"some_ndcg_at_10": 0.0, "some_mrr_at_10": 0.0}


def test_what_is_written_is_plain_text(trained_blend: Path):
    assert json.loads((trained_blend / BLEND_FILE).read_text(encoding="utf-8"))["format_version"] == 2
    for name in (FIRST_FILE, SECOND_FILE):
        assert (trained_blend / name).read_text(encoding="utf-8").startswith("tree\n")


def test_the_description_counts_searches_not_their_anonymous_copies(
    info: BlendInfo, tasteful: Prepared, word_retriever, extractor
):
    examples = tasteful.examples("valid", limit=TINY_BLEND.max_searches, seed=TINY_BLEND.seed, part="fitting")
    lists = collect_blend_lists(examples, word_retriever, extractor, TINY_BLEND)
    assert len({entry.query_id for entry in lists}) == info.n_searches < len(lists)
