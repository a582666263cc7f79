import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus.compression import open_compressed


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".zstd"])
def test_contents_come_back_line_by_line(tmp_path, suffix):
    lines = [b"line %d\n" % n for n in range(50_000)]
    data = b"".join(lines)
    path = tmp_path / f"log.csv{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".gz" else zstandard.compress(data) if suffix else data)
    with open_compressed(path) as stream:
        assert list(stream) == lines


@given(st.data())
def test_a_zstd_file_cut_anywhere_is_noticed(tmp_path_factory, data):
    whole = zstandard.compress(b"some text, not too short\n" * 50)
    cut = data.draw(st.integers(1, len(whole) - 1))
    path = tmp_path_factory.mktemp("cut") / "log.csv.zst"
    path.write_bytes(whole[:cut])
    with pytest.raises(EOFError, match="middle of a zstd frame"), open_compressed(path) as stream:
        stream.read()
