from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from corpus.errors import BadPageToken
from corpus.items import ItemTable
from retrieval.filtering.facets import Facet, FacetValue
from server.rankings.kept_rankings import EXPLAINED_BYTES, RANKING_BYTES, VALUE_BYTES, KeptRankings, size_of
from server.rankings.page_tokens import process_of
from server.rankings.pages import Page, PageSpec
from server.stages.ranking import Degradation, DegradationReason, RankedWindow
from tests.server.made_rankings import ranking_of

DIGEST = b"d" * 32
KEY, OTHER = b"k" * 16, b"o" * 16
WINDOW = RankedWindow(
    ranking=ranking_of([3, 1], scores=[0.5, 0.25]),
    items=cast(ItemTable, SimpleNamespace(own_bytes=0)),
    opening=1,
    index_version="v1",
    retriever_version="r",
    reranker_version="",
    blend_version="",
    degraded=(),
)
LATE = Degradation(reason=DegradationReason.DEADLINE, message="late")
PAGE = Page(spec=PageSpec(offset=0, page_size=2, item_fields=frozenset()), n_results=2, results=b"two")
SIZE = RANKING_BYTES + 2 * (8 + 6 * 4 + 3 * 4)  # rows, six scores, three probabilities


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rankings(clock: Clock, *, max_bytes: int = 1 << 20, **settings: Any) -> KeptRankings:
    return KeptRankings(
        **{"page_ttl_s": 60.0, "repeat_ttl_s": 20.0, "max_bytes": max_bytes, "clock": clock, **settings}
    )


# pages


def test_a_token_leads_back_to_its_answer_ranking_and_place(clock):
    kept = rankings(clock)
    ranking = kept.keep(WINDOW)
    assert kept.find(kept.token("an-id", ranking, 20, DIGEST), DIGEST) == ("an-id", ranking, 20)


def test_rankings_hold_the_catalogues_of_the_latest_openings_alone(clock):
    kept = rankings(clock)
    tokens = []
    for opening in range(1, 6):
        ranking = kept.keep(replace(WINDOW, opening=opening), bytes([opening]) * 16)
        tokens.append(kept.token("an-id", ranking, 1, DIGEST))
    assert (len(kept), kept.size_bytes) == (3, 3 * SIZE)
    for token in tokens[:2]:
        with pytest.raises(BadPageToken, match="expired"):
            kept.find(token, DIGEST)
    assert [kept.find(token, DIGEST)[1].window.opening for token in tokens[2:]] == [3, 4, 5]
    assert [kept.repeat(bytes([opening]) * 16) is None for opening in range(1, 6)] == [True, True, False, False, False]
    late = kept.keep(replace(WINDOW, opening=2))  # of a search that began before the last swaps
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(kept.token("an-id", late, 1, DIGEST), DIGEST)
    assert len(kept) == 3


def test_what_a_snapshot_adds_counts_once_and_bounds_how_many_are_held(clock):
    kept = rankings(clock, max_bytes=25_000)
    held = []
    for _ in range(4):
        items = cast(ItemTable, SimpleNamespace(own_bytes=10_000))
        held += [kept.keep(replace(WINDOW, items=items)) for _ in range(2)]
    assert kept.size_bytes <= 25_000
    assert kept.size_bytes == len(kept) * SIZE + 10_000  # two of one snapshot; those of another would be too much
    assert len(kept) == 2
    clock.now += 60
    kept.keep(WINDOW)
    assert (len(kept), kept.size_bytes) == (1, SIZE)


def test_search_ids_differ_and_begin_with_the_process_if_there_are_several(clock):
    alone, several = rankings(clock), rankings(clock, process=12)
    assert alone.new_search_id() != alone.new_search_id()
    for kept, process in ((alone, None), (several, 12)):
        token = kept.token(kept.new_search_id(), kept.keep(WINDOW), 20, DIGEST)
        assert process_of(token) == process


def test_a_token_of_another_request_is_refused(clock):
    kept = rankings(clock)
    token = kept.token("an-id", kept.keep(WINDOW), 10, DIGEST)
    with pytest.raises(BadPageToken, match="another request") as caught:
        kept.find(token, b"e" * 32)
    assert caught.value.field == "page_token"


def test_answers_that_share_a_ranking_have_tokens_for_their_own_requests(clock):
    kept = rankings(clock)
    ranking = kept.keep(WINDOW, KEY)
    again = kept.repeat(KEY)
    assert again is ranking
    mine, theirs = kept.token("mine", ranking, 1, DIGEST), kept.token("theirs", again, 1, b"e" * 32)
    assert kept.find(mine, DIGEST)[0] == "mine"
    assert kept.find(theirs, b"e" * 32)[0] == "theirs"
    with pytest.raises(BadPageToken, match="another request"):
        kept.find(theirs, DIGEST)


def test_the_mark_of_a_request_is_the_process_s_own(clock):
    one, other = rankings(clock), rankings(clock)
    ranking = one.keep(WINDOW)
    assert one.token("an-id", ranking, 1, DIGEST) != other.token("an-id", ranking, 1, DIGEST)


def test_a_token_expires_at_its_time(clock):
    kept = rankings(clock)
    token = kept.token("an-id", kept.keep(WINDOW), 10, DIGEST)
    clock.now = 59.9
    assert kept.find(token, DIGEST)[2] == 10
    clock.now = 60.0
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(token, DIGEST)


def test_what_answered_longest_ago_makes_room(clock):
    kept = rankings(clock, max_bytes=2 * SIZE)
    first = kept.keep(WINDOW, KEY)
    second = kept.keep(WINDOW, OTHER)
    assert kept.size_bytes == 2 * SIZE
    assert kept.repeat(KEY) is first
    third = kept.keep(WINDOW)
    assert (len(kept), kept.size_bytes) == (2, 2 * SIZE)
    assert kept.repeat(OTHER) is None
    assert kept.repeat(KEY) is first
    for ranking in (first, third):
        assert kept.find(kept.token("an-id", ranking, 1, DIGEST), DIGEST)[1] is ranking
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(kept.token("an-id", second, 1, DIGEST), DIGEST)


def test_the_newest_ranking_is_kept_however_large(clock):
    kept = rankings(clock, max_bytes=1)
    kept.keep(WINDOW)
    ranking = kept.keep(WINDOW)
    assert (len(kept), kept.size_bytes) == (1, SIZE)
    assert kept.find(kept.token("an-id", ranking, 1, DIGEST), DIGEST)[1] is ranking


def test_expired_rankings_are_let_go(clock):
    kept = rankings(clock)
    for number in range(5):
        kept.keep(WINDOW, bytes([number]))
    clock.now = 61.0
    kept.keep(WINDOW)
    assert (len(kept), kept.size_bytes) == (1, SIZE)


# repeated searches


def test_the_same_search_is_answered_with_its_ranking_and_counted(clock):
    kept = rankings(clock)
    assert kept.repeat(KEY) is None
    ranking = kept.keep(WINDOW, KEY)
    assert kept.repeat(KEY) is ranking
    assert kept.repeat(OTHER) is None
    assert (kept.n_hits, kept.n_misses) == (1, 2)


def test_a_ranking_answers_until_its_time_however_often_it_did(clock):
    kept = rankings(clock)
    ranking = kept.keep(WINDOW, KEY)
    for now in (10.0, 19.9):
        clock.now = now
        assert kept.repeat(KEY) is ranking
    clock.now = 20.0
    assert kept.repeat(KEY) is None
    newer = kept.keep(WINDOW, KEY)
    clock.now = 39.9
    assert kept.repeat(KEY) is newer


def test_a_repeated_search_can_be_paged_through_as_long_as_any_other(clock):
    kept = rankings(clock)
    ranking = kept.keep(WINDOW, KEY)
    clock.now = 19.0
    token = kept.token("an-id", kept.repeat(KEY), 1, DIGEST)
    clock.now = 78.9
    kept.keep(WINDOW)
    assert kept.find(token, DIGEST)[1] is ranking
    clock.now = 79.0
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(token, DIGEST)


def test_no_repeated_search_is_answered_after_the_pages_have_ended(clock):
    kept = rankings(clock, page_ttl_s=5.0)
    kept.keep(WINDOW, KEY)
    clock.now = 5.0
    assert kept.repeat(KEY) is None


def test_the_end_of_an_older_ranking_leaves_the_newer_one_of_the_same_search(clock):
    kept = rankings(clock)
    kept.keep(WINDOW, KEY)
    clock.now = 50.0
    newer = kept.keep(WINDOW, KEY)
    clock.now = 61.0
    kept.keep(WINDOW, OTHER)  # which lets the first one go
    assert len(kept) == 2
    clock.now = 69.9
    assert kept.repeat(KEY) is newer


def test_a_degraded_ranking_answers_no_other_search(clock):
    kept = rankings(clock)
    ranking = kept.keep(replace(WINDOW, degraded=(LATE,)), KEY)
    assert kept.repeat(KEY) is None
    assert kept.find(kept.token("an-id", ranking, 1, DIGEST), DIGEST)[1] is ranking


def test_switched_off_it_keeps_rankings_for_pages_alone(clock):
    kept = rankings(clock, repeat_ttl_s=0.0)
    assert not kept.repeats
    kept.keep(WINDOW, KEY)
    assert kept.repeat(KEY) is None
    assert len(kept) == 1


def test_the_first_page_is_kept_for_those_who_ask_again_alone(clock):
    kept = rankings(clock)
    assert kept.keep(WINDOW, None, PAGE).page is None
    assert kept.keep(replace(WINDOW, degraded=(LATE,)), KEY, PAGE).page is None
    assert kept.size_bytes == 2 * SIZE
    assert kept.keep(WINDOW, KEY, PAGE).page is PAGE
    assert kept.size_bytes == 3 * SIZE + len(PAGE.results)
    assert rankings(clock, repeat_ttl_s=0.0).keep(WINDOW, KEY, PAGE).page is None


# sizes


def test_the_size_counts_what_a_ranking_holds_in_memory():
    assert size_of(WINDOW) == SIZE
    values = (FacetValue(value="Acme", count=2), FacetValue(value="Bolt", count=1))
    assert size_of(replace(WINDOW, facets=(Facet(field="brand", values=values),))) == SIZE + 3 * VALUE_BYTES
    explained = replace(WINDOW.ranking, parts_of=lambda chosen: {"retrieval": np.zeros(len(chosen), dtype=np.float32)})
    assert size_of(replace(WINDOW, ranking=explained)) == SIZE + 2 * EXPLAINED_BYTES
    part = replace(WINDOW.ranking, scores=np.zeros(1000, dtype=np.float32)[:2])
    assert size_of(replace(WINDOW, ranking=part)) == SIZE + 998 * 4
