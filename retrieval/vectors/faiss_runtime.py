"""FAISS, imported with the matrix kernels that this processor deserves.

FAISS's wheels hold an OpenBLAS of 2021, which falls back to kernels of 2004 (SSE3) on processors that it does not
know, such as Intel's since Sapphire Rapids. Training cells, assigning items to them and exact search for many queries
are matrix products: on such a processor they run 4.2 times as fast with the kernels for AVX-512 (136 against 32 GFLOP/s
of one core). OpenBLAS chooses once, when it is loaded, and heeds ``OPENBLAS_CORETYPE``, which is set here for that
moment unless the operator set it.
"""

import os
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

CORE_TYPE = "OPENBLAS_CORETYPE"
_SKYLAKE = ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
_HASWELL = ("avx2", "fma")


def core_type(flags: Collection[str]) -> str | None:
    """Return the newest of OpenBLAS's x86 kernels, of those that all its builds know, for a processor.

    Args:
        flags: What the processor can do, as ``/proc/cpuinfo`` names it.
    Returns:
        A value of ``OPENBLAS_CORETYPE``; None leaves the choice to OpenBLAS.
    """
    for name, needed in (("SkylakeX", _SKYLAKE), ("Haswell", _HASWELL)):
        if all(flag in flags for flag in needed):
            return name
    return None


def processor_flags() -> frozenset[str]:
    """Return what this processor can do; nothing where Linux does not tell, or of another architecture than x86."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


@contextmanager
def _chosen_core() -> Iterator[None]:
    core = core_type(processor_flags())
    if core is None or CORE_TYPE in os.environ:
        yield
        return
    os.environ[CORE_TYPE] = core
    try:
        yield
    finally:
        del os.environ[CORE_TYPE]  # other libraries' OpenBLAS know newer kernels


with _chosen_core():
    import faiss

__all__ = ["faiss"]
