import grpc
import pytest

from corpus.errors import BadPageToken
from retrieval.filtering.facets import Facet, FacetSpec
from retrieval.filtering.filters import And, Comparison
from server.api.status import violations_of
from server.pb.tandem.search.v1 import search_pb2 as pb
from tests.server.callers import failure

QUERY = "red acme shoe"


def test_a_filter_fills_pages_from_among_what_meets_it(client):
    first = client.search(QUERY, filter='category:"shoes" AND in_stock = true', page_size=5)
    assert first.total_size == 12  # of 15 shoes, rows 0, 7 and 14 are sold out
    pages = [*first.results]
    token = first.next_page_token
    while token:
        page = client.search(QUERY, filter='category:"shoes" AND in_stock = true', page_size=5, page_token=token)
        pages, token = [*pages, *page.results], page.next_page_token
    assert len({hit.item.item_id for hit in pages}) == 12
    assert all(hit.item.category[0] == "shoes" and hit.item.in_stock for hit in pages)


def test_a_filter_as_text_and_as_a_value_are_one(client):
    typed = client.search(QUERY, filter=And(Comparison("price", "<", 20), Comparison("attributes.colour", ":", "red")))
    text = client.search(QUERY, filter="price < 20 attributes.colour:red")
    assert typed.total_size == 3
    assert [hit.item.item_id for hit in typed.results] == [hit.item.item_id for hit in text.results]


def test_a_filter_that_nothing_meets_is_an_empty_answer(client):
    response = client.search(QUERY, filter="brand = nobody", facets=["brand"])
    assert (response.results, response.total_size, response.next_page_token) == ((), 0, "")
    assert response.facets == (Facet(field="brand", values=()),)


def test_a_bad_filter_is_an_invalid_argument_that_says_where(stub):
    error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY, filter="brand = acme AND colour = red")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = violations_of(error)
    assert violation.field == "filter"
    assert violation.description.startswith("column 18: expected one of the fields")


def test_a_token_of_another_filter_is_refused(client):
    token = client.search(QUERY, filter="price < 60").next_page_token
    with pytest.raises(BadPageToken, match="another request"):
        client.search(QUERY, filter="price < 61", page_token=token)


def test_facets_travel_with_every_page(client):
    asked = [
        FacetSpec(field="brand", limit=2, excluded_filter_keys=("brand",)),
        FacetSpec(field="price", limit=1, interval_bounds=(20, 40)),
        "category",
    ]
    first = client.search(QUERY, filter="brand:(acme OR solo)", facets=asked, page_size=3)
    brand, price, category = first.facets
    assert [(value.value, value.count) for value in brand.values] == [("acme", 12), ("kiri", 12)]
    assert [(value.low, value.high, value.count) for value in price.values] == [
        (None, 20.0, 4),
        (20.0, 40.0, 8),
        (40.0, None, 12),
    ]
    counts = {value.value: value.count for value in category.values}
    assert (counts["shoes"], counts["shoes > boot"], len(counts)) == (6, 2, 16)
    second = client.search(
        QUERY, filter="brand:(acme OR solo)", facets=asked, page_size=3, page_token=first.next_page_token
    )
    assert second.facets == first.facets
