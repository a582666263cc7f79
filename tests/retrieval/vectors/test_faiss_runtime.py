import os
import subprocess
import sys

import pytest

from retrieval.vectors.faiss_runtime import CORE_TYPE, core_type, processor_flags

AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("flags", "core"),
    [
        ({"sse2", "avx2", "fma"} | AVX512, "SkylakeX"),
        ({"avx2", "fma"} | (AVX512 - {"avx512dq"}), "Haswell"),  # a Knights Landing
        ({"avx2", "fma"}, "Haswell"),
        ({"avx"}, None),
        (set(), None),
    ],
)
def test_the_newest_kernels_that_a_processor_can_run_are_chosen(flags: set[str], core: str | None):
    assert core_type(flags) == core


def cores_loaded(**environment: str) -> list[str]:
    """Import the module in a process of its own; OpenBLAS tells what each of its copies chose."""
    code = (
        f"import os; from retrieval.vectors.faiss_runtime import faiss; print('left:', os.environ.get('{CORE_TYPE}'))"
    )
    known = {name: value for name, value in os.environ.items() if name != CORE_TYPE}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, "OPENBLAS_VERBOSE": "2", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"left: {environment.get(CORE_TYPE)}" in done.stdout
    lines = (done.stdout + done.stderr).splitlines()
    return [line.removeprefix("Core: ") for line in lines if line.startswith("Core: ")]


@pytest.mark.skipif(core_type(processor_flags()) is None, reason="a processor whose choice is left to OpenBLAS")
def test_faiss_is_loaded_with_these_kernels_and_the_environment_stays_as_it_was():
    assert core_type(processor_flags()) in cores_loaded()


@pytest.mark.skipif(not set(processor_flags()) >= {"avx2", "fma"}, reason="a processor without AVX2")
def test_the_operators_choice_holds():
    assert set(cores_loaded(**{CORE_TYPE: "Haswell"})) == {"Haswell"}
