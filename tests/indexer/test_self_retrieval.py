import polars as pl
import pytest

from corpus.errors import ArtefactError
from corpus.items import ItemTable
from indexer.bundle import Bundle, open_bundle
from indexer.self_retrieval import check_self_retrieval, self_retrieval


@pytest.fixture(scope="module")
def bundle(built_workspace) -> Bundle:
    workspace, report = built_workspace
    return open_bundle(workspace.bundles / report.manifest.version, n_threads=1)


def test_a_whole_first_stage_finds_items_by_their_titles(bundle):
    assert self_retrieval(bundle.retriever, bundle.items, n_items=60) == 1.0
    check_self_retrieval(bundle.retriever, bundle.items, n_items=60, minimum=1.0)


def test_rows_out_of_step_are_refused(bundle):
    """The indexes know the catalogue in another order than the table of the items: every hit is somebody else."""
    shifted = ItemTable(bundle.items.frame[30:].vstack(bundle.items.frame[:30]))
    assert self_retrieval(bundle.retriever, shifted, n_items=60) < 0.5
    with pytest.raises(ArtefactError, match=r"expected 90\.0% of sampled items .*build\.min_self_retrieval"):
        check_self_retrieval(bundle.retriever, shifted, n_items=60, minimum=0.9)


def test_an_item_of_the_same_title_is_as_good_as_the_item_itself(bundle):
    """Rows are out of step again, but what is found in place of an item is called the same."""
    shifted = bundle.items.frame[30:].vstack(bundle.items.frame[:30])
    titles = pl.Series("title", ["Red  shoe" if row % 2 else "red shoe" for row in range(60)])
    assert self_retrieval(bundle.retriever, ItemTable(shifted.with_columns(titles)), n_items=60) == 1.0


def test_the_sample_is_bounded_and_the_same_every_time(bundle, monkeypatch):
    asked = []
    retrieve = type(bundle.retriever).retrieve_batch

    def listen(retriever, queries, k):
        asked.append(list(queries))
        return retrieve(retriever, queries, k)

    monkeypatch.setattr(type(bundle.retriever), "retrieve_batch", listen)
    for _ in range(2):
        self_retrieval(bundle.retriever, bundle.items, n_items=7)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 7
