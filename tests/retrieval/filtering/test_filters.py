from datetime import UTC, datetime, timedelta, timezone

import pytest

from corpus.errors import BadFilter
from retrieval.filtering.filters import And, Comparison, Filter, FilterLimits, Not, Or, render, without

NIKE = Comparison("brand", "=", "Nike")
CHEAP = Comparison("price", "<", 50)
RED = Comparison("attributes.color", ":", "red")


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("colour", "=", "red"),
        ("attributes", "=", "red"),
        ("attributes", ":", "*"),
        ("attributes.", "=", "red"),
        ("attributes. ", "=", "red"),
        ("brand", "<", "Nike"),
        ("category", ">=", "Shoes"),
        ("in_stock", "<", True),
        ("price", "~", 5),
        ("price", "=", "cheap"),
        ("price", "<", "*"),
        ("price", "<", float("nan")),
        ("price", "<", 10**400),
        ("price", "<", True),
        ("price", "<", datetime(2026, 1, 1, tzinfo=UTC)),
        ("attributes.size", ">", "XL"),
        ("updated_at", ">", "yesterday"),
        ("updated_at", ">", 2026),
        ("in_stock", "=", "1"),
        ("in_stock", "=", 1),
        ("brand", "=", " "),
        ("brand", "=", ""),
        ("brand", "=", True),
        ("category", ":", " > "),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(field, operator, value):
    with pytest.raises(BadFilter, match=r"^expected .*, got "):
        Comparison(field, operator, value)


def test_an_unknown_field_is_answered_with_the_known_ones():
    with pytest.raises(BadFilter, match=r"brand, currency, category, price, in_stock, updated_at.*attributes\.NAME"):
        Comparison("colour", "=", "red")


def test_values_are_kept_in_the_type_of_their_field():
    assert Comparison("price", "<", "5e1") == Comparison("price", "<", 50)
    assert Comparison("in_stock", "=", "TRUE").value is True
    assert Comparison("attributes.size", ">", "9").value == 9.0
    assert Comparison("attributes.size", "=", 9).value == "9"
    assert Comparison("attributes.ean", "=", 4006381333931).value == "4006381333931"
    assert Comparison("attributes.size", "=", 9.25).value == "9.25"
    morning = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert Comparison("updated_at", ">", morning) == Comparison("updated_at", ">", "2026-03-01")


def test_a_map_has_its_keys():
    assert Comparison("attributes", ":", "color") == Comparison("attributes.color", ":", "*")


def test_joining_nothing_is_refused():
    for kind in (And, Or):
        with pytest.raises(BadFilter, match="one condition or more"):
            kind()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (And(NIKE, Or(CHEAP, RED)), 'brand = "Nike" AND (price < 50.0 OR attributes.color : "red")'),
        (Not(And(NIKE, CHEAP)), 'NOT (brand = "Nike" AND price < 50.0)'),
        (Comparison("attributes.screen size", ">=", 15), 'attributes."screen size" >= 15.0'),
        (Comparison("attributes.OR", ":", "*"), 'attributes."OR" : *'),
        (Comparison("brand", "=", 'a "b" \\'), 'brand = "a \\"b\\" \\\\"'),
        (Comparison("in_stock", "!=", False), "in_stock != false"),
        (Comparison("updated_at", "<", "2026-03-01"), 'updated_at < "2026-03-01T00:00:00+00:00"'),
    ],
)
def test_filters_are_written_in_the_language(found, text):
    assert render(found) == text


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (NIKE, None),
        (CHEAP, CHEAP),
        (And(NIKE, CHEAP, RED), And(CHEAP, RED)),
        (And(NIKE, CHEAP), CHEAP),
        (Or(NIKE, CHEAP), None),  # any item fits for some brand
        (And(Or(NIKE, CHEAP), RED), RED),
        (Not(NIKE), None),
        (Not(Or(NIKE, CHEAP)), Not(CHEAP)),
        (Not(And(NIKE, CHEAP)), None),
        (Not(Not(And(NIKE, CHEAP))), Not(Not(CHEAP))),
        (Not(Not(Or(NIKE, CHEAP))), None),
    ],
)
def test_leaving_a_field_out_keeps_what_the_other_fields_demand(found: Filter, left: Filter | None):
    assert without(found, {"brand"}) == left


def test_limits_count_comparisons_and_levels():
    FilterLimits(terms=3, depth=2).check(And(NIKE, Not(CHEAP), RED))
    with pytest.raises(BadFilter, match="at most 2 comparisons, got 3"):
        FilterLimits(terms=2).check(And(NIKE, Not(CHEAP), RED))
    with pytest.raises(BadFilter, match="at most 1 levels of AND, OR and NOT, got 2"):
        FilterLimits(depth=1).check(And(NIKE, Not(CHEAP), RED))


def test_the_deepest_filter_is_refused_without_exhausting_the_stack():
    deep: Filter = NIKE
    for _ in range(5_000):
        deep = Not(deep)
    with pytest.raises(BadFilter, match="got 5000"):
        FilterLimits().check(deep)
