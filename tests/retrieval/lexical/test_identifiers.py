import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.lexical.identifiers import item_terms, query_identifiers


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("WH-1000XM4", ["=wh1000xm4", "wh1000xm4"]),
        ("wh 1000 xm4", ["=wh1000xm4", "wh1000", "wh1000xm4", "1000xm4"]),
        ("mb123ll/a", ["=mb123lla", "mb123ll"]),
        ("#SC_141,", ["=sc141", "sc141"]),
        ("red mug", ["=redmug"]),
        ("360", ["=360"]),
        ("12345", ["=12345"]),
        ("123456", ["=123456", "123456"]),
        ("0 27242 91925 3", ["=027242919253", "27242919253"]),
        ("027242919253", ["=027242919253", "27242919253"]),
        ("0027242919253", ["=0027242919253", "27242919253"]),
        ("111 222 333", ["=111222333"]),  # no barcode has nine digits
        ("1/2in 0.75l 11/16in", ["=12in075l1116in"]),
        ("a, 100 b", ["=a100b", "100b"]),  # a comma parts what it stands between
        ("psp 3000", ["=psp3000", "psp3000"]),
        ("xbox 360", ["=xbox360"]),  # too many letters for a model number
        ("x" * 30 + "123", ["=" + "x" * 30 + "123"]),
        ("手机 X100", ["=手机x100", "x100"]),
        ("?!", []),
    ],
)
def test_query_terms(query, terms):
    assert {identifier.term for identifier in query_identifiers(query)} == set(terms)


def test_spans_and_words_of_query_identifiers():
    text = "the sony wh-1000 xm4!"
    found = [(text[i.start : i.end], i.term, i.n_words) for i in query_identifiers(text)]
    # those of the most words first
    assert found == [
        (text, "=thesonywh1000xm4", 5),
        ("wh-1000 xm4", "wh1000xm4", 3),
        ("wh-1000", "wh1000", 2),
    ]


def test_item_terms_come_from_id_title_and_attributes_each_once():
    terms = item_terms("SKU-0856456", ("Sony WH-1000XM4", "4548736112100", "wh1000xm4"))
    assert terms == ["=sku0856456", "856456", "sku0856456", "wh1000xm4", "4548736112100"]


def test_items_may_be_written_in_full_width():
    assert item_terms("ｓｋｕ１", ("ｗｈ１０００",)) == ["=sku1", "sku1", "wh1000"]


def test_neighbours_are_joined_within_one_text_only():
    assert item_terms("a", ("wh", "1000")) == ["=a"]


def test_an_id_without_letter_or_digit_has_no_terms():
    assert item_terms("#-#", ("lamp",)) == []


@given(text=st.text(max_size=60))
def test_terms_hold_no_space_and_a_query_for_an_id_always_meets_it(text):
    text = unicodedata.normalize("NFKC", text)
    items, query = item_terms(text, ()), {identifier.term for identifier in query_identifiers(text)}
    assert all(term and not any(character.isspace() for character in term) for term in [*items, *query])
    assert query <= set(items)
