"""What a search may ask of the order, from the first stage to the page."""

import time
from dataclasses import replace

import numpy as np
import pytest

from indexer.bundle import Bundle
from retrieval.filtering.facets import FacetSpec
from retrieval.filtering.filters import Comparison
from server.pipeline import Pipeline, present
from server.stages.ranking import DegradationReason
from server.stages.wishes import Boost, Diversity, Order, Pin, Spelling, Wishes
from tests.server.test_pipeline import HISTORY, Blended, Histories, LateRun, endless, ids, task


@pytest.fixture
def pipeline(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, Histories())


def pinned(*pins: tuple[str, int]) -> Wishes:
    return Wishes(pins=tuple(Pin(item_id=item_id, rank=rank) for item_id, rank in pins))


def test_excluded_items_cost_no_place(pipeline):
    plain = ids(pipeline.search(task(retrieval_depth=10), endless()))
    left = ids(pipeline.search(task(retrieval_depth=10, excluded=frozenset({*plain[:3], "unknown"})), endless()))
    assert len(left) == 10
    assert not set(left) & set(plain[:3])
    assert set(plain[3:]) < set(left)


def test_excluded_items_stay_out_of_filtered_answers_and_of_facets_without_conditions(pipeline):
    wanted = task(
        retrieval_depth=60,
        filter=Comparison("brand", "=", "acme"),
        excluded=frozenset({"i-00", "i-01"}),  # of acme and nordly
        facets=(FacetSpec(field="brand", limit=10, excluded_filter_keys=("brand",)),),
    )
    window = pipeline.search(wanted, endless())
    assert set(ids(window)) == {f"i-{row:02d}" for row in range(5, 60, 5)}
    counts = {value.value: value.count for value in window.facets[0].values}
    assert counts == {"acme": 11, "nordly": 11, "kiri": 12, "solo": 12, "vanta": 12}


def test_exclusions_leave_the_next_search_alone(pipeline):
    before = ids(pipeline.search(task(filter=Comparison("price", "<", 40)), endless()))
    pipeline.search(task(filter=Comparison("price", "<", 40), excluded=frozenset(before[:5])), endless())
    assert ids(pipeline.search(task(filter=Comparison("price", "<", 40)), endless())) == before


def test_a_pinned_item_that_was_not_found_is_put_there_all_the_same(pipeline, bundle):
    plain = pipeline.search(task(retrieval_depth=10, rerank_depth=3), endless())
    missing = next(f"i-{row:02d}" for row in range(60) if f"i-{row:02d}" not in ids(plain))
    window = pipeline.search(task(retrieval_depth=10, rerank_depth=3, wishes=pinned((missing, 2))), endless())
    assert ids(window) == [*ids(plain)[:1], missing, *ids(plain)[1:]]
    row = bundle.items.row_of(missing)
    similarity = bundle.retriever.vectors_of(np.array([row])) @ bundle.retriever.encode("red acme shoe")
    np.testing.assert_allclose(window.ranking.dense[1], similarity[0], rtol=1e-6)
    assert window.ranking.retrieval[1] == plain.ranking.retrieval.min()
    assert np.isnan(window.ranking.lexical[1])
    assert (np.delete(np.diff(window.ranking.scores), [0, 1]) <= 0).all()


def test_pins_of_items_that_are_unknown_excluded_or_do_not_meet_the_filter_are_left_out(pipeline):
    wishes = pinned(("unknown", 1), ("i-01", 2), ("i-05", 3), ("i-10", 4))  # i-01 is of nordly, the others of acme
    fields = {"filter": Comparison("brand", "=", "acme"), "excluded": frozenset({"i-05"})}
    plain = ids(pipeline.search(task(**fields), endless()))
    got = ids(pipeline.search(task(**fields, wishes=wishes), endless()))
    assert got[3] == "i-10"
    assert [item for item in got if item != "i-10"] == [item for item in plain if item != "i-10"]


def test_pins_that_the_store_hides_are_left_out(bundle):
    hiding = Pipeline(bundle, Histories(), hide_out_of_stock=True)
    window = hiding.search(task(wishes=pinned(("i-07", 1), ("i-08", 2))), endless())  # every seventh is sold out
    assert "i-07" not in ids(window)
    assert ids(window)[1] == "i-08"


def test_facets_count_pinned_items(pipeline):
    facets = (FacetSpec(field="brand", limit=10),)
    window = pipeline.search(task(retrieval_depth=1, facets=facets, wishes=pinned(("i-59", 1), ("i-58", 1))), endless())
    assert sum(value.count for value in window.facets[0].values) == len(window.ranking)


def test_an_order_sorts_the_window_that_relevance_chose(pipeline, tiny_items):
    plain = pipeline.search(task(retrieval_depth=10), endless())
    cheapest = pipeline.search(task(retrieval_depth=10, wishes=Wishes(order=Order.PRICE)), endless())
    assert ids(cheapest) == sorted(ids(plain))  # prices rise with the row


def test_a_boost_lifts_over_both_stages(pipeline):
    boost = Boost(condition=Comparison("brand", "=", "solo"), boost=1.0)
    plain = pipeline.search(task(), endless())
    boosted = pipeline.search(task(wishes=Wishes(boosts=(boost,))), endless())
    assert sorted(ids(boosted)) == sorted(ids(plain))
    n_solo = sum(int(item_id[2:]) % 5 == 4 for item_id in ids(plain))
    lifted = sum(int(item_id[2:]) % 5 == 4 for item_id in ids(boosted)[:n_solo])
    assert lifted > sum(int(item_id[2:]) % 5 == 4 for item_id in ids(plain)[:n_solo])
    assert (np.diff(boosted.ranking.scores) <= 0).all()


def test_a_query_is_encoded_once_whatever_a_search_finds_for_it(pipeline, bundle, monkeypatch):
    encoded = []
    encode = bundle.retriever.encoder.encode
    monkeypatch.setattr(bundle.retriever.encoder, "encode", lambda texts: encoded.append(texts) or encode(texts))
    facets = tuple(FacetSpec(field="brand", limit=5, excluded_filter_keys=(key,)) for key in ("brand", "price"))
    both = task(filter=Comparison("brand", "=", "acme"), facets=facets, wishes=pinned(("i-55", 1)), retrieval_depth=2)
    pipeline.search(both, endless())
    assert encoded == [["red acme shoe"]]


def test_what_is_not_likely_enough_or_was_not_read_is_cut_off(pipeline, bundle, monkeypatch):
    # the tiny store's calibration gives all items the same chance
    monkeypatch.setattr(bundle.reranker.scorer, "probabilities", lambda logits: 1 / (1 + np.exp(-logits)))
    plain = pipeline.search(task(), endless())
    chances = plain.ranking.probabilities[:10, 2]
    least = float(np.sort(chances)[6])
    window = pipeline.search(task(wishes=Wishes(least_probability=least)), endless())
    assert window.ranking.rows.tolist() == plain.ranking.rows[:10][chances >= np.float32(least)].tolist()
    assert 0 < len(window.ranking) < 10
    assert (window.no_match, window.degraded) == (False, ())


def test_nothing_likely_enough_is_no_match_and_pins_stay(pipeline):
    window = pipeline.search(task(wishes=Wishes(least_probability=1.0)), endless())
    assert (len(window.ranking), window.no_match, window.degraded) == (0, True, ())
    pins = (Pin(item_id="i-59", rank=3),)
    window = pipeline.search(task(wishes=Wishes(least_probability=1.0, pins=pins)), endless())
    assert (ids(window), window.no_match) == (["i-59"], True)


def test_a_cut_off_without_probabilities_leaves_everything_and_says_so(pipeline):
    window = pipeline.search(task(rerank_depth=0, wishes=Wishes(least_probability=0.5)), endless())
    assert (len(window.ranking), window.no_match) == (40, False)
    assert [d.reason for d in window.degraded] == [DegradationReason.PROBABILITY_UNKNOWN]


def test_diversity_compares_the_items_of_the_bundle(pipeline, bundle):
    plain = pipeline.search(task(), endless())
    wanted = Wishes(diversity=Diversity(strength=0.7, page_size=10, first_page=10))
    varied = pipeline.search(task(wishes=wanted), endless())
    assert sorted(ids(varied)) == sorted(ids(plain))

    def alike(window):
        vectors = bundle.retriever.vectors_of(window.ranking.rows[:10])
        return float((vectors @ vectors.T).mean())

    assert alike(varied) < alike(plain)


def test_an_exact_search_compares_with_every_vector(pipeline, bundle, monkeypatch):
    asked = []
    search = bundle.retriever.vector_index.search
    monkeypatch.setattr(
        bundle.retriever.vector_index, "search", lambda *a, **kw: asked.append(kw["exact"]) or search(*a, **kw)
    )
    pipeline.search(task(exact=True), endless())
    pipeline.search(task(), endless())
    assert asked == [True, False]


def test_a_misspelt_query_is_told_and_with_auto_searched_in_its_correction(pipeline):
    typed = {mode: pipeline.search(task(query="red acme sandalz", spelling=mode), endless()) for mode in Spelling}
    right = pipeline.search(task(query="red acme sandal"), endless())
    assert {mode: window.corrected_query for mode, window in typed.items()} == {
        Spelling.WORDS: "red acme sandal",
        Spelling.OFF: "",
        Spelling.SUGGEST: "red acme sandal",
        Spelling.AUTO: "red acme sandal",
    }
    for name in ("rows", "scores", "dense", "lexical", "rerank"):
        np.testing.assert_array_equal(getattr(typed[Spelling.AUTO].ranking, name), getattr(right.ranking, name))
        off = getattr(typed[Spelling.OFF].ranking, name)
        np.testing.assert_array_equal(getattr(typed[Spelling.SUGGEST].ranking, name), off)
    assert not np.array_equal(typed[Spelling.OFF].ranking.dense, right.ranking.dense)
    assert not np.array_equal(typed[Spelling.WORDS].ranking.dense, right.ranking.dense)


def test_a_query_whose_words_find_items_is_left_alone(pipeline):
    assert pipeline.search(task(spelling=Spelling.AUTO), endless()).corrected_query == ""


def test_events_of_the_visit_come_before_newer_ones(bundle):
    class Visits:
        def history(self, shopper):
            sessions = (None, "phone", "tablet", "phone", None)
            return tuple(replace(e, session_id=s) for e, s in zip(HISTORY, sessions, strict=True))

    asked = []

    class Asked(Blended):
        def rerank(self, query, history, candidates, *, depth, deadline, whole, explain):
            asked.append([event.item_id for event in history])
            return super().rerank(query, history, candidates, depth=depth, deadline=deadline)

    pipeline = Pipeline(replace(bundle, reranker=Asked()), Visits())
    for session in (None, "phone", "unknown"):
        pipeline.search(task(shopper="user:ada", session=session), endless())
    plain = ["i-01", "i-02", "i-03", "i-04", "i-05"]
    assert asked == [plain, ["i-02", "i-04", "i-01", "i-03", "i-05"], plain]


def test_a_category_bounds_a_query_and_a_filter(pipeline):
    boots = pipeline.search(task(category=("Shoes", "boot")), endless())
    assert sorted(ids(boots)) == [f"i-{row:02d}" for row in range(5, 10)]
    acme = Comparison("brand", "=", "acme")
    assert ids(pipeline.search(task(category=("shoes", "boot"), filter=acme), endless())) == ["i-05"]
    assert len(pipeline.search(task(category=("shoes",)), endless()).ranking) == 15
    assert len(pipeline.search(task(category=("sho*",)), endless()).ranking) == 0


def test_facets_without_conditions_stay_within_the_category(pipeline):
    facets = (FacetSpec(field="brand", limit=10, excluded_filter_keys=("brand", "category")),)
    fields = {"category": ("shoes",), "filter": Comparison("brand", "=", "acme"), "facets": facets}
    window = pipeline.search(task(**fields), endless())
    assert sum(value.count for value in window.facets[0].values) == 15


def test_browsing_and_items_alike_need_no_query_and_are_not_reranked(pipeline):
    browsed = pipeline.search(task(query="", category=("garden",)), endless())
    assert sorted(ids(browsed)) == [f"i-{row:02d}" for row in range(45, 60)]
    alike = pipeline.search(task(query="", similar_to="i-46", category=("garden",)), endless())
    assert sorted([*ids(alike), "i-46"]) == sorted(ids(browsed))
    for window in (browsed, alike):
        assert np.isnan(window.ranking.rerank).all()
        assert (window.degraded, window.corrected_query) == ((), "")
    assert all(hit.dense_score is None for hit in present(browsed, offset=0, page_size=5))
    assert all(hit.dense_score is not None for hit in present(alike, offset=0, page_size=5))


def test_a_pin_can_stand_in_a_category_that_is_browsed(pipeline):
    window = pipeline.search(
        task(query="", category=("garden",), retrieval_depth=3, wishes=pinned(("i-59", 1))), endless()
    )
    assert ids(window)[0] == "i-59"
    assert len(ids(window)) in (3, 4)


def explained(window) -> list[float]:
    hits = present(window, offset=0, page_size=1000)
    return [sum(part.value for part in hit.explanation) for hit in hits]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rerank_depth": 0},
        {"query": "", "category": ("shoes",), "events": HISTORY},
        {"query": "", "similar_to": "i-46", "retrieval_depth": 3, "wishes": pinned(("i-00", 1))},
    ],
    ids=["reranked", "as retrieved", "browsed", "alike"],
)
def test_what_a_score_is_made_of_sums_to_it(pipeline, fields):
    boost = Boost(condition=Comparison("price", ">", 0), boost=0.5)
    fields = {**fields, "wishes": replace(fields.get("wishes", Wishes()), boosts=(boost,))}
    window = pipeline.search(task(**fields, explain=True), endless())
    np.testing.assert_allclose(explained(window), window.ranking.scores, rtol=1e-4, atol=1e-4)
    boosted = {name for hit in present(window, offset=0, page_size=60) for name in [p.name for p in hit.explanation]}
    assert "boost" in boosted
    assert pipeline.search(task(**fields), endless()).ranking.parts_of is None


def test_a_page_is_explained_by_itself(pipeline):
    window = pipeline.search(task(explain=True), endless())
    whole = present(window, offset=0, page_size=40)
    page = present(window, offset=15, page_size=5)
    assert [hit.explanation for hit in page] == [hit.explanation for hit in whole[15:20]]
    assert present(window, offset=40, page_size=5) == ()


def test_half_of_the_time_is_kept_for_explaining_and_none_left_is_told(bundle):
    deadlines = []

    class Asked(Blended):
        def rerank(self, query, history, candidates, *, depth, deadline, whole, explain):
            deadlines.append(deadline)
            return super().rerank(query, history, candidates, depth=depth, deadline=deadline, explain=explain)

    pipeline = Pipeline(replace(bundle, reranker=Asked()), Histories())
    run = endless()
    pipeline.search(task(explain=True), run)
    assert run.deadline - 301 < deadlines[0] < run.deadline - 290
    pipeline.search(task(), run)
    assert deadlines[1] == run.deadline
    late = pipeline.search(task(explain=True), LateRun(deadline=time.monotonic() - 1))
    assert [(d.reason, "explain" in d.message) for d in late.degraded] == [(DegradationReason.DEADLINE, True)]
    assert late.ranking.parts_of is None
