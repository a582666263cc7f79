"""Published bundles in an object store: one machine builds, others serve.

The store, any URI that fsspec knows, holds ``CURRENT`` and a folder per bundle, named by version and manifest. A push
writes a bundle's files, then its manifest, then ``CURRENT``: whatever is named is whole. A pull believes nothing but
digests: ``CURRENT`` carries the manifest's, the manifest its files', and only names from that verified manifest become
paths. What was fetched lies in the workspace's ``bundles/`` folder, like what is built there, so that verifying,
listing, rolling back and removing work on it as ever; a file that is there already is not fetched again.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.errors import ArtefactError, BundleCorrupt, ConfigError
from indexer.construction import settle
from indexer.locking import locked
from indexer.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileEntry, Sha256, Version, parse_manifest
from indexer.publish import CURRENT_FILE, current_version, publish, write_atomically
from indexer.retention import REMOVING
from indexer.verify import check_file, find_faults, hash_files

logger = logging.getLogger(__name__)

T = TypeVar("T")

FETCHING = ".fetching-"
LOCK_FILE = ".pull.lock"
ATTEMPTS = 4
FIRST_WAIT_S = 1.0  # before the second attempt; doubles
MAX_CURRENT_BYTES = 4096
DIGEST_LENGTH = 16  # of the manifest's, in a folder's name


class Mirrored(BaseModel):
    """The content of the store's CURRENT."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Version
    manifest_sha256: Sha256

    @property
    def folder(self) -> str:
        """The bundle's folder in the store: two bundles that claim one version do not mix."""
        return f"{self.version}-{self.manifest_sha256[:DIGEST_LENGTH]}"


class BundleStore:
    """A place for bundles that other machines can reach."""

    def __init__(self, uri: str) -> None:
        """Open the store; nothing is read or written yet.

        Args:
            uri: Such as ``s3://bucket/shop``, ``gs://bucket/shop`` or ``file:///mnt/bundles``.
        Raises:
            ConfigError: If no driver for it is installed.
        """
        self._uri = uri.rstrip("/")
        try:
            # listings that are kept would hide what another machine has pushed since
            self._files, root = fsspec.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as exc:
            raise ConfigError(
                f"expected bundle_store.uri with a protocol whose fsspec driver is installed, got {uri!r}: {exc}"
            ) from exc
        self._root = str(root).rstrip("/")
        self._is_local = "file" in _names(self._files.protocol)

    def push(self, bundles: Path, version: str) -> None:
        """Upload a bundle and let the store's CURRENT name it.

        Args:
            bundles: The workspace's ``bundles/`` folder.
            version: One that was verified a moment ago, as publishing does.
        Raises:
            ArtefactError: If the store does not take it; done again, it goes on where it stopped.
        """
        folder = bundles / version
        content = (folder / MANIFEST_FILE).read_bytes()
        manifest = parse_manifest(content, source=str(folder / MANIFEST_FILE))
        mirrored = Mirrored(version=version, manifest_sha256=hashlib.sha256(content).hexdigest())
        for name, entry in manifest.files.items():
            self._upload(folder / name, f"{mirrored.folder}/{name}", entry.size_bytes)
        self._write(f"{mirrored.folder}/{MANIFEST_FILE}", content)
        self._write(CURRENT_FILE, (mirrored.model_dump_json() + "\n").encode())
        logger.info("bundle %s is current in %s", version, self._uri)

    def pull(self, bundles: Path) -> str:
        """Fetch the bundle that the store's CURRENT names, verify it, and make it current here.

        Args:
            bundles: The workspace's ``bundles/`` folder.
        Returns:
            The version.
        Raises:
            ArtefactError: If the store cannot be reached or holds no bundle; what is served here stays.
            BundleCorrupt: If what it holds does not verify.
        """
        with locked(bundles, LOCK_FILE):
            mirrored = self._current()
            try:
                self._fetch(mirrored, bundles)
            except OSError as exc:
                raise ArtefactError(f"expected to write to {bundles}, got: {exc}; free or mend the disk") from exc
            if current_version(bundles) != mirrored.version:
                publish(bundles, mirrored.version, reason=f"pulled from {self._uri}")
        return mirrored.version

    def _current(self) -> Mirrored:
        content = self._read(CURRENT_FILE, MAX_CURRENT_BYTES)
        try:
            return Mirrored.model_validate_json(content)
        except ValidationError as exc:
            raise ArtefactError(
                f"expected {self._uri}/{CURRENT_FILE} to name a bundle, got something else; publish there again"
            ) from exc

    def _fetch(self, mirrored: Mirrored, bundles: Path) -> None:
        target = bundles / mirrored.version
        if target.exists():
            if _manifest_digest(target) not in (None, mirrored.manifest_sha256):
                raise ArtefactError(
                    f"expected bundle {mirrored.version} of {self._uri} in {target}, got another one of that number; "
                    "let one machine build, and move this folder away"
                )
            faults = find_faults(target)
            if not faults:
                return
            logger.warning("bundle %s is fetched again: %s", mirrored.version, "; ".join(faults))
        fresh = bundles / f"{FETCHING}{mirrored.folder}"
        for leftover in bundles.glob(f"{FETCHING}*"):
            if leftover != fresh:  # of a pull that was overtaken by the next publication
                shutil.rmtree(leftover)
        content = self._read(f"{mirrored.folder}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES)
        if hashlib.sha256(content).hexdigest() != mirrored.manifest_sha256:
            raise BundleCorrupt(
                f"the manifest of {mirrored.version} in {self._uri} is not what CURRENT says; publish again"
            )
        manifest = parse_manifest(content, source=f"{self._uri}/{mirrored.folder}/{MANIFEST_FILE}")
        for name, entry in manifest.files.items():
            self._download(f"{mirrored.folder}/{name}", fresh, name, entry)
        (fresh / MANIFEST_FILE).write_bytes(content)
        if manifest.version != mirrored.version or hash_files(fresh) != manifest.files:
            raise BundleCorrupt(
                f"expected {fresh} to be bundle {mirrored.version}, got something else; delete the folder"
            )
        if target.exists():
            damaged = bundles / f"{REMOVING}{mirrored.version}"
            target.rename(damaged)
            settle(fresh, target)
            shutil.rmtree(damaged)
        else:
            settle(fresh, target)

    def _upload(self, source: Path, name: str, size_bytes: int) -> None:
        path = f"{self._root}/{name}"

        def work() -> None:
            if not (self._files.exists(path) and self._files.info(path)["size"] == size_bytes):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(source), path)

        self._attempt(f"write {self._uri}/{name}", work)

    def _download(self, source: str, folder: Path, name: str, entry: FileEntry) -> None:
        def work() -> None:
            if check_file(folder, name, entry) is None:
                return
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self._root}/{source}", str(folder / name))
            if fault := check_file(folder, name, entry):
                raise BundleCorrupt(
                    f"expected {self._uri}/{source} as its manifest says, got {fault}; delete it there, publish again"
                )

        self._attempt(f"read {self._uri}/{source}", work)

    def _read(self, name: str, limit: int) -> bytes:
        def work() -> bytes:
            path = f"{self._root}/{name}"
            size = self._files.info(path)["size"]
            if size is None or size > limit:
                raise BundleCorrupt(f"expected at most {limit} bytes in {self._uri}/{name}, got {size}; publish again")
            return bytes(self._files.cat_file(path))

        return self._attempt(f"read {self._uri}/{name}", work)

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"

        def work() -> None:
            if self._is_local:  # where a half-written file could be read; object stores show whole objects only
                write_atomically(Path(path), content)
            else:
                self._files.pipe_file(path, content)

        self._attempt(f"write {self._uri}/{name}", work)

    def _attempt(self, what: str, work: Callable[[], T]) -> T:
        """Do something with the store, a few times if need be."""
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except FileNotFoundError as exc:
                raise ArtefactError(
                    f"cannot {what}: it is not there; run `tandem publish` where bundles are built"
                ) from exc
            except Exception as exc:  # every driver has errors of its own
                if attempt == ATTEMPTS - 1:
                    if isinstance(exc, BundleCorrupt):
                        raise
                    raise ArtefactError(
                        f"cannot {what}, tried {ATTEMPTS} times: {type(exc).__name__}: {exc}; check the network, the "
                        "credentials and the disk, and do it again: it goes on where it stopped"
                    ) from exc
                logger.warning("trying again to %s: %s", what, type(exc).__name__)
                time.sleep(FIRST_WAIT_S * 2**attempt)
        raise AssertionError("unreachable")


def _manifest_digest(folder: Path) -> str | None:
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        parse_manifest(content)
    except (OSError, BundleCorrupt):
        return None
    return hashlib.sha256(content).hexdigest()


def _names(protocol: Any) -> tuple[str, ...]:  # noqa: ANN401 - fsspec gives one name or several
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
