import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import BadFilter
from retrieval.filtering.filter_language import parse_filter
from retrieval.filtering.filters import And, Comparison, FilterLimits, Not, Or, render
from tests.retrieval.some_items import filters

NIKE = Comparison("brand", "=", "Nike")
CHEAP = Comparison("price", "<", 50)
RED = Comparison("attributes.color", ":", "red")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("brand = Nike", NIKE),
        ('brand="Nike"', NIKE),
        ("brand = 'Nike'", NIKE),
        (' ( brand\n=\t"Nike" ) ', NIKE),
        ('brand = "Ni\\"ke\\\\"', Comparison("brand", "=", 'Ni"ke\\')),
        ("price < 49.99", Comparison("price", "<", 49.99)),
        ("price > -5", Comparison("price", ">", -5)),
        ("price:*", Comparison("price", ":", "*")),
        ("attributes.color:red", RED),
        ("attributes:color", Comparison("attributes.color", ":", "*")),
        ('attributes."screen size" >= 15', Comparison("attributes.screen size", ">=", 15)),
        ("attributes.größe = 9", Comparison("attributes.größe", "=", "9")),
        ("attributes.a.b = c", Comparison("attributes.a.b", "=", "c")),
        ("updated_at >= 2026-03-01T12:30:00Z", Comparison("updated_at", ">=", "2026-03-01T12:30:00Z")),
        ("NOT brand = Nike", Not(NIKE)),
        ("-brand = Nike", Not(NIKE)),
        ("NOT (NOT brand = Nike)", Not(Not(NIKE))),
        ("brand = Nike AND price < 50", And(NIKE, CHEAP)),
        ("brand = Nike price < 50", And(NIKE, CHEAP)),
        ("brand = ANDROID", Comparison("brand", "=", "ANDROID")),
        ('brand = "AND"', Comparison("brand", "=", "AND")),
        # OR binds tighter than AND
        ("price < 50 AND brand = Nike OR attributes.color:red", And(CHEAP, Or(NIKE, RED))),
        ("brand = Nike OR attributes.color:red AND price < 50", And(Or(NIKE, RED), CHEAP)),
        ("(price < 50 AND brand = Nike) OR attributes.color:red", Or(And(CHEAP, NIKE), RED)),
        ("NOT brand = Nike OR price < 50", Or(Not(NIKE), CHEAP)),
        ('brand:(Nike OR "Adi das")', Or(Comparison("brand", ":", "Nike"), Comparison("brand", ":", "Adi das"))),
        ("brand = (Nike)", NIKE),
        ("price < 50 brand = (Nike OR Puma)", And(CHEAP, Or(NIKE, Comparison("brand", "=", "Puma")))),
    ],
)
def test_filters_are_read_as_the_language_means_them(text, meant):
    assert parse_filter(text) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: expected (, -, NOT or a field, got the end"),
        ("   ", "column 4: expected (, -, NOT or a field, got the end"),
        ("brand", "column 6: expected . or one of = != : < <= > >=, got the end"),
        ("brand =", "column 8: expected (, a quoted text or a value, got the end"),
        ("brand = Nike AND", "column 17: expected (, -, NOT or a field, got the end"),
        ("brand = Nike OR OR price < 5", "column 17: expected (, -, NOT or a field, got 'O'"),
        ("brand = Nike, price < 5", "column 13: expected (, ), -, AND, NOT, OR or a field, got ','"),
        ("(brand = Nike", "column 14: expected ), got the end"),
        ("brand = Nike)", "column 13: expected the end, got ')'"),
        ('brand = "Nike', "column 9: expected (, a quoted text or a value, got '\"'"),
        ("NOT NOT price < 5", "column 5: expected ( or a field, got 'N'"),
        ("red shoes", "column 5: expected . or one of = != : < <= > >=, got 's'"),
        ("cohort(x)", "column 7: expected . or one of = != : < <= > >=, got '('"),
        ("price < 5 colour = red", "column 11: expected one of the fields brand, "),
        ("price < 5 brand < Nike", "column 17: expected brand with one of = != :, got <"),
        ("price < 5 AND price < cheap", "column 23: expected price < a number"),
        ("brand:(Nike OR '')", "column 16: expected brand with a text, got a blank one"),
        ("brand != (Nike OR Puma)", "column 7: expected = or : before a choice of values, got !="),
        ("price:* attributes:*", "column 9: expected one of the fields"),
    ],
)
def test_errors_say_where_and_what(text, message):
    with pytest.raises(BadFilter) as caught:
        parse_filter(text)
    assert str(caught.value).startswith(message)


def test_values_are_not_repeated_in_errors():
    with pytest.raises(BadFilter) as caught:
        parse_filter("price < secret")
    assert "secret" not in str(caught.value)


def test_limits_are_enforced():
    five = " ".join(["price < 5"] * 5)
    parse_filter(five, FilterLimits(terms=5, characters=len(five)))
    with pytest.raises(BadFilter, match="at most 4 comparisons, got 5"):
        parse_filter(five, FilterLimits(terms=4))
    with pytest.raises(BadFilter, match=f"at most {len(five) - 1} characters"):
        parse_filter(five, FilterLimits(characters=len(five) - 1))
    with pytest.raises(BadFilter, match="at most 20 levels"):
        parse_filter("NOT (" * 21 + "price < 5" + ")" * 21)


@pytest.mark.parametrize(
    "text", ["(" * 4000, "-(" * 1300 + "price < 5" + ")" * 1300, "(" * 1500 + "price<5" + ")" * 1500]
)
def test_nesting_costs_no_stack(text):
    try:
        assert parse_filter(text) == Comparison("price", "<", 5)
    except BadFilter as exc:
        assert "level" in str(exc) or "column 4001" in str(exc)


@given(filters())
def test_a_filter_that_is_written_reads_back_the_same(found):
    assert parse_filter(render(found), FilterLimits(depth=50)) == found


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from([*"()-.:=<>*\"'\\ \n", "AND", "OR ", "NOT ", "brand", "price", "5", "<=", "attributes.a", "é"]),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_read_or_refused_as_a_filter(text):
    try:
        found = parse_filter(text)
    except BadFilter as exc:
        assert exc.field == "filter"
    else:
        assert parse_filter(render(found)) == found
