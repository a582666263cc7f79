"""Searches that the store's owner knows the answer to: ``[[build.canaries]]``."""

from collections.abc import Iterator, Sequence

from corpus.errors import ArtefactError
from indexer.bundle import Bundle
from indexer.config import Canary
from rerank.config import RERANK_DEPTH
from retrieval.arrays import IntArray

FOUND = 200  # candidates of the first stage, as many as the server finds by default


def check_canaries(bundle: Bundle, canaries: Sequence[Canary]) -> None:
    """Refuse a bundle that answers a canary otherwise than expected, to a shopper without a history.

    Args:
        bundle: As it will be served.
        canaries: In the order of the configuration.
    Raises:
        ArtefactError: Naming every canary that failed. Its query is the configuration's own, no shopper's.
    """
    failed = list(_failures(bundle, canaries))
    if failed:
        raise ArtefactError(
            f"expected bundle {bundle.manifest.version} to answer every canary, got {len(failed)} of {len(canaries)} "
            f"wrong: {'; '.join(failed)}; mend the catalogue or the models, or change build.canaries if the store has "
            "changed"
        )


def _failures(bundle: Bundle, canaries: Sequence[Canary]) -> Iterator[str]:
    for number, canary in enumerate(canaries):
        name = f"build.canaries[{number}] ({canary.query!r})"
        if canary.item_id is not None and bundle.items.row_of(canary.item_id) is None:
            yield f"{name}: the catalogue has no item {canary.item_id!r}"
            continue
        rows = _answer(bundle, canary.query)
        place = next((rank for rank, row in enumerate(rows, start=1) if _fits(bundle, canary, int(row))), None)
        if place is None or place > canary.within:
            wanted = canary.item_id if canary.item_id is not None else f"a title with {canary.title_contains!r}"
            found = "not found" if place is None else f"found at {place}"
            yield f"{name}: {wanted} within {canary.within} wanted, {found}"


def _answer(bundle: Bundle, query: str) -> IntArray:
    candidates = bundle.retriever.retrieve(query, FOUND)
    if bundle.reranker is None:
        return candidates.rows
    return candidates.rows[bundle.reranker.rerank(query, (), candidates, depth=RERANK_DEPTH).order]


def _fits(bundle: Bundle, canary: Canary, row: int) -> bool:
    if canary.item_id is not None:
        return bundle.items.ids[row] == canary.item_id
    return str(canary.title_contains).casefold() in bundle.items.titles([row])[0].casefold()
