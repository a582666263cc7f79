import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning import clean_text, is_blank, is_missing, strip_tags

# what cleaning has to work on comes up more often than by chance
TRICKY = st.text(
    st.one_of(st.characters(), st.sampled_from(list("&;#x2aAmp<>lt \t\u200b\uff06\uff1b\u00ad\u0130\ufb01")))
)
ENTITIES = st.lists(
    st.sampled_from(["&amp;", "&", "amp;", "#38;", "&lt;", "b>", "</b>", "&#x26;", "＆", "ﬁ", "\u200b", "x", " "])
).map("".join)


@given(st.one_of(TRICKY, ENTITIES), st.booleans())
def test_cleaning_twice_changes_nothing(text, lower):
    once = clean_text(text, lower=lower)
    assert clean_text(once, lower=lower) == once


@given(st.one_of(TRICKY, ENTITIES))
def test_clean_text_is_nfkc_without_controls_or_surplus_space(text):
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFKC", cleaned)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in cleaned)
    assert cleaned == " ".join(cleaned.split())


@given(st.one_of(TRICKY, ENTITIES))
def test_stripping_tags_twice_changes_nothing(text):
    once = strip_tags(text)
    assert strip_tags(once) == once


@given(st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x7F), min_size=1))
def test_plain_words_are_left_alone(word):
    assert clean_text(word) == word
    assert strip_tags(word) == word


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("＆lt;", "<"),  # a full-width ampersand starts an entity only after NFKC
        ("ﬁlter  ½", "filter 1⁄2"),
        ("a\tb\r\nc\x00d", "a b c d"),
        ("soft\u00adware \u200bzero\ufeff", "software zero"),
        ("line\u2028sep\u00a0nbsp", "line sep nbsp"),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_dirt_is_cleaned(dirty, clean):
    assert clean_text(dirty) == clean


def test_tags_go_and_comparisons_stay():
    assert strip_tags("<p>5 < 6 &lt;b&gt;bold&lt;/b&gt;<br/>end</p><!-- not\nshown -->") == "5 < 6 bold end"


@pytest.mark.parametrize("text", ["", "  ", "\u200b\u200e", "\u0301", "\u3164", "\x07", "\u2800"])
def test_invisible_text_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "?", "½", "漢", "🎧", "-"])
def test_visible_text_is_not_blank(text):
    assert not is_blank(text)


def test_markers_of_missing_values():
    assert all(is_missing(value) for value in [None, "", " NULL ", "NaN", "\\N", "N/A", "<NA>"])
    assert not any(is_missing(value) for value in ["nano", "0", "naan", "-"])
