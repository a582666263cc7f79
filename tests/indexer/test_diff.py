import polars as pl
import pytest

from corpus.errors import VersionNotFound
from corpus.items import Item, ItemTable
from corpus.workspace import Workspace
from indexer.build import build_bundle
from indexer.diff import diff_answers, diff_bundles, diff_items, diff_settings, sample_queries
from indexer.manifest import FileEntry, read_manifest
from tests.conftest import catalogue, write_prepared
from tests.indexer.small_bundles import manifest_of, write_small_bundle
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER, copy_of


def test_items_are_compared_field_by_field_whatever_their_order():
    before = [
        Item(item_id="a", title="A", price=1.0),
        Item(item_id="b", title="B", category=("x", "y"), attributes={"colour": ("red",)}),
        Item(item_id="c", title="C"),
        Item(item_id="d", title="D", category=("x",)),
    ]
    after = [
        Item(item_id="d", title="D", category=("x",)),
        Item(item_id="e", title="E"),
        Item(item_id="b", title="B", category=("x", "z"), attributes={"colour": ("blue",)}),
        Item(item_id="a", title="A", brand="new"),
    ]
    changes = diff_items(ItemTable.from_items(before), ItemTable.from_items(after))
    assert changes.added == ("e",)
    assert changes.removed == ("c",)
    assert changes.changed == {"b": ("category", "attributes"), "a": ("brand", "price")}
    assert changes.n_unchanged == 1


def test_a_catalogue_does_not_differ_from_itself():
    items = ItemTable.from_items(catalogue())
    changes = diff_items(items, ItemTable(items.frame.reverse()))
    assert (changes.added, changes.removed, changes.changed, changes.n_unchanged) == ((), (), {}, 60)


def test_settings_are_compared_by_their_dotted_names(tmp_path):
    folder = write_small_bundle(tmp_path, "v1")
    before = manifest_of(folder, "v1", config={"build": {"engine": "openvino"}})
    other = {"again": FileEntry(sha256="0" * 64, size_bytes=1)}
    after = manifest_of(
        folder, "v2", parent="v1", files=other, config={"build": {"engine": "torch", "more": 1}}, blend=None, n_items=61
    )
    changes = {change.name: (change.before, change.after) for change in diff_settings(before, after)}
    assert changes.pop("config.build.engine") == ("openvino", "torch")
    assert changes.pop("config.build.more") == (None, 1)
    assert changes.pop("n_items") == (60, 61)
    assert changes.pop("blend.fingerprint") == ("f3", None)
    assert {name.split(".")[0] for name in changes} == {"blend"}
    assert diff_settings(before, before) == ()


def test_answers_are_compared_by_the_share_that_both_have():
    before = [["a", "b"], ["a", "b"], ["a"], []]
    after = [["a", "b"], ["b", "c"], [], []]
    changes = diff_answers(before, after, "titles")
    assert changes.n_queries == 4
    assert changes.overlap == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert changes.same_order == pytest.approx(2 / 4)
    order = diff_answers([["a", "b"]], [["b", "a"]], "titles")
    assert (order.overlap, order.same_order) == (1.0, 0.0)
    assert diff_answers([], [], "titles").overlap is None


def test_searches_come_from_validation_or_else_from_titles(tiny_prepared, tiny_items, tmp_path):
    source, queries = sample_queries(tiny_prepared.folder, (tiny_items,), 10)
    assert (source, len(queries)) == ("validation searches", 10)
    known = {example.query for example in tiny_prepared.examples("valid", with_history=False)}
    assert set(queries) <= known
    source, queries = sample_queries(tmp_path, (tiny_items,), 10)
    assert (source, len(set(queries))) == ("titles", 10)
    assert set(queries) <= set(tiny_items.column("title"))


@pytest.fixture(scope="module")
def two_bundles(built_workspace, tmp_path_factory) -> Workspace:
    """Bundle v2 lacks two items of v1, has one more, names one differently, and searches flat."""
    workspace = copy_of(built_workspace[0], tmp_path_factory.mktemp("diff") / "store")
    items = catalogue()[2:]
    items[0] = Item(item_id="i-02", title="blue acme canoe", brand="acme", category=("shoes", "shoe"))
    items.append(Item(item_id="i-new", title="red acme canoe"))
    write_prepared(workspace.data, ItemTable.from_items(items))
    flat = RETRIEVER.model_copy(update={"index": RETRIEVER.index.model_copy(update={"kind": "flat"})})
    build_bundle(workspace, flat, RERANKER, BUILD)
    return workspace


def test_two_real_bundles(two_bundles):
    found = diff_bundles(two_bundles, "v1", "v2", n_queries=12)
    assert found.items.added == ("i-new",)
    assert found.items.removed == ("i-00", "i-01")
    assert "title" in found.items.changed["i-02"]
    assert {"i-02"} == set(found.items.changed)
    settings = {change.name: (change.before, change.after) for change in found.settings}
    assert settings["config.retriever.index.kind"] == ("hnsw", "flat")
    assert settings["n_items"] == (60, 59)
    assert found.answers.source == "validation searches"
    assert found.answers.n_queries == 12
    assert 0 < found.answers.overlap < 1
    text = found.text()
    assert "items: 1 added, 2 removed, 1 changed" in text
    assert "  - i-00, i-01" in text
    assert "config.retriever.index.kind: hnsw → flat" in text
    assert read_manifest(two_bundles.bundles / "v2").parent is None


def test_a_bundle_answers_as_itself(two_bundles):
    found = diff_bundles(two_bundles, "v2", "v2", n_queries=5)
    assert (found.answers.overlap, found.answers.same_order) == (1.0, 1.0)
    assert found.settings == ()


def test_nothing_asked_is_said(two_bundles):
    found = diff_bundles(two_bundles, "v1", "v2", n_queries=0)
    assert found.answers.overlap is None
    assert found.text().endswith("answers: nothing to ask")


def test_an_unknown_version_is_refused(two_bundles):
    with pytest.raises(VersionNotFound, match="v9"):
        diff_bundles(two_bundles, "v1", "v9", n_queries=1)


def test_null_and_a_value_differ():
    before = ItemTable.from_items([Item(item_id="a", title="A", in_stock=None)])
    after = ItemTable(before.frame.with_columns(pl.lit(False).alias("in_stock")))
    assert diff_items(before, after).changed == {"a": ("in_stock",)}
