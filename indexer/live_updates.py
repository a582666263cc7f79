"""Live updates of the served bundle: embed, write ahead, publish a snapshot, and only then acknowledge.

Whatever can fail for reasons of the items themselves has happened before anything is written; what is written is
flushed; what is flushed is served. A restart, or a swap of bundles, replays what the bundle does not hold yet.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime

import numpy as np

from corpus.errors import ArtefactError, UpdatesRefused
from corpus.items import Item
from corpus.live_items import latest_changes
from corpus.live_log import Change, LogReader, read_log
from corpus.live_log_writer import LiveLogWriter
from corpus.prepared import Prepared
from corpus.workspace import Workspace, versions
from indexer.bundle import Bundle, open_item_encoder
from indexer.live_bundle import LiveBundle
from indexer.manifest import MANIFEST_FILE
from indexer.publish import list_bundles
from retrieval.arrays import FloatArray
from retrieval.engines.encoder import TextEncoder
from retrieval.passages import passage

logger = logging.getLogger(__name__)

VECTOR_TYPE = np.dtype("<f4")
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class LiveUpdates:
    """The served bundle with what changed since it was built. For one thread at a time, but for ``bundle``."""

    def __init__(self, bundle: Bundle, workspace: Workspace, *, max_changed: int, n_threads: int | None = None) -> None:
        """Replay what the bundle does not hold yet. Nothing is written, and nobody kept from writing, before a change.

        Args:
            bundle: As built.
            workspace: Where the log is, and the bundles and data that may need it.
            max_changed: Items that may differ from the bundle; a change that makes them more is refused.
            n_threads: Of an item encoder with an engine of its own.
        Raises:
            ArtefactError: If the log is damaged.
        """
        self._workspace = workspace
        self._max_changed = max_changed
        self._n_threads = n_threads
        self._writer: LiveLogWriter | None = None
        self.serve(bundle)

    @property
    def bundle(self) -> Bundle:
        """What is to be searched now: an immutable snapshot."""
        return self._base if self._live is None else self._live.bundle

    @property
    def n_changed(self) -> int:
        """How many items differ from the bundle as it was built."""
        live = self._live
        return 0 if live is None else live.n_changed

    def serve(self, bundle: Bundle) -> Bundle:
        """Go over to another bundle, replay on it what it does not hold, and let go of what no bundle needs any more.

        Returns:
            The snapshot to be searched.
        Raises:
            ArtefactError: If the log is damaged or cannot be written; then the bundle served so far stays.
        """
        if self._writer is not None:
            self._writer.outgrow(bundle.manifest.held)
        reader = LogReader(self._workspace.live)
        log = reader.content()
        changes = log.beyond(bundle.manifest.held)
        is_own = bundle.manifest.live_log == log.identity != ""
        encoder = _LazyEncoder(bundle, self._n_threads)
        live = None
        if changes:
            try:
                known_at = LONG_AGO if is_own else bundle.manifest.created_at
                live = _replayed(LiveBundle.of(bundle), changes, encoder, known_at=known_at)
            except UpdatesRefused as exc:
                # an old bundle is served in an emergency, and then without what it cannot hold
                logger.error("%d live updates are missing: %s", len(changes), exc)
        self._base, self._live, self._encoder, self._reader = bundle, live, encoder, reader
        if self._writer is not None:
            self._prune(self._writer)
        return self.bundle

    def upsert(self, items: Sequence[Item]) -> int:
        """Add or replace items; they are on disk and in ``bundle`` when this returns.

        Args:
            items: Cleaned, each id once.
        Returns:
            How many differ from what was there.
        Raises:
            UpdatesRefused: If too much has changed since the bundle was built, or the log takes nothing.
            ArtefactError: If the log cannot be written, or the encoder fails. Nothing has changed in either case.
        """
        live = self._ready()
        table = live.items
        upserts = {
            item.item_id: item
            for item in items
            if (row := table.row_of(item.item_id)) is None or table.item(row) != item
        }
        if upserts:
            self._check_room(live, upserts)
            texts = live.passages_to_embed(upserts)
            self._commit(live, upserts, (), dict(zip(texts, self._encoder.encode(list(texts.values())), strict=True)))
        return len(upserts)

    def delete(self, item_ids: Iterable[str]) -> list[str]:
        """Remove items; they are out of ``bundle``, and their removal is on disk, when this returns.

        Returns:
            The ids that were not there.
        Raises:
            UpdatesRefused: If too much has changed since the bundle was built, or the log takes nothing.
            ArtefactError: If the log cannot be written. Nothing has changed in either case.
        """
        live = self._ready()
        known = {item_id: live.items.row_of(item_id) is not None for item_id in item_ids}
        deletions = [item_id for item_id, is_there in known.items() if is_there]
        if deletions:
            self._check_room(live, deletions)
            self._commit(live, {}, deletions, {})
        return [item_id for item_id, is_there in known.items() if not is_there]

    def follow(self) -> bool:
        """Take in what another server of this store was told meanwhile.

        Returns:
            Whether ``bundle`` changed.
        Raises:
            ArtefactError: If the log is damaged.
        """
        return self._writer is None and self._catch_up()

    def close(self) -> None:
        """Let another server of this store take updates."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _ready(self) -> LiveBundle:
        """Become the one that writes, unless it is that already; return the newest snapshot."""
        if self._writer is None:
            self._encoder.check()
            writer = LiveLogWriter(self._workspace.live)
            try:
                self._catch_up()
                writer.outgrow(self._base.manifest.held)
                self._prune(writer)
            except BaseException:
                writer.close()
                raise
            self._writer = writer
        if self._live is None:
            self._live = LiveBundle.of(self._base)
        return self._live

    def _catch_up(self) -> bool:
        reader = copy(self._reader)  # what cannot be replayed is read again
        changes = reader.more()
        try:
            if changes:
                self._live = _replayed(self._live or LiveBundle.of(self._base), changes, self._encoder)
        except UpdatesRefused:
            self._reader = reader  # unless this bundle will never hold it
            raise
        self._reader = reader
        return bool(changes)

    def _prune(self, writer: LiveLogWriter) -> None:
        """Drop the changes that no bundle needs any more. A log that stays long does no harm but to the disk."""
        try:
            writer.prune(_unneeded(self._workspace))
        except ArtefactError as exc:
            logger.warning("the log of live updates keeps what no bundle needs any more: %s", exc)

    def _check_room(self, live: LiveBundle, item_ids: Iterable[str]) -> None:
        rows = {item_id: live.items.any_row_of(item_id) for item_id in item_ids}
        changed, gone = live.items.changed, live.items.gone
        n_more = sum(row is None or (row not in changed and row not in gone) for row in rows.values())
        if n_more and live.n_changed + n_more > self._max_changed:
            raise UpdatesRefused(
                f"expected at most {self._max_changed:,} items that changed since bundle "
                f"{self._base.manifest.version} was built (server.max_live_items), got {live.n_changed + n_more:,}; "
                "build and publish a bundle, which takes them in, and send the rest then"
            )

    def _commit(
        self,
        live: LiveBundle,
        upserts: Mapping[str, Item],
        deletions: Sequence[str],
        embeddings: Mapping[str, FloatArray],
    ) -> None:
        if self._writer is None:
            raise ValueError("expected the log to be open")
        sequence = self._writer.last + 1
        after = live.with_changes(upserts, deletions, embeddings)
        self._writer.append(
            Change(
                sequence=sequence,
                time=datetime.now(UTC),
                upserts=tuple(upserts.values()),
                deletions=tuple(deletions),
                encoder=self._encoder.fingerprint if embeddings else "",
                vectors={item_id: vector.astype(VECTOR_TYPE).tobytes() for item_id, vector in embeddings.items()},
            )
        )
        self._live = after


class _LazyEncoder:
    """A bundle's item encoder, opened when the first text is to be embedded."""

    def __init__(self, bundle: Bundle, n_threads: int | None) -> None:
        self.fingerprint = bundle.manifest.retriever.item_encoder_fingerprint
        self._open: Callable[[], TextEncoder] = lambda: open_item_encoder(bundle, n_threads=n_threads)
        self._encoder: TextEncoder | None = None
        self._dim = bundle.manifest.dim

    def check(self) -> None:
        """Open it, and raise what keeps it from being opened."""
        if self._encoder is None:
            self._encoder = self._open()

    def encode(self, texts: Sequence[str]) -> FloatArray:
        if not texts:
            return np.empty((0, self._dim), dtype=np.float32)
        self.check()
        if self._encoder is None:
            raise ValueError("expected an open encoder")
        return self._encoder.encode(texts)


def _replayed(
    live: LiveBundle, changes: Sequence[Change], encoder: _LazyEncoder, *, known_at: datetime = LONG_AGO
) -> LiveBundle:
    """Return a snapshot after changes, of which only the last of each item counts.

    Args:
        live: The snapshot before.
        changes: Oldest first.
        encoder: For texts whose embedding the log does not have in this encoder's terms.
        known_at: What was accepted before may be known to the bundle's export, and counts by the rule of builds.
    """
    fields = live.base.stage.item_fields
    latest = latest_changes(live.base.items, changes, read_at=known_at)
    known: dict[tuple[str, str], FloatArray] = {}  # by id and passage
    for change in changes:
        if change.encoder == encoder.fingerprint:
            for item in change.upserts:
                if item.item_id in change.vectors:
                    vector = np.frombuffer(change.vectors[item.item_id], dtype=VECTOR_TYPE).astype(np.float32)
                    known[item.item_id, passage(item, fields)] = vector
    upserts = {item_id: item for item_id, item in latest.items() if item is not None}
    texts = live.passages_to_embed(upserts)
    embeddings = {item_id: known[item_id, text] for item_id, text in texts.items() if (item_id, text) in known}
    missing = {item_id: text for item_id, text in texts.items() if item_id not in embeddings}
    embeddings |= dict(zip(missing, encoder.encode(list(missing.values())), strict=True))
    deletions = [item_id for item_id, item in latest.items() if item is None]
    logger.info("replaying live updates %d to %d", changes[0].sequence, changes[-1].sequence)
    return live.with_changes(upserts, deletions, embeddings)


def _unneeded(workspace: Workspace) -> int:
    """Return up to which change every bundle here holds them all, and the data for the next build as well."""
    manifests = list_bundles(workspace.bundles)
    if len(manifests) < len(versions(workspace.bundles, marker=MANIFEST_FILE)):
        return 0  # what cannot be read may need everything
    held = [manifest.held for manifest in manifests]
    try:
        held.append(Prepared(workspace.data).held)
    except ArtefactError:
        # nothing is built where nothing was prepared
        logger.debug("no prepared data in %s", workspace.data)
    log = read_log(workspace.live)
    return min(map(log.held_up_to, held), default=0)
