import dataclasses
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from corpus.errors import ArtefactError, DeadlineExceeded
from corpus.events import EventType, HistoryEvent
from indexer.bundle import Bundle
from rerank.reranker import DEADLINE, FAILED, SLOW, Reranked
from retrieval.filtering.facets import Facet, FacetSpec
from retrieval.filtering.filters import And, Comparison
from server.pipeline import Pipeline, present
from server.stages.ranking import DegradationReason, RankedWindow, Run, SearchTask
from server.stages.wishes import Wishes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HISTORY = tuple(
    HistoryEvent(timestamp=NOW - timedelta(hours=n), type=EventType.PURCHASE, item_id=f"i-{n:02d}") for n in range(1, 6)
)
STAGES = ["history", "filter", "retrieve", "rerank"]
IDLE = SimpleNamespace(busy_s=0.0)  # a scorer


class Histories:
    """One shopper's history."""

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        return HISTORY if shopper == "user:ada" else ()


class Broken:
    """Stands for any part, and fails whatever it is asked."""

    scorer = IDLE

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        raise ArtefactError("the disk is gone")

    def rerank(self, *_arguments: object, **_options: object) -> None:
        raise RuntimeError("out of memory")


class LateRun(Run):
    """A run whose deadline passes right after it was looked at first."""

    def check_time(self) -> None:
        pass


def endless() -> Run:
    return Run(deadline=time.monotonic() + 600)


def task(**fields: object) -> SearchTask:
    return SearchTask(**{"query": "red acme shoe", "retrieval_depth": 40, "rerank_depth": 10, **fields})


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, Histories())


def ids(window: RankedWindow) -> list[str]:
    return [hit.item.item_id for hit in present(window, offset=0, page_size=1000)]


def as_retrieved(window: RankedWindow) -> bool:
    scores = window.ranking.retrieval
    unread = np.isnan(window.ranking.rerank).all() and np.isnan(window.ranking.probabilities).all()
    return bool(unread and window.ranking.probabilities.shape == (len(scores), 3) and (np.diff(scores) <= 0).all())


def test_the_best_candidates_are_reranked_and_the_others_follow_as_retrieved(pipeline, bundle):
    run = endless()
    window = pipeline.search(task(), run)
    found = bundle.retriever.retrieve("red acme shoe", 40).rows
    assert len(window.ranking) == len(found)
    assert set(window.ranking.rows[:10]) == set(found[:10])
    np.testing.assert_array_equal(window.ranking.rows[10:], found[10:])
    np.testing.assert_array_equal(np.isnan(window.ranking.rerank), np.arange(len(found)) >= 10)
    assert (np.diff(window.ranking.scores) <= 0).all()
    assert list(run.timings_ms) == STAGES
    assert window.degraded == ()


def test_stage_scores_stay_with_their_items(pipeline, bundle):
    window = pipeline.search(task(), endless())
    found = bundle.retriever.retrieve("red acme shoe", 40)
    of_row = {row: position for position, row in enumerate(found.rows.tolist())}
    positions = [of_row[row] for row in window.ranking.rows.tolist()]
    np.testing.assert_array_equal(window.ranking.retrieval, found.scores[positions])
    np.testing.assert_array_equal(window.ranking.dense, found.dense[positions])
    np.testing.assert_array_equal(window.ranking.lexical, found.lexical[positions])


def test_the_history_changes_the_answer_whether_looked_up_or_brought_along(pipeline):
    anonymous = pipeline.search(task(), endless()).ranking.rerank
    looked_up = pipeline.search(task(shopper="user:ada"), endless()).ranking.rerank
    brought = pipeline.search(task(events=HISTORY), endless()).ranking.rerank
    assert not np.array_equal(anonymous, looked_up, equal_nan=True)
    np.testing.assert_array_equal(looked_up, brought)
    stranger = pipeline.search(task(shopper="user:bob"), endless()).ranking.rerank
    np.testing.assert_array_equal(anonymous, stranger)


def test_a_rerank_depth_of_zero_gives_the_order_of_retrieval(pipeline):
    window = pipeline.search(task(rerank_depth=0), endless())
    assert as_retrieved(window)
    assert window.degraded == ()


def test_a_rerank_depth_beyond_the_candidates_reranks_all(pipeline):
    window = pipeline.search(task(retrieval_depth=5, rerank_depth=200), endless())
    assert len(window.ranking) == 5
    assert not np.isnan(window.ranking.rerank).any()


def test_a_bundle_without_a_reranker_answers_in_the_order_of_retrieval(bundle):
    bare = dataclasses.replace(bundle, reranker=None, manifest=bundle.manifest.model_copy(update={"reranker": None}))
    window = Pipeline(bare, Histories()).search(task(), endless())
    assert as_retrieved(window)
    assert (window.reranker_version, window.degraded) == ("", ())


def test_versions_are_those_of_the_bundle(pipeline, bundle):
    window = pipeline.search(task(), endless())
    assert window.index_version == bundle.manifest.version
    assert window.retriever_version == bundle.manifest.retriever.fingerprint
    assert window.reranker_version == bundle.manifest.reranker.fingerprint


def test_items_out_of_stock_are_hidden_only_if_the_store_wants_it(bundle, tiny_items):
    everything = ids(Pipeline(bundle, Histories()).search(task(retrieval_depth=60), endless()))
    hiding = Pipeline(bundle, Histories(), hide_out_of_stock=True)
    in_stock = ids(hiding.search(task(retrieval_depth=60), endless()))
    sold_out = {tiny_items.item(row).item_id for row in range(60) if row % 7 == 0}
    assert set(everything) & sold_out
    assert set(in_stock) == set(everything) - sold_out


def test_a_hidden_item_costs_no_place(bundle):
    window = Pipeline(bundle, Histories(), hide_out_of_stock=True).search(task(retrieval_depth=40), endless())
    assert len(window.ranking) == 40


def test_a_filter_is_applied_before_candidates_are_counted(pipeline, tiny_items):
    found = Comparison("brand", "=", "ACME")
    window = pipeline.search(task(retrieval_depth=10, filter=found), endless())
    assert len(window.ranking) == 10
    assert {hit.item.brand for hit in present(window, offset=0, page_size=100)} == {"acme"}


def test_a_filter_that_nothing_meets_gives_an_empty_ranking(pipeline):
    facets = (FacetSpec(field="brand", limit=5),)
    window = pipeline.search(task(filter=Comparison("brand", "=", "nobody"), facets=facets), endless())
    assert (len(window.ranking), window.degraded) == (0, ())
    assert window.facets == (Facet(field="brand", values=()),)


def test_facets_count_the_whole_ranking(pipeline, tiny_items):
    run = endless()
    window = pipeline.search(task(facets=(FacetSpec(field="brand", limit=10),)), run)
    brands = Counter(tiny_items.item(int(row)).brand for row in window.ranking.rows)
    assert {value.value: value.count for value in window.facets[0].values} == brands
    assert sum(brands.values()) == 40
    assert list(run.timings_ms) == ["history", "filter", "retrieve", "facets", "rerank"]


def test_a_facet_may_leave_conditions_out(pipeline):
    brand = Comparison("brand", "=", "acme")
    cheap = Comparison("price", "<", 25)  # rows 0 to 14: three of each brand
    facets = tuple(
        FacetSpec(field="brand", limit=10, excluded_filter_keys=keys) for keys in ((), ("brand",), ("brand", "price"))
    )
    window = pipeline.search(task(retrieval_depth=60, filter=And(brand, cheap), facets=facets), endless())
    narrow, brands, all_brands = ({value.value: value.count for value in f.values} for f in window.facets)
    assert narrow == {"acme": 3}
    assert brands == dict.fromkeys(("acme", "kiri", "nordly", "solo", "vanta"), 3)
    assert all_brands == dict.fromkeys(brands, 12)


def test_leaving_conditions_out_never_shows_what_the_store_hides(bundle):
    hiding = Pipeline(bundle, Histories(), hide_out_of_stock=True)
    facets = (FacetSpec(field="in_stock", limit=10, excluded_filter_keys=("in_stock",)),)
    sold_out = Comparison("in_stock", "=", False)
    window = hiding.search(task(retrieval_depth=60, filter=sold_out, facets=facets), endless())
    assert len(window.ranking) == 0
    assert {value.value: value.count for value in window.facets[0].values} == {"true": 51}


def test_facets_for_which_there_is_no_time_are_left_out_and_named(pipeline):
    facets = (
        FacetSpec(field="brand", limit=5, excluded_filter_keys=("brand",)),
        FacetSpec(field="category", limit=5),
    )
    late = LateRun(deadline=time.monotonic() - 1)
    window = pipeline.search(task(rerank_depth=0, filter=Comparison("brand", "=", "acme"), facets=facets), late)
    assert [facet.field for facet in window.facets] == ["category"]
    assert [(d.reason, "facet brand" in d.message) for d in window.degraded] == [(DegradationReason.DEADLINE, True)]


def test_a_deadline_that_has_passed_costs_no_work(bundle):
    broken = dataclasses.replace(bundle, retriever=Broken())
    with pytest.raises(DeadlineExceeded):
        Pipeline(broken, Histories()).search(task(), Run(deadline=time.monotonic() - 1))


def test_no_time_to_rerank_gives_the_order_of_retrieval_and_says_so(pipeline):
    window = pipeline.search(task(), LateRun(deadline=time.monotonic() - 1))
    assert as_retrieved(window)
    assert len(window.ranking) == 40
    assert [d.reason for d in window.degraded] == [DegradationReason.DEADLINE]
    assert "0 of 10 candidates" in window.degraded[0].message


def test_candidates_that_time_did_not_suffice_for_follow_and_are_counted(bundle):
    class Hurried:
        """A reranker that had time for the best four only."""

        scorer = IDLE

        def rerank(self, query, history, candidates, **_options: object):
            read = bundle.reranker.rerank(query, history, candidates, depth=4)
            return dataclasses.replace(read, degraded=DEADLINE, n_wanted=10)

    window = Pipeline(dataclasses.replace(bundle, reranker=Hurried()), Histories()).search(task(), endless())
    assert [d.reason for d in window.degraded] == [DegradationReason.DEADLINE]
    assert "4 of 10 candidates" in window.degraded[0].message
    assert np.isnan(window.ranking.rerank).sum() == len(window.ranking) - 4
    assert (np.diff(window.ranking.scores) <= 0).all()


def test_a_reranker_that_raises_gives_the_order_of_retrieval_and_says_so(bundle):
    broken = dataclasses.replace(bundle, reranker=Broken())
    window = Pipeline(broken, Histories()).search(task(), endless())
    assert as_retrieved(window)
    assert [d.reason for d in window.degraded] == [DegradationReason.RERANKER_FAILED]


def test_a_reranker_whose_engine_fails_gives_the_order_of_retrieval_and_says_so(pipeline, bundle, monkeypatch):
    def fail(*_arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bundle.reranker.scorer, "heads", fail)
    window = pipeline.search(task(), endless())
    assert as_retrieved(window)
    assert [d.reason for d in window.degraded] == [DegradationReason.RERANKER_FAILED]


class Blended:
    """A second stage that turns all candidates round, read or not."""

    scorer = IDLE

    def __init__(self, degraded: str | None = None) -> None:
        self.degraded = degraded
        self.asked: list[tuple[int, int]] = []
        self.whole: list[bool] = []

    def rerank(self, query, history, candidates, *, depth, deadline, whole=False, explain=False):
        self.asked.append((len(candidates), depth))
        self.whole.append(whole)
        n = len(candidates)
        n_scored = 0 if self.degraded else depth
        rerank = np.where(np.arange(n) < n - n_scored, np.nan, 0.5).astype(np.float32)  # read last, ordered last
        scores = np.arange(n, dtype=np.float32)[::-1]
        return Reranked(
            order=np.arange(n)[::-1],
            scores=scores,
            rerank_scores=rerank,
            probabilities=np.full((n, 3), np.nan, dtype=np.float32),
            n_scored=n_scored,
            degraded=self.degraded,
        )


@pytest.mark.parametrize("wanted", [{}, {"query": "", "category": ("shoes",)}], ids=["query", "category"])
def test_no_order_hangs_on_when_something_happened(pipeline, wanted):
    """Answers to repeated searches live on it: see ``server.rankings.ranking_keys``."""
    rankings = [
        pipeline.search(task(**wanted, events=history), endless()).ranking
        for history in (HISTORY, tuple(dataclasses.replace(event, timestamp=NOW) for event in HISTORY), ())
    ]
    assert len(rankings[0]) > 5
    np.testing.assert_array_equal(rankings[0].rows, rankings[1].rows)
    np.testing.assert_array_equal(rankings[0].scores, rankings[1].scores)
    assert not np.array_equal(rankings[0].scores, rankings[2].scores)


def test_the_second_stage_may_order_all_candidates_also_those_it_did_not_read(bundle):
    blended = Blended()
    window = Pipeline(dataclasses.replace(bundle, reranker=blended), Histories()).search(task(), endless())
    found = bundle.retriever.retrieve("red acme shoe", 40)
    assert blended.asked == [(40, 10)]
    np.testing.assert_array_equal(window.ranking.rows, found.rows[::-1])
    np.testing.assert_array_equal(window.ranking.scores, np.arange(40)[::-1])
    np.testing.assert_array_equal(window.ranking.retrieval, found.scores[::-1])
    np.testing.assert_array_equal(window.ranking.dense, found.dense[::-1])
    np.testing.assert_array_equal(window.ranking.behaviour, found.behaviour[::-1])
    np.testing.assert_array_equal(np.isnan(window.ranking.rerank), np.arange(40) < 30)
    assert window.degraded == ()


def test_what_was_not_worth_reading_is_no_degradation_and_counts_as_not_wanted(bundle):
    class Choosy:
        """A second stage that found four candidates worth reading."""

        scorer = IDLE

        def rerank(self, query, history, candidates, **_options: object):
            return bundle.reranker.rerank(query, history, candidates, depth=4)

    run = endless()
    window = Pipeline(dataclasses.replace(bundle, reranker=Choosy()), Histories()).search(task(), run)
    assert window.degraded == ()
    assert (run.rerank_depth, run.n_reranked) == (4, 4)


def test_all_are_read_only_where_what_nobody_read_would_be_missed(bundle):
    blended = Blended()
    pipeline = Pipeline(dataclasses.replace(bundle, reranker=blended), Histories())
    pipeline.search(task(), endless())
    pipeline.search(task(wishes=Wishes(least_probability=0.1)), endless())
    pipeline.order(task(), np.arange(3), endless())
    assert blended.whole == [False, True, True]


@pytest.mark.parametrize(
    ("degraded", "reason"),
    [
        (FAILED, DegradationReason.RERANKER_FAILED),
        (DEADLINE, DegradationReason.DEADLINE),
        (SLOW, DegradationReason.RERANKER_SLOW),
    ],
)
def test_what_a_blend_knows_without_the_cross_encoder_is_better_than_the_order_of_retrieval(bundle, degraded, reason):
    half = dataclasses.replace(bundle, reranker=Blended(degraded))
    window = Pipeline(half, Histories()).search(task(), endless())
    np.testing.assert_array_equal(window.ranking.rows, bundle.retriever.retrieve("red acme shoe", 40).rows[::-1])
    assert np.isnan(window.ranking.rerank).all()
    assert [d.reason for d in window.degraded] == [reason]


def test_a_history_that_cannot_be_read_leaves_an_anonymous_answer_and_says_so(bundle, pipeline):
    window = Pipeline(bundle, Broken()).search(task(shopper="user:ada"), endless())
    anonymous = pipeline.search(task(), endless())
    np.testing.assert_array_equal(window.ranking.rerank, anonymous.ranking.rerank)
    assert [d.reason for d in window.degraded] == [DegradationReason.HISTORY_UNAVAILABLE]


def test_pages_cut_the_ranking_without_overlap_or_gap(pipeline):
    window = pipeline.search(task(), endless())
    pages = [present(window, offset=offset, page_size=15) for offset in (0, 15, 30, 45)]
    assert [len(page) for page in pages] == [15, 15, 10, 0]
    hits = [hit for page in pages for hit in page]
    assert [hit.rank for hit in hits] == list(range(1, 41))
    assert [window.items.row_of(hit.item.item_id) for hit in hits] == window.ranking.rows.tolist()


def test_scores_that_a_stage_did_not_give_are_absent(pipeline):
    hits = present(pipeline.search(task(), endless()), offset=0, page_size=40)
    assert all(hit.rerank_score is not None for hit in hits[:10])
    assert all(hit.rerank_score is None for hit in hits[10:])
    assert any(hit.lexical_score is None for hit in hits)
    assert any(hit.lexical_score is not None for hit in hits)


def test_probabilities_go_with_their_items_and_only_where_they_are_known(pipeline, bundle):
    window = pipeline.search(task(), endless())
    hits = present(window, offset=0, page_size=40)
    head = bundle.retriever.retrieve("red acme shoe", 40)
    want = bundle.reranker.rerank(
        "red acme shoe",
        (),
        dataclasses.replace(
            head, **{name: getattr(head, name)[:10] for name in ("rows", "scores", "dense", "lexical")}
        ),
    )
    got = [(hit.click_probability, hit.purchase_probability) for hit in hits[:10]]
    np.testing.assert_array_equal(got, want.probabilities[:, [0, 2]])
    assert all(1 > click >= purchase > 0 for click, purchase in got)
    assert all(hit.cart_probability is None for hit in hits)  # the store's log knows no carts
    assert all((hit.click_probability, hit.purchase_probability) == (None, None) for hit in hits[10:])


def test_two_runs_of_one_search_agree(pipeline):
    first, second = (pipeline.search(task(shopper="user:ada"), endless()) for _ in range(2))
    np.testing.assert_array_equal(first.ranking.rows, second.ranking.rows)
    np.testing.assert_array_equal(first.ranking.scores, second.ranking.scores)
