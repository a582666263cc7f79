"""Redis for tests, which skip where it is not installed."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks import redis_server


def running_redis(folder: Path) -> AbstractContextManager[redis_server.RedisServer]:
    if not redis_server.is_installed():
        pytest.skip("redis-server is not installed; Debian's package is called so")
    return redis_server.running_redis(folder)
