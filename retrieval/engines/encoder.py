"""Text to embeddings, by whichever engine runs the tower. Needs no torch at import."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from tokenizers import Tokenizer

from corpus.config import Section
from corpus.errors import ArtefactError, ConfigError
from corpus.folders import sha256_of
from corpus.progress import track
from retrieval.arrays import FloatArray
from retrieval.engines.batches import batches_by_length
from retrieval.engines.engine import GRAPH_FILE, WEIGHTS_FILE, Engine, OpenVinoEngine, TokenBatch

if TYPE_CHECKING:
    from retrieval.engines.torch_engine import EmbeddingModule

Role = Literal["query", "item"]
Precision = Literal["fp32", "int8"]  # of an exported graph
TorchPrecision = Literal["fp32", "bf16"]

ENCODER_FILE = "encoder.json"
TOKENIZER_FILE = "tokenizer.json"
EXPORTED_FILES = (GRAPH_FILE, WEIGHTS_FILE, TOKENIZER_FILE)
FORMAT_VERSION = 2
# tokens per engine call. MiniLM on one AVX2 core, 600 titles: 186 titles/s at 512 tokens, 165 at 1,024 and 137 at
# 4,096, which falls out of the caches; several cores want somewhat more than one
CPU_TOKEN_BUDGET = 1024
GPU_TOKEN_BUDGET = 32768
# texts that are sorted by length together: bounds what the tokenizer holds in memory
WINDOW = 8192
CALIBRATION_BATCH = 8


class EncoderInfo(Section):
    """What identifies an encoder; the content of ``encoder.json``."""

    format_version: int = FORMAT_VERSION
    dim: int = Field(ge=1)
    max_tokens: int = Field(ge=3)  # [CLS] and [SEP] included
    fingerprint: str  # SHA-256 over all that decides an embedding's numbers
    precision: Precision | TorchPrecision
    role: Role
    files: dict[str, str] = Field(default_factory=dict)  # of an exported one: name → SHA-256


class TextEncoder:
    """Turns texts into embeddings. Safe to call from several threads if its engine is."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Engine,
        info: EncoderInfo,
        *,
        token_budget: int = CPU_TOKEN_BUDGET,
        n_parallel: int = 1,
    ) -> None:
        """Join the parts.

        Args:
            tokenizer: Left as it is: the encoder works on a copy, cut to ``info.max_tokens`` and without padding.
            engine: Returns L2-normalised embeddings, (n, ``info.dim``).
            info: Identity of the encoder.
            token_budget: Most tokens per engine call, padding included.
            n_parallel: Engine calls that run side by side.
        """
        self.info = info
        self._token_budget = token_budget
        self._n_parallel = n_parallel
        self.tokenizer, self._pad_id = _bare(tokenizer, info.max_tokens)
        self._engine = engine

    def reading(self, info: EncoderInfo, *, token_budget: int) -> "TextEncoder":
        """Return an encoder on the same engine that reads other lengths of text: the other one of two shared towers.

        Args:
            info: Its identity.
            token_budget: Most tokens per engine call: how long it keeps the engine from this encoder at a time.
        """
        return TextEncoder(self.tokenizer, self._engine, info, token_budget=token_budget)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.info.dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over all that decides an embedding's numbers: two encoders that share it agree."""
        return self.info.fingerprint

    def encode(self, texts: Sequence[str], *, progress: str | None = None) -> FloatArray:
        """Embed texts.

        Texts of like length run together, so that little time goes into padding; the order of the result is
        that of the texts.

        Args:
            texts: Any number, none included; longer ones than ``max_tokens`` are cut at the end.
            progress: Description for a progress bar; None shows none.
        Returns:
            float32 (n, dim), L2-normalised, C-contiguous.
        Raises:
            ArtefactError: If the engine returns embeddings of another width or a NaN.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        starts: Sequence[int] = range(0, len(texts), WINDOW)
        for start in starts if progress is None else track(starts, description=progress):
            self._encode_window(texts[start : start + WINDOW], vectors[start : start + WINDOW])
        if not np.isfinite(vectors).all():
            raise ArtefactError("expected finite embeddings, got NaN or infinity; train or export this encoder again")
        return vectors

    def _encode_window(self, texts: Sequence[str], out: FloatArray) -> None:
        token_ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        batches = batches_by_length([len(ids) for ids in token_ids], self._token_budget)

        def run(positions: list[int]) -> None:
            batch = pad([token_ids[position] for position in positions], self._pad_id)
            numbers = self._engine.run(batch.input_ids, batch.attention_mask, batch.token_type_ids)
            if numbers.shape != (len(batch), self.dim):
                raise ArtefactError(
                    f"expected ({len(batch)}, {self.dim}) embeddings, got {numbers.shape}; export this encoder again"
                )
            out[positions] = numbers

        if self._n_parallel == 1:
            for positions in batches:
                run(positions)
            return
        with ThreadPoolExecutor(self._n_parallel, thread_name_prefix="encode") as pool:
            for _ in pool.map(run, batches):  # read, so that an error is raised
                pass


def pad(token_ids: Sequence[Sequence[int]], pad_id: int) -> TokenBatch:
    """Pad token ids to the longest: one segment, int64 (n, length)."""
    lengths = np.fromiter((len(ids) for ids in token_ids), dtype=np.int64, count=len(token_ids))
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # (n, length)
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in token_ids])
    return TokenBatch(
        input_ids=input_ids, attention_mask=mask.astype(np.int64), token_type_ids=np.zeros(mask.shape, dtype=np.int64)
    )


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        ArtefactError: If it is missing or malformed.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception
        raise ArtefactError(f"expected a tokenizer at {path}, got: {exc}; build the bundle again") from exc


def read_encoder_info(folder: Path) -> EncoderInfo:
    """Return the identity of an exported encoder without opening it.

    Raises:
        ArtefactError: If the folder holds none of this release's format.
    """
    try:
        info = EncoderInfo.model_validate_json((folder / ENCODER_FILE).read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtefactError(f"expected an exported encoder in {folder}, got: {exc}; build the bundle again") from exc
    if info.format_version != FORMAT_VERSION:
        raise ArtefactError(
            f"expected encoder format {FORMAT_VERSION} in {folder}, got {info.format_version}; build the bundle again"
        )
    return info


def verify_encoder(folder: Path) -> None:
    """Check that the files of an exported encoder are those that were written.

    Raises:
        ArtefactError: If one is missing or changed, or the folder holds none of this release's format.
    """
    expected = read_encoder_info(folder).files
    try:
        changed = [name for name in EXPORTED_FILES if sha256_of(folder / name) != expected.get(name)]
    except OSError as exc:
        raise ArtefactError(f"expected an exported encoder in {folder}, got: {exc}; export it again") from exc
    if changed:
        raise ArtefactError(f"expected {', '.join(changed)} in {folder} as exported, got other bytes; export it again")


def open_encoder(folder: Path, *, n_threads: int | None = None, bulk: bool = False) -> TextEncoder:
    """Open a folder written by ``export_encoder``; needs no torch.

    Args:
        folder: Holds the graph, ``tokenizer.json`` and ``encoder.json``.
        n_threads: Most cores to use; None: all.
        bulk: For a whole catalogue instead of one query: each core runs batches of its own.
    Raises:
        ArtefactError: If a file is missing or does not fit.
        DeviceUnavailable: If OpenVINO is not installed.
    """
    info = read_encoder_info(folder)
    n_streams = n_threads or len(os.sched_getaffinity(0)) if bulk else 1
    engine = OpenVinoEngine.load(folder, n_threads=n_threads, n_streams=n_streams)
    return TextEncoder(open_tokenizer(folder / TOKENIZER_FILE), engine, info, n_parallel=n_streams)


def open_torch_encoder(
    model_dir: Path,
    *,
    role: Role,
    max_tokens: int,
    dim: int | None = None,
    device: str | None = None,
    precision: TorchPrecision = "fp32",
) -> TextEncoder:
    """Open one tower of a SentenceTransformer folder with torch, for training and evaluation.

    Args:
        model_dir: The folder; its towers may be shared or separate (a ``Router``).
        role: Which tower.
        max_tokens: Texts are cut to so many tokens.
        dim: Embeddings are cut to their first so many numbers and normalised again; None: the model's width.
        device: As torch names it; None: the first CUDA device if there is one, else the CPU.
        precision: bf16 computes in it, with weights in fp32: several times as fast on a GPU, with numbers of its own.
    Raises:
        ArtefactError: If the folder is no such model, or one that this encoder cannot reproduce.
        ConfigError: If the model is narrower than ``dim``.
        DeviceUnavailable: If torch lacks the device.
    """
    from retrieval.engines.torch_engine import TorchEngine, open_tower

    module, tokenizer = open_tower(model_dir, role, dim=dim)
    info = _info(module, tokenizer, role=role, max_tokens=max_tokens, precision=precision)
    engine = TorchEngine(module, device, bfloat16=precision == "bf16")
    budget = CPU_TOKEN_BUDGET if engine.device.type == "cpu" else GPU_TOKEN_BUDGET
    return TextEncoder(tokenizer, engine, info, token_budget=budget)


def export_encoder(
    model_dir: Path,
    out_dir: Path,
    *,
    role: Role,
    precision: Precision,
    calibration_texts: Sequence[str],
    max_tokens: int,
    dim: int | None = None,
) -> EncoderInfo:
    """Write one tower as an OpenVINO graph that ends in L2-normalised embeddings.

    Args:
        model_dir: A SentenceTransformer folder.
        out_dir: Gets ``openvino_model.xml``, ``.bin``, ``tokenizer.json`` and, last, ``encoder.json``.
        role: Which tower.
        precision: fp32 gives torch's numbers, and its fingerprint; int8 gives numbers of its own.
        calibration_texts: Texts like those of service, at least one; some hundreds for int8.
        max_tokens: Texts are cut to so many tokens.
        dim: Embeddings are cut to their first so many numbers and normalised again; None: the model's width.
    Returns:
        The identity that was written.
    Raises:
        ConfigError: If there is no calibration text, or the model is narrower than ``dim``.
        ArtefactError: If the folder is no such model, or it cannot be converted.
        DeviceUnavailable: If openvino or, for int8, nncf is not installed.
    """
    from retrieval.engines.export import export_openvino
    from retrieval.engines.torch_engine import open_tower

    if not calibration_texts:
        raise ConfigError("expected at least one text to export an encoder with, got none; give some titles")
    module, tokenizer = open_tower(model_dir, role, dim=dim)
    bare, pad_id = _bare(tokenizer, max_tokens)
    token_ids = [encoding.ids for encoding in bare.encode_batch_fast(list(calibration_texts))]
    chunks = [token_ids[start : start + CALIBRATION_BATCH] for start in range(0, len(token_ids), CALIBRATION_BATCH)]
    calibration = calibration_texts if precision == "int8" else ()
    info = _info(module, tokenizer, role=role, max_tokens=max_tokens, precision=precision, calibration=calibration)
    export_openvino(module, out_dir, precision=precision, calibration=[pad(chunk, pad_id) for chunk in chunks])
    bare.no_truncation()
    bare.save(str(out_dir / TOKENIZER_FILE))
    info = info.model_copy(update={"files": {name: sha256_of(out_dir / name) for name in EXPORTED_FILES}})
    (out_dir / ENCODER_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


def _info(
    module: "EmbeddingModule",
    tokenizer: Tokenizer,
    *,
    role: Role,
    max_tokens: int,
    precision: Precision | TorchPrecision = "fp32",
    calibration: Sequence[str] = (),
) -> EncoderInfo:
    """Identify a tower. The role is no part of the fingerprint: shared towers give both roles the same numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().float().numpy()).data)
    bare, _ = _bare(tokenizer, max_tokens)
    cut = [module.dim] if module.dim < module.width else []
    # exports of earlier releases had tables in int8, too, and computed in bfloat16 what is not int8
    floats = ["float tables", "f32"] if precision == "int8" else []
    parts = [module.pooling, bare.to_str(), max_tokens, precision, list(calibration), *cut, *floats]
    digest.update(json.dumps(parts).encode())
    return EncoderInfo(
        dim=module.dim, max_tokens=max_tokens, fingerprint=digest.hexdigest(), precision=precision, role=role
    )


def _bare(tokenizer: Tokenizer, max_tokens: int) -> tuple[Tokenizer, int]:
    """Return a copy cut to ``max_tokens`` without padding, and the padding token's id.

    A ``tokenizer.json`` may carry the padding and truncation of whoever saved it; all-MiniLM's cuts at 128.
    """
    padding: dict[str, Any] | None = tokenizer.padding
    lookup: Callable[[str], int | None] = tokenizer.token_to_id
    named = [number for name in ("[PAD]", "<pad>") if (number := lookup(name)) is not None]
    pad_id = padding["pad_id"] if padding else (named[0] if named else 0)
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_padding()
    bare.enable_truncation(max_tokens)
    return bare, int(pad_id)
