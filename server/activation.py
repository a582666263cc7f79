"""Which bundle is served, changed by a running server: what ``tandem publish`` and ``tandem rollback`` do."""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from typing import cast

from corpus.errors import ActivationRefused, ArtefactError, TandemError
from corpus.workspace import Workspace
from indexer.config import BundleStoreConfig, GateConfig
from indexer.publications import GateOutcome
from indexer.publish import publish, rollback


class Activation:
    """Asks the release gate, changes CURRENT, and mirrors the change."""

    def __init__(
        self,
        workspace: Workspace,
        gate: GateConfig | None = None,
        bundle_store: BundleStoreConfig | None = None,
    ) -> None:
        """Take what a configuration says about it.

        Args:
            workspace: The store.
            gate: What a bundle is asked.
            bundle_store: Where bundles are mirrored to.
        """
        self._workspace = workspace
        self._gate = gate or GateConfig()
        self._bundle_store = bundle_store or BundleStoreConfig()

    async def judge(self, version: str) -> GateOutcome:
        """Ask the release gate, in a process of its own: it answers hundreds of searches, and searches go on here.

        The process ends with this call: a caller who hangs up wants no answer any more.

        Raises:
            GateRefused: If the prepared data are not those of the bundle.
            BundleCorrupt: If it does not verify.
            ActivationRefused: If the process dies.
        """
        context = multiprocessing.get_context("spawn")  # a fork would copy locks in whatever state threads left them
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_judge, args=(sender, self._workspace, version, self._gate), daemon=True)
        process.start()
        sender.close()  # so that the other end's closing is noticed
        try:
            found = await asyncio.to_thread(receiver.recv)
        except EOFError as exc:
            raise ActivationRefused(
                "the release gate's process died, perhaps for want of memory; judge the bundle with `tandem publish`, "
                "or call again with a reason"
            ) from exc
        finally:
            process.terminate()
            process.join()
        if isinstance(found, TandemError):
            raise found
        return cast(GateOutcome, found)

    def publish(self, version: str, outcome: GateOutcome | None, reason: str | None) -> None:
        """Make a bundle current here.

        Args:
            version: The bundle.
            outcome: What the gate found; None: it was not asked.
            reason: Why not.
        Raises:
            ArtefactError: If it is refused, or the disk does not take it; then nothing has changed.
        """
        publish(self._workspace.bundles, version, gate=outcome, reason=reason)

    def rollback(self) -> str:
        """Make the bundle current here that was current before.

        Raises:
            ArtefactError: If there is none, it does not verify, or the disk does not take it.
        """
        return rollback(self._workspace.bundles)

    def push(self, version: str) -> None:
        """Let the bundle store, if there is one, have a bundle that became current here.

        Raises:
            ActivationRefused: If it does not take it.
        """
        if self._bundle_store.uri is None:
            return
        from indexer.bundle_store import BundleStore

        try:
            BundleStore(self._bundle_store.uri).push(self._workspace.bundles, version)
        except ArtefactError as exc:
            raise ActivationRefused(
                f"{version} is current and served here, but the bundle store does not have it yet: {exc}; call again"
            ) from exc


def _judge(answer: Connection, workspace: Workspace, version: str, gate: GateConfig) -> None:
    from indexer.gate import judge

    try:
        answer.send(judge(workspace, version, gate))
    except TandemError as exc:
        answer.send(exc)
