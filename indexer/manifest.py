"""What a bundle says about itself: ``manifest.json``.

The file is written in one canonical form and carries the SHA-256 of its own content, so that a changed byte
anywhere in it is noticed, as the digests inside it notice a changed byte in any other file of the bundle.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from corpus.errors import BundleCorrupt
from corpus.live_log import Held
from corpus.workspace import VERSION
from retrieval.fusion import FusionWeights
from retrieval.vectors.tuning_point import TuningPoint

FORMAT_VERSION: Final = 5
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20  # far above any real one; a larger file is not read into memory

# Plain names only. Dots may lead (tantivy writes `.managed.json`); `.` and `..` alone are refused.
_PART = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._-]{1,128}")
_MAX_NAME = 512  # characters of a whole path; with any folder before it still below what Linux takes

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=f"^{VERSION.pattern}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Entry):
    """One file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class RetrieverEntry(_Entry):
    """The first stage that a bundle was built with."""

    version: Version
    fingerprint: str  # of the trained model: weights, tokenizer and text template
    encoder_fingerprint: str  # of the query encoder in the bundle
    item_encoder_fingerprint: str  # of the item encoder that the vectors are from
    tokenizer_sha256: Sha256
    item_fields: tuple[str, ...]  # the text template: which fields an item's passage is made of
    passage_version: int  # and the version of the rules that make it
    weights: FusionWeights  # of the channels
    n_logged_queries: Annotated[int, Field(ge=0)]  # that the behaviour channel knows


class RerankerEntry(_Entry):
    """The second stage that a bundle was built with."""

    version: Version
    fingerprint: str
    retriever_fingerprint: str  # of the retriever whose candidates it was trained on
    tokenizer_sha256: Sha256
    item_fields: tuple[str, ...]
    passage_version: int
    score_weights: dict[str, float]  # fitted: how both stages' scores are summed


class BlendEntry(_Entry):
    """The learned blend that a bundle was built with."""

    version: Version
    fingerprint: str
    reranker_fingerprint: str  # of the reranker whose scores it learned from
    n_features: int


class BundleManifest(_Entry):
    """Everything that is needed to decide whether a bundle can be served, and to reproduce it."""

    format_version: Literal[5] = FORMAT_VERSION
    version: Version
    parent: Version | None  # the version that was current when this one was built
    created_at: AwareDatetime
    n_items: Annotated[int, Field(ge=1)]
    dim: Annotated[int, Field(ge=1)]
    metric: Literal["inner_product"] = "inner_product"
    retriever: RetrieverEntry
    reranker: RerankerEntry | None
    blend: BlendEntry | None
    config: dict[str, JsonValue]  # resolved sections: build, retriever, reranker
    ann_recall: Annotated[float, Field(ge=0, le=1)]  # ann_recall@100: the vector index against exact search
    tuning: tuple[TuningPoint, ...]  # settings of its search that were measured; config has the one that was kept
    n_recall_queries: Annotated[int, Field(ge=0)]  # on so many validation queries
    data_fingerprint: str  # of the prepared data
    # which live updates the catalogue holds (corpus.live_log.Held)
    live_log: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")] = ""
    live_sequence: Annotated[int, Field(ge=0)] = 0
    live_as_of: AwareDatetime | None = None
    packages: dict[str, str]  # name → version of what built it
    files: dict[str, FileEntry]  # path inside the bundle, with `/` → digest and size; all but the manifest

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            plain = len(name) <= _MAX_NAME and all(_PART.fullmatch(part) for part in name.split("/"))
            if name == MANIFEST_FILE or not plain:
                raise ValueError(f"{name[:_MAX_NAME]!r} is no plain relative path inside the bundle")
        return files

    @property
    def held(self) -> Held:
        """The live updates that the catalogue holds."""
        return Held(log=self.live_log, sequence=self.live_sequence, as_of=self.live_as_of)

    @property
    def size_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.size_bytes for entry in self.files.values())

    def render(self) -> bytes:
        """Return the content of ``manifest.json``: canonical JSON in which ``checksum`` comes first."""
        document = self.model_dump(mode="json")
        return _dump({"checksum": hashlib.sha256(_dump(document)).hexdigest(), **document})


def _dump(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def parse_manifest(content: bytes, *, source: str = MANIFEST_FILE) -> BundleManifest:
    """Read a manifest, trusting nothing in it.

    Args:
        content: The bytes of a ``manifest.json``.
        source: How messages name it.
    Raises:
        BundleCorrupt: If it is no manifest, of another format version, or not byte for byte what was written.
    """
    remedy = "build the bundle again, or roll back"
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as exc:
        raise BundleCorrupt(f"expected JSON in {source}, got: {exc}; {remedy}") from exc
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise BundleCorrupt(
            f"expected format_version {FORMAT_VERSION} in {source}, got {found!r}; "
            "open it with the Tandem release that built it, or build it again"
        )
    document.pop("checksum", None)
    try:
        manifest = BundleManifest.model_validate_json(json.dumps(document))
    except (ValidationError, ValueError) as exc:
        raise BundleCorrupt(f"{source} does not fit the schema: {_faults(exc)}; {remedy}") from exc
    if manifest.render() != content:
        raise BundleCorrupt(f"{source} was changed after it was written: its checksum does not fit; {remedy}")
    return manifest


def read_manifest(folder: Path) -> BundleManifest:
    """Read the manifest of a bundle, without looking at the other files.

    Raises:
        BundleCorrupt: If there is none, or it does not verify.
    """
    path = folder / MANIFEST_FILE
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleCorrupt(f"expected a finished bundle in {folder}, found no {MANIFEST_FILE}; run `tandem build`")
        if (size := path.stat().st_size) > MAX_MANIFEST_BYTES:
            raise BundleCorrupt(f"expected at most {MAX_MANIFEST_BYTES} bytes in {path}, got {size}; build it again")
        content = path.read_bytes()
    except OSError as exc:
        raise BundleCorrupt(f"cannot read {path}: {exc}; check the file's permissions, or build it again") from exc
    return parse_manifest(content, source=str(path))


def _faults(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors())
    return str(exc)
