import pytest

from corpus.columns import ItemColumns
from retrieval.filtering.filter_language import parse_filter
from server.stages.selection import N_KEPT, Selection


@pytest.fixture
def columns(tiny_items) -> ItemColumns:
    return ItemColumns.of(tiny_items)


def test_without_filter_and_rule_everything_may_be_found(columns):
    assert Selection(columns).rows(None) is None
    assert Selection(columns).rows(parse_filter("price:*")) is None


def test_filter_and_rule_must_both_hold(columns):
    cheap = parse_filter("price < 20")  # rows 0 to 9, of which 0 and 7 are sold out
    hiding = Selection(columns, hide_out_of_stock=True)
    assert Selection(columns).rows(cheap).rows.tolist() == list(range(10))
    assert hiding.rows(cheap).rows.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert hiding.rows(None).rows.tolist() == [row for row in range(60) if row % 7]


def test_what_no_item_meets_is_a_set_without_rows(columns):
    found = Selection(columns).rows(parse_filter("brand = nobody"))
    assert found is not None
    assert len(found) == 0


def test_the_latest_filters_are_kept_and_no_more(columns):
    selection = Selection(columns)
    first = selection.rows(parse_filter("price < 20"))
    assert selection.rows(parse_filter("(price<20)")) is first
    for price in range(21, 21 + N_KEPT):
        selection.rows(parse_filter(f"price < {price}"))
    assert selection.rows(parse_filter("price < 20")) is not first


def test_a_category_holds_beside_filter_and_rule(columns):
    selection = Selection(columns)
    boots = selection.rows(None, category=("Shoes", "Boot"))
    assert boots.rows.tolist() == [5, 6, 7, 8, 9]
    assert selection.rows(None, category=("Shoes > Boot",)).rows.tolist() == [5, 6, 7, 8, 9]
    assert selection.rows(parse_filter("brand = acme"), category=("shoes",)).rows.tolist() == [0, 5, 10]
    hiding = Selection(columns, hide_out_of_stock=True)
    assert hiding.rows(None, category=("shoes", "boot")).rows.tolist() == [5, 6, 8, 9]
    assert len(selection.rows(None, category=("sho*",))) == 0


def test_rows_can_be_left_out_without_touching_what_is_kept(columns):
    selection = Selection(columns)
    cheap = parse_filter("price < 13")
    assert selection.rows(cheap, without=[1]).rows.tolist() == [0, 2]
    assert selection.rows(cheap).rows.tolist() == [0, 1, 2]
    assert selection.rows(None, without=[1, 1]).rows.tolist() == [0, *range(2, 60)]
    assert selection.rows(None, without=()) is None
