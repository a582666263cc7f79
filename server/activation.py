"""Which bundle is served, changed by a running server: what ``tandem publish`` and ``tandem rollback`` do."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from corpus.errors import ActivationRefused, ArtefactError
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

        Raises:
            GateRefused: If the prepared data are not those of the bundle.
            BundleCorrupt: If it does not verify.
        """
        # spawned, since a fork would copy threads' locks in whatever state they are
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return await asyncio.get_running_loop().run_in_executor(
                process, _judge, self._workspace, version, self._gate
            )

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


def _judge(workspace: Workspace, version: str, gate: GateConfig) -> GateOutcome:
    from indexer.gate import judge

    return judge(workspace, version, gate)
