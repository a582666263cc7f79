from datetime import UTC, datetime

import pytest

from retrieval.filtering.filters import Comparison
from server.api.requests import InvalidRequest, SearchCall, read_search
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.stages.wishes import Boost, Diversity, Order, Pin, Spelling, Wishes

CONFIG = ServerConfig(max_boosts=3, max_pins=3, max_excluded_items=3)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def read(**fields: object) -> SearchCall:
    return read_search(pb.SearchRequest(**{"query": "shoe", **fields}), CONFIG, now=NOW)  # type: ignore[arg-type]


def faults(**fields: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_request_without_wishes_has_none():
    assert read().task.wishes == Wishes()
    assert read().task.excluded == frozenset()


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("relevance", Order.RELEVANCE),
        ("", Order.RELEVANCE),
        ("price", Order.PRICE),
        ("  price   desc ", Order.PRICE_DESC),
        ("newest", Order.NEWEST),
    ],
)
def test_an_order_is_read(text, order):
    assert read(order_by=text).task.wishes.order is order


@pytest.mark.parametrize("text", ["Price", "price asc", "title", "price, newest", "pricedesc"])
def test_any_other_order_is_refused_and_the_known_ones_are_named(text):
    assert faults(order_by=text) == {
        "order_by": "expected one of relevance, price, price desc, newest, got something else"
    }


def test_boosts_are_read():
    specs = [pb.BoostSpec(condition="brand = acme", boost=-1), pb.BoostSpec(condition="price < 5", boost=0.5)]
    assert read(boost_specs=specs).task.wishes.boosts == (
        Boost(condition=Comparison("brand", "=", "acme"), boost=-1),
        Boost(condition=Comparison("price", "<", 5), boost=0.5),
    )


@pytest.mark.parametrize("boost", [1.01, -1.01, float("nan"), float("inf")])
def test_a_boost_outside_its_limits_is_refused(boost):
    found = faults(boost_specs=[pb.BoostSpec(condition="price < 5", boost=boost)])
    assert list(found) == ["boost_specs[0].boost"]
    assert "expected -1 to 1" in found["boost_specs[0].boost"]


@pytest.mark.parametrize("condition", ["", " ", "price <", "colour = red"])
def test_a_boost_without_a_condition_that_can_be_read_is_refused(condition):
    good = pb.BoostSpec(condition="price < 5", boost=1)
    assert list(faults(boost_specs=[good, pb.BoostSpec(condition=condition, boost=1)])) == ["boost_specs[1].condition"]


def test_too_many_boosts_pins_and_exclusions_are_refused():
    found = faults(
        boost_specs=[pb.BoostSpec(condition="price < 5", boost=1)] * 4,
        pins=[pb.Pin(item_id=f"i-{n}", rank=n) for n in range(1, 5)],
        excluded_item_ids=["a", "b", "c", "d"],
    )
    assert set(found) == {"boost_specs", "pins", "excluded_item_ids"}


def test_all_boosts_together_have_no_more_comparisons_than_a_filter():
    def spec(n: int) -> pb.BoostSpec:
        return pb.BoostSpec(condition=" OR ".join(["price < 5"] * n), boost=1)

    assert len(read(boost_specs=[spec(100), spec(100)]).task.wishes.boosts) == 2
    found = faults(boost_specs=[spec(100), spec(101)])
    assert found == {"boost_specs": "expected at most 200 comparisons in all conditions, got more; shorten them"}
    deep = "(" * 20 + "price < 5" + ")" * 20
    assert len(read(boost_specs=[pb.BoostSpec(condition=deep, boost=1)]).task.wishes.boosts) == 1


def test_pins_are_read():
    pins = [pb.Pin(item_id="i-1", rank=2), pb.Pin(item_id="i-2", rank=1000)]
    assert read(pins=pins).task.wishes.pins == (Pin(item_id="i-1", rank=2), Pin(item_id="i-2", rank=1000))


@pytest.mark.parametrize(
    ("pins", "fields"),
    [
        ([("i-1", 0)], ["pins[0].rank"]),
        ([("i-1", 1001)], ["pins[0].rank"]),
        ([("", 1)], ["pins[0].item_id"]),
        ([("i-1", 1), ("i-2", 1)], ["pins[1].rank"]),
        ([("i-1", 1), ("i-1", 2)], ["pins[1].item_id"]),
    ],
)
def test_pins_at_fault_are_named(pins, fields):
    assert list(faults(pins=[pb.Pin(item_id=item_id, rank=rank) for item_id, rank in pins])) == fields


def test_excluded_items_are_read_once_each():
    assert read(excluded_item_ids=["i-1", "i-2", "i-1"]).task.excluded == {"i-1", "i-2"}


def test_an_excluded_id_that_is_none_is_refused_and_not_repeated():
    found = faults(excluded_item_ids=["i-1", "secret\n"])
    assert list(found) == ["excluded_item_ids[1]"]
    assert "secret" not in found["excluded_item_ids[1]"]


@pytest.mark.parametrize(
    "fields",
    [
        {"order_by": "price"},
        {"boost_specs": [pb.BoostSpec(condition="price < 5", boost=1)]},
        {"pins": [pb.Pin(item_id="i-1", rank=1)]},
        {"excluded_item_ids": ["i-1"]},
        {"diversity": pb.DiversitySpec(max_per_brand=2)},
        {"min_purchase_probability": 0.1},
        {"params": pb.SearchParams(exact=True)},
        {"spell_correction": pb.SPELL_CORRECTION_MODE_AUTO},
        {"similar_to_item_id": "i-1"},
        {"page_category": ["shoes"]},
        {"session_id": "s"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_changes_a_ranking_changes_the_digest_that_its_pages_share(fields):
    assert read(**fields).digest != read().digest
    assert read(**fields, page_size=3).digest == read(**fields, page_size=5).digest


def test_diversity_is_read_with_the_pages_that_it_counts():
    spec = pb.DiversitySpec(strength=0.5, max_per_brand=2, max_per_category=3)
    wanted = Diversity(strength=0.5, max_per_brand=2, max_per_category=3, page_size=10, first_page=10)
    assert read(diversity=spec).task.wishes.diversity == wanted
    got = read(diversity=spec, page_size=5, offset=7).task.wishes.diversity
    assert got is not None
    assert (got.page_size, got.first_page) == (5, 2)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("diversity.strength", {"diversity": pb.DiversitySpec(strength=1.1)}),
        ("diversity.strength", {"diversity": pb.DiversitySpec(strength=float("nan"))}),
        ("diversity.strength", {"diversity": pb.DiversitySpec(strength=0.1), "order_by": "newest"}),
        ("diversity.max_per_brand", {"diversity": pb.DiversitySpec(max_per_brand=0)}),
        ("diversity.max_per_category", {"diversity": pb.DiversitySpec(max_per_category=-1)}),
        ("min_purchase_probability", {"min_purchase_probability": -0.1}),
        ("min_purchase_probability", {"min_purchase_probability": float("nan")}),
    ],
)
def test_diversity_and_a_cut_off_outside_their_limits_are_refused(field, fields):
    assert list(faults(**fields)) == [field]


def test_limits_of_brands_go_with_any_order():
    assert read(diversity=pb.DiversitySpec(strength=0.0, max_per_brand=1), order_by="price").task.wishes.diversity


def test_a_cut_off_and_exactness_are_read():
    call = read(min_purchase_probability=0.25, params=pb.SearchParams(exact=True))
    assert (call.task.wishes.least_probability, call.task.exact) == (0.25, True)
    assert not read().task.exact


@pytest.mark.parametrize(
    ("mode", "spelling"),
    [
        (pb.SPELL_CORRECTION_MODE_UNSPECIFIED, Spelling.WORDS),
        (pb.SPELL_CORRECTION_MODE_OFF, Spelling.OFF),
        (pb.SPELL_CORRECTION_MODE_SUGGEST, Spelling.SUGGEST),
        (pb.SPELL_CORRECTION_MODE_AUTO, Spelling.AUTO),
    ],
)
def test_a_mode_of_spelling_is_read(mode, spelling):
    assert read(spell_correction=mode).task.spelling is spelling


def test_an_unknown_mode_of_spelling_is_refused():
    assert list(faults(spell_correction=9)) == ["spell_correction"]


def test_an_item_or_a_category_takes_the_place_of_a_query():
    call = read(query="", similar_to_item_id="i-1")
    assert (call.task.query, call.task.similar_to) == ("", "i-1")
    call = read(query=" ", page_category=["Shoes", "Boot"])
    assert (call.task.query, call.task.category) == ("", ("Shoes", "Boot"))
    assert read(query="Red", page_category=["shoes"]).task.query == "red"
    assert list(faults(query="")) == ["query"]
    assert list(faults(query="\u200b", page_category=["shoes"])) == ["query"]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("similar_to_item_id", {"similar_to_item_id": ""}),
        ("similar_to_item_id", {"similar_to_item_id": "a\n"}),
        ("session_id", {"session_id": ""}),
        ("page_category", {"page_category": ["x"] * 21}),
        ("page_category[1]", {"page_category": ["shoes", " > "]}),
        ("page_category[0]", {"page_category": ["x" * 257]}),
        ("labels", {"labels": {str(number): "" for number in range(21)}}),
        ("labels", {"labels": {"": "a"}}),
        ("labels", {"labels": {"Page": "a"}}),
        ("labels", {"labels": {"page": "red shoe"}}),
        ("labels", {"labels": {"page": "x" * 64}}),
    ],
)
def test_other_fields_outside_their_limits_are_refused(field, fields):
    assert list(faults(**fields)) == [field]


def test_labels_are_read_and_may_differ_from_page_to_page():
    call = read(labels={"page": "home-1", "flag": ""})
    assert call.labels == {"page": "home-1", "flag": ""}
    assert call.digest == read().digest


def test_a_visit_is_read():
    assert read(session_id="s-1").task.session == "s-1"
