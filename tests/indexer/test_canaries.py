import pytest
from pydantic import ValidationError

from corpus.errors import ArtefactError
from indexer.build import build_bundle
from indexer.bundle import Bundle, open_bundle
from indexer.canaries import check_canaries
from indexer.config import Canary
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

QUERY = "red acme running shoe"  # the title of item i-00


@pytest.fixture(scope="module")
def bundle(built_workspace) -> Bundle:
    workspace, report = built_workspace
    return open_bundle(workspace.bundles / report.manifest.version, n_threads=1)


@pytest.fixture(scope="module")
def served(bundle) -> list[str]:
    """Item ids as they are served for the query, best first."""
    candidates = bundle.retriever.retrieve(QUERY, 200)
    rows = candidates.rows[bundle.reranker.rerank(QUERY, (), candidates, depth=30).order]
    return [bundle.items.ids[row] for row in rows]


def test_an_item_at_its_place_passes_and_one_place_less_does_not(bundle, served):
    check_canaries(bundle, [Canary(query=QUERY, item_id=served[6], within=7)])
    with pytest.raises(ArtefactError, match=rf"{served[6]} within 6 wanted, found at 7"):
        check_canaries(bundle, [Canary(query=QUERY, item_id=served[6], within=6)])


def test_a_text_of_the_title_counts_in_any_case(bundle, served):
    first = bundle.items.item(bundle.items.row_of(served[0]))
    check_canaries(bundle, [Canary(query=QUERY, title_contains=first.title[2:-2].upper(), within=1)])
    with pytest.raises(ArtefactError, match="a title with 'canoe' within 10 wanted, not found"):
        check_canaries(bundle, [Canary(query=QUERY, title_contains="canoe")])


def test_every_canary_that_fails_is_named_by_its_place_in_the_configuration(bundle, served):
    canaries = [
        Canary(query="rake", title_contains="canoe"),
        Canary(query=QUERY, item_id=served[0], within=1),
        Canary(query="hose", item_id="i-99"),
    ]
    with pytest.raises(ArtefactError) as caught:
        check_canaries(bundle, canaries)
    message = str(caught.value)
    assert "2 of 3 wrong" in message
    assert "build.canaries[0] ('rake'): a title with 'canoe'" in message
    assert "build.canaries[2] ('hose'): the catalogue has no item 'i-99'" in message
    assert "canaries[1]" not in message


def test_without_a_second_stage_the_first_ones_order_is_what_is_asked(bundle):
    from dataclasses import replace

    alone = replace(bundle, reranker=None)
    first = bundle.items.ids[bundle.retriever.retrieve(QUERY, 200).rows[0]]
    check_canaries(alone, [Canary(query=QUERY, item_id=first, within=1)])


@pytest.mark.parametrize("fields", [{}, {"item_id": "a", "title_contains": "b"}, {"title_contains": ""}])
def test_a_canary_has_one_answer(fields):
    with pytest.raises(ValidationError, match="either item_id or title_contains"):
        Canary(query="shoe", **fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canaries": (Canary(query="rake", title_contains="canoe"),)}, r"build\.canaries\[0\] \('rake'\)"),
        ({"min_self_retrieval": 1.0}, r"build\.min_self_retrieval"),
    ],
)
def test_a_build_that_fails_leaves_no_bundle(workspace, changes, message, monkeypatch):
    monkeypatch.setattr("indexer.self_retrieval.self_retrieval", lambda *arguments, **options: 0.95)
    with pytest.raises(ArtefactError, match=message):
        build_bundle(workspace, RETRIEVER, RERANKER, BUILD.model_copy(update=changes))
    assert not [path for path in workspace.bundles.iterdir() if path.is_dir()]
