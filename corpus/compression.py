"""Files that may be compressed, opened for reading from the front."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}

_CHUNK_BYTES = 2**17


@contextmanager
def open_compressed(path: Path) -> Iterator[BinaryIO]:
    """Open a plain, gzip or zstd file by its suffix.

    Raises:
        OSError: If the file cannot be opened or, on reading, is damaged.
        EOFError: On reading, if a compressed file was cut short.
    """
    kind = COMPRESSIONS.get(path.suffix.lower())
    if kind == "gzip":
        with gzip.open(path, "rb") as stream:
            yield cast(BinaryIO, stream)
    elif kind == "zstd":
        with path.open("rb") as raw:
            yield cast(BinaryIO, io.BufferedReader(_ZstdReader(raw), 2**20))
    else:
        with path.open("rb") as plain:
            yield plain


class _ZstdReader(io.RawIOBase):
    """Reads all frames of a zstd file and notices a missing end; the library's own reader does neither."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            self._input = self._input or self._raw.read(_CHUNK_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends in the middle of a zstd frame")
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                self._output = memoryview(frame.decompress(self._input))
            except zstandard.ZstdError as exc:
                raise OSError(str(exc)) from exc
            self._input = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        n_bytes = min(len(buffer), len(self._output))
        buffer[:n_bytes] = self._output[:n_bytes]
        self._output = self._output[n_bytes:]
        return n_bytes
