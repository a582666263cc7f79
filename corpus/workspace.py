"""Where a store's files live: one folder with a ``tandem.toml``."""

import re
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import VersionNotFound

VERSION = re.compile(r"v([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one store."""

    root: Path

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        return self.root / "tandem.toml"

    @property
    def source(self) -> Path:
        """Input files written by an importer or by the synthetic store."""
        return self.root / "source"

    @property
    def data(self) -> Path:
        """Prepared data."""
        return self.root / "data"

    @property
    def retrievers(self) -> Path:
        """Versions of the tuned retriever."""
        return self.root / "models" / "retriever"

    @property
    def rerankers(self) -> Path:
        """Versions of the tuned reranker."""
        return self.root / "models" / "reranker"

    @property
    def blends(self) -> Path:
        """Versions of the learned blend."""
        return self.root / "models" / "blend"

    @property
    def bundles(self) -> Path:
        """Versions of the bundle, and CURRENT."""
        return self.root / "bundles"

    @property
    def live(self) -> Path:
        """The log of live updates."""
        return self.root / "live"

    @property
    def embeddings(self) -> Path:
        """Item embeddings by content hash, shared by every stage that needs them."""
        return self.root / "cache" / "embeddings"

    @property
    def query_encoders(self) -> Path:
        """Query towers exported in int8, each in a folder named after the fingerprint of the trained one."""
        return self.root / "cache" / "query-encoders"

    @property
    def item_encoders(self) -> Path:
        """Item towers exported for bulk embedding, each in a folder named after the fingerprint of the trained one."""
        return self.root / "cache" / "item-encoders"


def versions(folder: Path, *, marker: str) -> list[str]:
    """List the finished versions in a folder, oldest first.

    Args:
        folder: Parent of ``v1``, ``v2``, …
        marker: File whose presence says that a version was finished (it is written last).
    """
    if not folder.is_dir():
        return []
    numbers = (int(m[1]) for p in folder.iterdir() if (m := VERSION.fullmatch(p.name)) and (p / marker).is_file())
    return [f"v{number}" for number in sorted(numbers)]


def next_version(folder: Path) -> str:
    """Return the version after the highest that was ever begun in a folder."""
    if not folder.is_dir():
        return "v1"
    numbers = (int(m[1]) for p in folder.iterdir() if (m := VERSION.fullmatch(p.name)))
    return f"v{max(numbers, default=0) + 1}"


def find_version(folder: Path, version: str | None, *, marker: str) -> Path:
    """Return the folder of a finished version; the newest if none is named.

    Raises:
        VersionNotFound: If there is no such finished version.
    """
    known = versions(folder, marker=marker)
    chosen = version if version is not None else (known[-1] if known else None)
    if chosen is None or chosen not in known:
        have = ", ".join(known) or "none"
        raise VersionNotFound(f"expected a finished version {chosen or ''} in {folder}, found: {have}")
    return folder / chosen
