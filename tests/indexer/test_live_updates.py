"""Live updates against a dictionary: whatever is called, crashes or is rebuilt, searches find what was acknowledged."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from corpus.columns import ItemColumns
from corpus.errors import ArtefactError, UpdatesRefused
from corpus.items import Item, ItemTable
from corpus.live_items import merge_changes
from corpus.live_log import LOG_FILE, Held, file_head, read_log
from corpus.live_log_writer import LiveLogWriter
from corpus.prepared import Prepared
from corpus.workspace import Workspace
from indexer import live_updates
from indexer.build import build_bundle
from indexer.bundle import Bundle, open_bundle, open_item_encoder
from indexer.live_updates import LiveUpdates
from indexer.manifest import read_manifest
from retrieval.live_retriever import LiveRetriever
from retrieval.passages import passage
from retrieval.vectors.vector_index import VectorIndex
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

WORDS = ("red", "acme", "boot", "zork", "gizmotron", "7-zip", "пальто", "x")


@pytest.fixture(scope="module")
def bundle(built_workspace) -> Bundle:
    workspace, report = built_workspace
    return open_bundle(workspace.bundles / report.manifest.version, n_threads=1)


@pytest.fixture
def store(tmp_path: Path) -> Workspace:
    """A store without bundles: the log alone."""
    return Workspace(tmp_path / "store")


def updates_of(bundle: Bundle, workspace: Workspace, *, max_changed: int = 1000) -> LiveUpdates:
    return LiveUpdates(bundle, workspace, max_changed=max_changed, n_threads=1)


def catalogue(bundle: Bundle) -> dict[str, Item]:
    """What a snapshot holds."""
    ids = dict.fromkeys(bundle.items.ids)
    return {i: bundle.items.item(row) for i in ids if (row := bundle.items.row_of(i)) is not None}


def check_against(model: dict[str, Item], bundle: Bundle, vectors: dict[str, np.ndarray], query: str) -> None:
    """Compare both channels with brute force over the dictionary."""
    assert catalogue(bundle) == model
    retriever = bundle.retriever
    vector = retriever.encoder.encode([query])
    ids = list(model)
    scores = {each: float(vectors[each] @ vector[0]) for each in ids}
    hits = retriever._near(vector, 10, exact=True, allowed=None)
    got = [bundle.items.item(row).item_id for row in hits.ids[0].tolist() if row >= 0]
    want = sorted(scores.values(), reverse=True)[:10]
    assert len(got) == len(set(got)) == len(want)
    np.testing.assert_allclose([scores[each] for each in got], want, atol=1e-5)
    np.testing.assert_allclose(hits.scores[0][: len(want)], want, atol=1e-5)
    # words find whoever has one of them, in any field that counts
    rows, lexical = retriever._worded(query, 1000, allowed=None)
    index = retriever.lexical_index
    beside = retriever.delta.words if isinstance(retriever, LiveRetriever) else None
    terms = {term for term, _ in index.query_terms(index.correct(query, beside=beside) or query)}
    words = index.analyse(ItemTable.from_items(model.values()))
    holders = {
        each
        for each, held in zip(ids, words, strict=True)
        if any(terms & set(held.terms.get(name, ())) for name in index.boosts)
    }
    assert {bundle.items.item(row).item_id for row in rows.tolist()} == holders
    assert (np.diff(lexical) <= 0).all()


class LiveMachine(RuleBasedStateMachine):
    """Calls in any order; the store's files are all that a crash leaves."""

    bundle: Bundle
    root: Path
    encoder = None
    number = 0

    @initialize(query=st.sampled_from(WORDS))
    def begin(self, query: str) -> None:
        self.query = query
        type(self).number += 1
        self.workspace = Workspace(self.root / str(self.number))
        self.built = self.bundle
        self.updates = updates_of(self.built, self.workspace)
        self.model = catalogue(self.bundle)

    ids = st.sampled_from(["i-01", "i-02", "i-17", "n-1", "n-2"])
    titles = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)

    @rule(item_id=ids, title=titles, brand=st.sampled_from([None, "zork"]))
    def upsert(self, item_id: str, title: str, brand: str | None) -> None:
        item = Item(item_id=item_id, title=title, brand=brand)
        self.updates.upsert([item])
        self.model[item_id] = item

    @rule(item_ids=st.lists(ids, min_size=1, unique=True))
    def delete(self, item_ids: list[str]) -> None:
        unknown = self.updates.delete(item_ids)
        assert unknown == [each for each in item_ids if each not in self.model]
        for item_id in item_ids:
            self.model.pop(item_id, None)

    @rule(item_id=ids, price=st.floats(1, 9))
    def reprice(self, item_id: str, price: float) -> None:
        if item_id in self.model:
            self.model[item_id] = replace(self.model[item_id], price=price)
            self.updates.upsert([self.model[item_id]])

    @rule(tail=st.binary(max_size=40))
    def crash(self, tail: bytes) -> None:
        self.updates.close()  # lets go of the lock, as the end of a process does
        path = self.workspace.live / LOG_FILE
        if path.exists():
            with path.open("ab") as file:
                file.write(tail)
        self.updates = updates_of(self.built, self.workspace)

    @rule(shift=st.integers(0, 3), elsewhere=st.booleans())
    def rebuild(self, shift: int, elsewhere: bool) -> None:
        """Serve a bundle that holds the changes up to one: rows differ, numbers go on. Elsewhere another log counts."""
        log = read_log(self.workspace.live)
        held = log.changes[: max(0, len(log.changes) - shift)]
        items = merge_changes(self.bundle.items, held)
        fields = self.bundle.stage.item_fields
        base = self.bundle.retriever
        vectors = self.encoder.encode([passage(items.item(row), fields) for row in range(len(items))])
        index = VectorIndex.build(vectors, self.bundle.stage.index)
        lexical = type(base.lexical_index).build(items, self.bundle.stage.lexical)
        retriever = type(base)(base.encoder, index, lexical, base.weights)
        manifest = self.bundle.manifest.model_copy(
            update={
                "live_log": "f" * 32 if elsewhere else log.identity,
                "live_sequence": 99 if elsewhere else len(held),
                "n_items": len(items),
            }
        )
        self.built = replace(
            self.bundle,
            manifest=manifest,
            items=items,
            columns=ItemColumns.of(items),
            retriever=retriever,
            reranker=None,
        )
        self.updates.serve(self.built)

    @invariant()
    def both_channels_find_what_is_there(self) -> None:
        texts = {each: passage(item, self.bundle.stage.item_fields) for each, item in self.model.items()}
        missing = {text for text in texts.values() if text not in self.known}
        self.known.update(zip(missing, self.encoder.encode(list(missing)), strict=True))
        vectors = {each: self.known[text] for each, text in texts.items()}
        # what changed items were like when they were built must lead nowhere
        for query in (self.query, *(self.bundle.items.item(row).title for row in (1, 17))):
            check_against(self.model, self.updates.bundle, vectors, query)

    def teardown(self) -> None:
        self.updates.close()


def test_whatever_happens_searches_find_what_was_acknowledged(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(live_updates, "_unneeded", lambda _: 0)  # this store's bundles are in memory
    LiveMachine.bundle, LiveMachine.root, LiveMachine.known = bundle, tmp_path, {}
    LiveMachine.encoder = open_item_encoder(bundle)
    run_state_machine_as_test(LiveMachine, settings=settings(max_examples=12, stateful_step_count=12, deadline=None))


# one by one


def test_a_restart_embeds_nothing_that_the_log_knows(bundle, store, monkeypatch):
    first = updates_of(bundle, store)
    first.upsert([Item(item_id="n-1", title="zork gizmotron"), Item(item_id="i-01", title="red boot")])
    first.close()
    want = first.bundle.retriever.vectors_of(np.array([1, 60]))
    monkeypatch.setattr(live_updates, "open_item_encoder", lambda *_, **__: pytest.fail("embedded again"))
    second = updates_of(bundle, store)
    np.testing.assert_array_equal(second.bundle.retriever.vectors_of(np.array([1, 60])), want)


def test_vectors_of_another_encoder_are_not_taken(bundle, store):
    first = updates_of(bundle, store)
    first.upsert([Item(item_id="n-1", title="zork gizmotron")])
    first.close()
    entry = bundle.manifest.retriever.model_copy(update={"item_encoder_fingerprint": "f" * 64})
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"retriever": entry}))
    second = updates_of(other, store)  # the same graph under another name embeds it anew
    assert read_log(store.live).changes[0].encoder != "f" * 64
    np.testing.assert_allclose(
        second.bundle.retriever.vectors_of(np.array([60])), first.bundle.retriever.vectors_of(np.array([60])), atol=1e-6
    )


def test_a_bundle_that_cannot_embed_is_served_without_and_takes_nothing(bundle, store, monkeypatch, caplog):
    first = updates_of(bundle, store)
    first.upsert([Item(item_id="n-1", title="zork gizmotron")])
    first.close()
    entry = bundle.manifest.retriever.model_copy(update={"item_encoder_fingerprint": "f" * 64})
    stage = bundle.stage.model_copy(update={"towers": "separate"})
    old = replace(bundle, stage=stage, manifest=bundle.manifest.model_copy(update={"retriever": entry}))
    second = updates_of(old, store)
    assert second.bundle is old
    assert "1 live updates are missing" in caplog.text
    with pytest.raises(UpdatesRefused, match="build it again and publish"):
        second.delete(["i-01"])


def test_a_snapshot_that_cannot_be_logged_is_never_served(bundle, store, monkeypatch):
    updates = updates_of(bundle, store)
    updates.upsert([Item(item_id="n-1", title="zork")])
    before = updates.bundle

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("corpus.live_log_writer.os.fsync", fail)
    with pytest.raises(ArtefactError):
        updates.delete(["n-1"])
    assert updates.bundle is before
    with pytest.raises(UpdatesRefused, match="restart the server"):
        updates.delete(["n-1"])


def of(bundle: Bundle, **manifest: object) -> Bundle:
    """The same bundle, as if its manifest said something else."""
    return replace(bundle, manifest=bundle.manifest.model_copy(update=manifest))


def test_a_bundle_from_elsewhere_takes_no_acknowledged_update_away(bundle, store):
    updates = updates_of(bundle, store)
    updates.upsert([Item(item_id="n-1", title="zork")])
    pulled = of(bundle, live_log="f" * 32, live_sequence=120)
    updates.serve(pulled)
    updates.upsert([Item(item_id="n-2", title="gizmotron")])
    updates.close()
    after = updates_of(pulled, store)
    assert {"n-1", "n-2"} <= catalogue(after.bundle).keys()
    after.delete(["n-1"])
    after.close()
    assert [change.sequence for change in read_log(store.live).changes] == [1, 2, 3]


def test_a_bundle_from_elsewhere_overrides_what_its_export_was_told_later(bundle, store):
    updates = updates_of(bundle, store)
    updates.upsert([Item(item_id="i-01", title="told here", updated_at=bundle.manifest.created_at)])
    later = bundle.manifest.created_at + timedelta(days=1)
    frame = bundle.items.frame
    row = bundle.items.row_of("i-01")
    times = [later if number == row else None for number in range(frame.height)]
    items = ItemTable(frame.with_columns(pl.Series("updated_at", times, dtype=frame.schema["updated_at"])))
    pulled = replace(of(bundle, live_log="f" * 32, created_at=later + timedelta(days=1)), items=items)
    updates.serve(pulled)
    assert catalogue(updates.bundle)["i-01"].title == bundle.items.item(row).title
    # an export of a time speaks for all that was sent before
    updates.upsert([Item(item_id="n-1", title="zork")])
    updates.serve(of(pulled, live_as_of=later + timedelta(days=9)))
    assert updates.n_changed == 0
    # what comes after a bundle was built counts, whatever the items say
    updates.serve(of(pulled, created_at=bundle.manifest.created_at - timedelta(days=1)))
    assert catalogue(updates.bundle)["i-01"].title == "told here"
    updates.close()


def test_what_was_told_while_a_bundle_was_built_here_counts_whatever_the_export_says(bundle, store):
    updates = updates_of(bundle, store)
    updates.upsert([Item(item_id="i-01", title="told here", updated_at=bundle.manifest.created_at)])
    later = bundle.manifest.created_at + timedelta(days=1)
    frame = bundle.items.frame
    items = ItemTable(frame.with_columns(pl.lit(later).cast(frame.schema["updated_at"]).alias("updated_at")))
    built = replace(of(bundle, live_log=read_log(store.live).identity, created_at=later), items=items)
    updates.serve(built)
    assert catalogue(updates.bundle)["i-01"].title == "told here"
    updates.close()


def test_a_log_that_cannot_be_pruned_keeps_nobody_from_being_served(bundle, store, monkeypatch, caplog):
    updates = updates_of(bundle, store)
    updates.upsert([Item(item_id="n-1", title="zork")])
    monkeypatch.setattr(live_updates, "_unneeded", lambda _: 1)
    real = LiveLogWriter._replace

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LiveLogWriter, "_replace", fail)
    holding = of(bundle, live_log=read_log(store.live).identity, live_sequence=1)
    assert updates.serve(holding) is holding
    assert "keeps what no bundle needs any more" in caplog.text
    updates.upsert([Item(item_id="n-2", title="gizmotron")])
    monkeypatch.setattr(LiveLogWriter, "_replace", real)
    updates.serve(holding)
    assert [change.sequence for change in read_log(store.live).changes] == [2]
    updates.close()


def test_a_follower_reads_what_the_writer_wrote_and_no_more_than_that(bundle, store):
    follower, writer = updates_of(bundle, store), updates_of(bundle, store)
    assert not follower.follow()
    writer.upsert([Item(item_id="n-1", title="zork")])
    assert follower.follow()
    assert "n-1" in catalogue(follower.bundle)
    snapshot = follower.bundle
    assert not follower.follow()
    assert follower.bundle is snapshot
    writer.delete(["n-1"])
    assert follower.follow()
    assert "n-1" not in catalogue(follower.bundle)
    assert not writer.follow()
    writer.close()


def test_what_a_follower_could_not_replay_is_not_passed_over(bundle, store, monkeypatch):
    follower, writer = updates_of(bundle, store), updates_of(bundle, store)
    writer.upsert([Item(item_id="n-1", title="zork")])
    writer.close()
    with monkeypatch.context() as broken:
        broken.setattr(live_updates, "_replayed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            follower.follow()
        with pytest.raises(ZeroDivisionError):
            follower.upsert([Item(item_id="n-2", title="gizmotron")])
    follower.upsert([Item(item_id="n-2", title="gizmotron")])
    assert {"n-1", "n-2"} <= catalogue(follower.bundle).keys()
    follower.close()


def test_a_bundle_whose_manifest_cannot_be_read_may_need_every_change(workspace, bundle, tmp_path):
    copy = Workspace(tmp_path / "copy")
    for version in ("v1", "v2"):
        folder = copy.bundles / version
        folder.mkdir(parents=True)
        manifest = bundle.manifest.model_copy(update={"version": version, "live_log": "a" * 32, "live_sequence": 7})
        (folder / "manifest.json").write_bytes(manifest.render())
    copy.live.mkdir()
    (copy.live / LOG_FILE).write_bytes(file_head(0, "a" * 32))
    assert live_updates._unneeded(copy) == 7
    (copy.bundles / "v1" / "manifest.json").write_bytes(b"{}")
    assert live_updates._unneeded(copy) == 0


def test_rows_behind_the_base_are_added_beyond_the_spare_ones(bundle, store, monkeypatch):
    monkeypatch.setattr("indexer.live_bundle.SPARE_ROWS", 1)
    updates = updates_of(bundle, store)
    for number in range(4):
        updates.upsert([Item(item_id=f"n-{number}", title=f"zork {number}")])
    behaviour = updates.bundle.behaviour
    assert len(behaviour.popularity) >= 64
    assert behaviour.popularity[63] == 0
    assert np.isnan(behaviour.click_rate[63])
    assert len(behaviour.related.of(63)[0]) == 0


# builds


@pytest.mark.slow
def test_the_next_build_takes_updates_in_and_the_log_lets_go_of_them(workspace, bundle):
    build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    first = open_bundle(workspace.bundles / "v1", n_threads=1)
    updates = updates_of(first, workspace)
    gizmo = Item(item_id="n-1", title="zork gizmotron")
    updates.upsert([gizmo])
    updates.delete(["i-00"])
    manifest = build_bundle(workspace, RETRIEVER, RERANKER, BUILD).manifest
    assert (manifest.live_sequence, manifest.n_items) == (2, 60)
    updates.upsert([replace(gizmo, price=3.0)])
    second = open_bundle(workspace.bundles / "v2", n_threads=1)
    assert (second.items.ids[0], second.items.row_of("n-1")) == ("i-01", 59)
    # behaviour moved along with its rows
    np.testing.assert_allclose(second.behaviour.popularity[:59], first.behaviour.popularity[1:])
    assert second.behaviour.popularity[59] == 0
    updates.serve(second)
    assert updates.bundle.items.item(59).price == 3.0
    assert updates.bundle.items.row_of("i-00") is None
    assert [change.sequence for change in read_log(workspace.live).changes] == [1, 2, 3]  # v1 could be served again
    # an export that holds the updates supersedes them, and then only bundles can need them
    path = workspace.data / "manifest.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(said | {"live_log": manifest.live_log, "live_sequence": 2}))
    assert Prepared(workspace.data).held == Held(log=read_log(workspace.live).identity, sequence=2)
    import shutil

    shutil.rmtree(workspace.bundles / "v1")
    updates.serve(second)
    assert [change.sequence for change in read_log(workspace.live).changes] == [3]
    assert (workspace.live / LOG_FILE).stat().st_size < 600
    updates.close()
    assert build_bundle(workspace, RETRIEVER, RERANKER, BUILD).manifest.live_sequence == 3
    assert read_manifest(workspace.bundles / "v3").n_items == 61
