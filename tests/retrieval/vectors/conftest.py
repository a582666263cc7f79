import pytest

from retrieval.vectors.vector_index import VectorIndex
from tests.retrieval.vectors.made_up import KINDS, unit


@pytest.fixture(scope="session")
def vectors():
    return unit(2000, 24, seed=1)


@pytest.fixture(scope="session")
def queries():
    return unit(50, 24, seed=2)


@pytest.fixture(scope="session")
def built(vectors):
    return {config.kind: VectorIndex.build(vectors, config) for config in KINDS}
