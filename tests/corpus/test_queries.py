import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import EmptyQuery, InputError
from corpus.queries import MAX_QUERY_CHARACTERS, normalize_query


@given(st.text(max_size=MAX_QUERY_CHARACTERS))
def test_normalising_twice_changes_nothing(text):
    try:
        once = normalize_query(text)
    except InputError:
        return
    assert normalize_query(once) == once
    assert 0 < len(once) <= MAX_QUERY_CHARACTERS


def test_a_query_is_unescaped_lowered_and_trimmed():
    assert normalize_query("  Black &amp;  DECKER\t18Ｖ ") == "black & decker 18v"


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b", "&nbsp;", "\x00\x01"])
def test_a_query_without_visible_characters_is_empty(text):
    with pytest.raises(EmptyQuery, match="visible character") as error:
        normalize_query(text)
    assert error.value.field == "query"


def test_the_longest_query_passes_and_one_more_character_does_not():
    assert normalize_query("a" * MAX_QUERY_CHARACTERS) == "a" * MAX_QUERY_CHARACTERS
    with pytest.raises(InputError, match="at most 512 characters, got 513") as error:
        normalize_query("a" * (MAX_QUERY_CHARACTERS + 1))
    assert error.value.field == "query"


def test_an_enormous_query_is_refused_though_it_would_shrink():
    with pytest.raises(InputError, match="at most 512"):
        normalize_query("&" + "amp;" * 100_000)


def test_the_error_does_not_repeat_the_query():
    with pytest.raises(InputError) as error:
        normalize_query("secret " * 200)
    assert "secret" not in str(error.value)
