"""One page of a ranking, written once: a search that repeats is answered with the very bytes of the first answer."""

from dataclasses import dataclass

from server.api.messages import result_messages
from server.pb.tandem.search.v1 import search_pb2
from server.pipeline import present
from server.stages.ranking import RankedWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSpec:
    """Which page of a ranking is wanted, and what of its items."""

    offset: int  # results to skip, from 0
    page_size: int
    item_fields: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as it goes over the wire."""

    spec: PageSpec
    n_results: int
    results: bytes  # a SearchResponse with nothing but these

    @property
    def end(self) -> int:
        """Where the next page begins."""
        return self.spec.offset + self.n_results


def write_page(window: RankedWindow, spec: PageSpec) -> Page:
    """Cut a page from a ranking, fetch its items, and write it."""
    hits = present(window, offset=spec.offset, page_size=spec.page_size)
    message = search_pb2.SearchResponse(results=result_messages(hits, spec.item_fields))
    return Page(spec=spec, n_results=len(hits), results=message.SerializeToString())
