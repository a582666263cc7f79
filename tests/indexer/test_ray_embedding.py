"""Local Ray workers in a process of their own: should a pool ever wait for itself, the process is ended."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import DeviceUnavailable
from indexer.ray_embedding import PortableEncoder, encode_on_ray
from retrieval.engines.encoder import export_encoder, open_encoder, open_torch_encoder
from retrieval.vectors.embeddings import embed_items

TIMEOUT_S = 300  # some 20 s on two free cores
TEXTS = [f"red acme mug {number}" for number in range(45)]
PROGRAM = """
import os
import sys
import time
from functools import partial
from pathlib import Path
import ray
from indexer.ray_embedding import PortableEncoder, encode_on_ray
from retrieval.vectors import embeddings
from retrieval.vectors.embeddings import embed_items
from retrieval.engines.encoder import open_encoder

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
(out / "workers").mkdir()
ray.init = partial(ray.init, num_cpus=2)  # whatever this machine has


class Meeting(PortableEncoder):
    def open(self):
        (out / "workers" / str(os.getpid())).touch()
        given_up = time.monotonic() + 60
        while len(list((out / "workers").iterdir())) < 2 and time.monotonic() < given_up:
            time.sleep(0.05)
        return super().open()


embeddings.SHARD_ROWS = 10
encoder = open_encoder(folder, n_threads=1)
portable = Meeting.read(folder, exported=True, max_tokens=24)
texts = [f"red acme mug {number}" for number in range(45)]
report = embed_items(encoder, texts, out / "cache", into=out / "v.npy", encode_shards=encode_on_ray("local", portable))
assert (report.n_embedded, report.n_reused) == (45, 0)
assert not ray.is_initialized()  # what was started for this is stopped
"""


@pytest.fixture(scope="module")
def exported(tiny_encoder_folder, tiny_items, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    titles = tiny_items.column("title")
    export_encoder(tiny_encoder_folder, folder, role="item", precision="fp32", calibration_texts=titles, max_tokens=24)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'tandem-search[ray]'")
def test_a_worker_per_core_gives_the_embeddings_of_one_process(exported, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(exported), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "workers").iterdir())) == 2  # one per core
    encoder = open_encoder(exported, n_threads=1)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), encoder.encode(TEXTS), atol=1e-5)
    again = embed_items(encoder, TEXTS, tmp_path / "cache")
    assert (again.n_embedded, again.n_reused) == (0, 45)


@pytest.mark.parametrize("kind", ["exported", "trained"])
def test_an_encoder_travels_as_files(exported, tiny_encoder_folder, kind):
    here = open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, dim=None, device="cpu")
    folder = exported if kind == "exported" else tiny_encoder_folder
    there = PortableEncoder.read(folder, exported=kind == "exported", max_tokens=24).open()
    assert there.fingerprint == here.fingerprint
    np.testing.assert_allclose(there.encode(TEXTS), here.encode(TEXTS), atol=1e-5)


def test_a_missing_ray_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    encode = encode_on_ray("local", PortableEncoder(files={}, exported=True, max_tokens=24))
    with pytest.raises(DeviceUnavailable, match=r"tandem-search\[ray\]"):
        list(encode(iter([])))
