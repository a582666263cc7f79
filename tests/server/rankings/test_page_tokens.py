import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import BadPageToken
from server.rankings.page_tokens import MAX_TOKEN_CHARACTERS, PageToken, process_of, read_token


def token_of(search_id: str, *, offset: int = 10) -> PageToken:
    return PageToken(search_id=search_id, ranking="a-ranking", mark="0f", offset=offset)


def test_a_token_says_what_was_written():
    assert read_token(token_of("a-search-id", offset=20).write()) == token_of("a-search-id", offset=20)


def test_a_token_of_the_longest_names_is_short_enough():
    names = {"search_id": "255." + "s" * 22, "ranking": "r" * 22, "mark": "f" * 16}
    assert len(PageToken(**names, offset=2**31 - 1).write()) <= MAX_TOKEN_CHARACTERS


def test_a_token_names_the_process_that_its_search_id_begins_with():
    assert process_of(token_of("12.abc").write()) == 12


@pytest.mark.parametrize("name", ["", ".", ".x", "one.x", "-1.x", "1", "\u0661.x"])
def test_a_name_without_a_number_is_no_process_s(name):
    assert process_of(token_of(name).write()) is None


@given(st.text(max_size=300))
def test_no_text_is_taken_for_a_token(text):
    with pytest.raises(BadPageToken):
        read_token(text)


@given(st.data())
def test_a_token_with_one_character_changed_or_cut_is_refused(data):
    token = token_of("a-search-id").write()
    # the last character is left alone: some of its bits carry nothing
    position = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from([c for c in "AZaz09-_" if c != token[position]]))
    for wrong in (token[:position] + other + token[position + 1 :], token[:position]):
        with pytest.raises(BadPageToken, match="got something else"):
            read_token(wrong)
