from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import BadPageToken
from server.page_tokens import KeptAnswers, page_token, process_of
from server.ranking import RankedWindow

WINDOW = cast(RankedWindow, object())
DIGEST = b"d" * 32


def answers(*, ttl_s: float = 60.0, max_answers: int = 3, clock: Any = lambda: 0.0) -> KeptAnswers:
    return KeptAnswers(ttl_s=ttl_s, max_answers=max_answers, clock=clock)


def test_a_token_leads_back_to_its_answer_and_place():
    kept = answers()
    answer = kept.keep(WINDOW, DIGEST)
    assert kept.find(page_token(answer.search_id, 20), DIGEST) == (answer, 20)


def test_search_ids_differ():
    kept = answers()
    assert kept.keep(WINDOW, DIGEST).search_id != kept.keep(WINDOW, DIGEST).search_id


def test_a_token_of_another_request_is_refused():
    kept = answers()
    token = page_token(kept.keep(WINDOW, DIGEST).search_id, 10)
    with pytest.raises(BadPageToken, match="another request") as caught:
        kept.find(token, b"e" * 32)
    assert caught.value.field == "page_token"


def test_a_token_expires_at_its_time():
    now = [0.0]
    kept = answers(ttl_s=60.0, clock=lambda: now[0])
    token = page_token(kept.keep(WINDOW, DIGEST).search_id, 10)
    now[0] = 59.9
    kept.find(token, DIGEST)
    now[0] = 60.0
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(token, DIGEST)


def test_the_oldest_answer_makes_room():
    kept = answers(max_answers=2)
    first, second, third = (page_token(kept.keep(WINDOW, DIGEST).search_id, 1) for _ in range(3))
    assert len(kept) == 2
    with pytest.raises(BadPageToken, match="expired"):
        kept.find(first, DIGEST)
    kept.find(second, DIGEST)
    kept.find(third, DIGEST)


def test_expired_answers_are_let_go():
    now = [0.0]
    kept = answers(ttl_s=60.0, max_answers=100, clock=lambda: now[0])
    for _ in range(5):
        kept.keep(WINDOW, DIGEST)
    now[0] = 61.0
    kept.keep(WINDOW, DIGEST)
    assert len(kept) == 1


def test_a_token_names_the_process_that_keeps_its_answer_if_there_are_several():
    kept = KeptAnswers(ttl_s=60.0, max_answers=3, clock=lambda: 0.0, process=12)
    answer = kept.keep(WINDOW, DIGEST)
    token = page_token(answer.search_id, 20)
    assert process_of(token) == 12
    assert kept.find(token, DIGEST) == (answer, 20)
    assert process_of(page_token(answers().keep(WINDOW, DIGEST).search_id, 20)) is None


@pytest.mark.parametrize("name", ["", ".", ".x", "one.x", "-1.x", "1", "\u0661.x"])
def test_a_name_without_a_number_is_no_process_s(name):
    assert process_of(page_token(name, 0)) is None


@given(st.text(max_size=300))
def test_no_text_is_taken_for_a_token(text):
    with pytest.raises(BadPageToken):
        answers().find(text, DIGEST)


@given(st.data())
def test_a_token_with_one_character_changed_or_cut_is_refused(data):
    token = page_token("a-search-id", 10)
    # the last character is left alone: some of its bits carry nothing
    position = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from([c for c in "AZaz09-_" if c != token[position]]))
    for wrong in (token[:position] + other + token[position + 1 :], token[:position]):
        with pytest.raises(BadPageToken, match="got something else"):
            answers().find(wrong, DIGEST)
