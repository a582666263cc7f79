import json
import time

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.prepared import Pairs
from retrieval.event_log.suggestions import Suggestions, fold

LOG = {
    "running shoe": 8.0,
    "red shoe": 4.0,
    "red shoes": 3.0,
    "red running shoe": 2.0,
    "rowing machine": 1.0,
    "café": 1.0,
}


@pytest.fixture
def log() -> Suggestions:
    return Suggestions(list(LOG), list(LOG.values()))


def queries(found) -> list[str]:
    return [suggestion.query for suggestion in found]


def test_queries_that_begin_so_come_first_and_popular_ones_before_others(log):
    assert queries(log.complete("red", 3)) == ["red shoe", "red shoes", "red running shoe"]
    assert queries(log.complete("r", 10))[:5] == [
        "running shoe",
        "red shoe",
        "red shoes",
        "red running shoe",
        "rowing machine",
    ]


def test_scores_never_rise_and_tell_how_the_beginning_was_met(log):
    found = log.complete("run", 10)
    assert [(s.query, int(s.score)) for s in found] == [("running shoe", 4), ("red running shoe", 3), ("running", 2)]
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert found[0].score == pytest.approx(4 + 8 / 9)  # the popularity as a share of the greatest plus 1


def test_words_are_found_in_any_order_and_only_the_last_may_be_a_beginning(log):
    assert queries(log.complete("shoe run", 10))[:2] == ["running shoe", "red running shoe"]
    assert log.complete("sho running", 9) == []


def test_a_space_at_the_end_says_that_the_last_word_is_whole(log):
    assert queries(log.complete("red shoe", 2)) == ["red shoe", "red shoes"]
    assert queries(log.complete("red shoe ", 9)) == ["red shoe", "red running shoe"]


def test_a_last_word_is_completed_where_nobody_typed_the_whole(log):
    assert [(s.query, int(s.score)) for s in log.complete("blue row", 5)] == [("blue rowing", 2)]


def test_case_and_accents_do_not_count(log):
    assert queries(log.complete("CAFE", 1)) == ["café"]
    assert queries(log.complete("cafés", 1)) == ["café"]  # one letter too many is a slip
    both = Suggestions(["cafe", "café"], [1.0, 2.0])
    assert [(s.query, s.score) for s in both.complete("caf", 9)][:1] == [("café", 4.75)]
    assert len(both) == 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("runing sh", "running shoe"),
        ("red shoo", "red shoe"),
        ("rde run", None),
        ("rnunin", "running shoe"),
        ("rowng m", "rowing machine"),
    ],
)
def test_one_slip_is_mended(log, typed, meant):
    found = log.complete(typed, 3)
    mended = [suggestion for suggestion in found if suggestion.score < 2]
    assert queries(mended)[:1] == ([meant] if meant else [])


def test_nothing_typed_asks_for_what_is_searched_most(log):
    assert queries(log.complete("", 2)) == ["running shoe", "red shoe"]
    assert Suggestions([], []).complete("", 5) == Suggestions([], []).complete("shoe", 5) == []


def test_only_what_enough_shoppers_typed_is_kept():
    # query 0: five searches of one shopper; 1: of three shoppers, one twice; 2: of five nameless ones; 3: of three
    query = np.array([0] * 5 + [1] * 4 + [2] * 5 + [3] * 3)
    shopper = np.array([7] * 5 + [1, 2, 3, 3] + [-1] * 5 + [4, 5, 6])
    pairs = Pairs(
        queries=["secret", "boot", "nameless", "knife"],
        query=query,
        row=np.zeros(17, dtype=np.int64),
        weight=np.ones(17, dtype=np.float32),
        shopper=shopper,
        timestamp=np.full(17, np.datetime64("2026-03-01")),
    )
    assert queries(Suggestions.build(pairs, pairs.weight, least_shoppers=3, most=9).complete("", 9)) == [
        "boot",
        "knife",
    ]
    assert queries(Suggestions.build(pairs, pairs.weight, least_shoppers=3, most=1).complete("", 9)) == ["boot"]
    assert len(Suggestions.build(pairs, pairs.weight, least_shoppers=4, most=9)) == 0
    decayed = np.where(query == 1, 0.1, 1).astype(np.float32)
    assert queries(Suggestions.build(pairs, decayed, least_shoppers=3, most=1).complete("", 9)) == ["knife"]


def test_what_was_saved_is_loaded_and_what_never_was_is_empty(log, tmp_path):
    log.save(tmp_path / "s.json")
    again = Suggestions.load(tmp_path / "s.json")
    assert again.complete("r", 9) == log.complete("r", 9)
    assert len(Suggestions.load(tmp_path / "none.json")) == 0


@pytest.mark.parametrize("content", ["[", "{}", json.dumps({"queries": ["a"], "weights": []}), "[1]"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        Suggestions.load(tmp_path / "s.json")


def test_folding_keeps_one_space_at_the_end():
    assert [fold("  Éclair\tROT "), fold("a"), fold(" ")] == ["eclair rot ", "a", ""]


def test_a_large_log_is_completed_in_milliseconds():
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), 6)) for _ in range(8000)]
    texts = {" ".join(words[n] for n in generator.integers(0, len(words), 3)) for _ in range(50_000)}
    log = Suggestions(sorted(texts), generator.pareto(1, len(texts)).tolist()).warm()
    started = time.perf_counter()
    for typed in ("", "a", "ab", words[0], f"{words[1]} {words[2][:2]}", words[3][:4] + "zz"):
        log.complete(typed, 10)
    assert time.perf_counter() - started < 2  # about 0.02 s on an idle machine
