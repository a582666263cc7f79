"""The store of the server's tests: trained (barely), built and published."""

from tests.server.conftest import store

__all__ = ["store"]
