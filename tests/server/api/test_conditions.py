import pytest

from retrieval.filtering.facets import FacetSpec
from retrieval.filtering.filters import And, Comparison
from server.api.conditions import read_facets, read_filter
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2 as pb

CONFIG = ServerConfig(
    max_filter_characters=60,
    max_filter_terms=2,
    max_filter_depth=1,
    max_facets=2,
    max_facet_values=3,
    default_facet_values=2,
)


def faults_of(*specs: pb.FacetSpec) -> dict[str, str]:
    faults: dict[str, str] = {}
    read_facets(specs, CONFIG, faults.__setitem__)
    return faults


def test_a_filter_is_read():
    found = read_filter("brand = Acme price < 5", CONFIG, pytest.fail)
    assert found == And(Comparison("brand", "=", "Acme"), Comparison("price", "<", 5))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_filter_is_none(text):
    assert read_filter(text, CONFIG, pytest.fail) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brand =", "column 8: expected"),
        ("price < 5 " * 3, "at most 2 comparisons"),
        ("NOT (NOT price < 5)", "at most 1 levels"),
        ("price < 5" + " " * 60, "at most 60 characters"),
    ],
)
def test_a_filter_at_fault_is_reported(text, message):
    faults: dict[str, str] = {}
    assert read_filter(text, CONFIG, faults.__setitem__) is None
    assert list(faults) == ["filter"]
    assert message in faults["filter"]


def test_facets_are_read_whole_with_the_default_limit():
    specs = [
        pb.FacetSpec(field="brand", excluded_filter_keys=["brand", "attributes.color"]),
        pb.FacetSpec(field="price", limit=3, interval_bounds=[5, 10]),
    ]
    assert read_facets(specs, CONFIG, pytest.fail) == (
        FacetSpec(field="brand", limit=2, excluded_filter_keys=("brand", "attributes.color")),
        FacetSpec(field="price", limit=3, interval_bounds=(5.0, 10.0)),
    )


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (pb.FacetSpec(), "field"),
        (pb.FacetSpec(field="colour"), "field"),
        (pb.FacetSpec(field="brand", limit=0), "limit"),
        (pb.FacetSpec(field="brand", limit=4), "limit"),
        (pb.FacetSpec(field="price"), "interval_bounds"),
        (pb.FacetSpec(field="price", interval_bounds=[1, 2, 3]), "interval_bounds"),
        (pb.FacetSpec(field="price", interval_bounds=[2, 1]), "interval_bounds"),
        (pb.FacetSpec(field="brand", excluded_filter_keys=["colour"]), "excluded_filter_keys"),
        (pb.FacetSpec(field="brand", excluded_filter_keys=["brand"] * 101), "excluded_filter_keys"),
    ],
)
def test_a_facet_at_fault_is_named_by_number_and_field(spec, field):
    assert list(faults_of(pb.FacetSpec(field="brand"), spec)) == [f"facet_specs[1].{field}"]


def test_too_many_facets_are_refused():
    assert list(faults_of(*[pb.FacetSpec(field="brand")] * 3)) == ["facet_specs"]
