"""Tests of who goes first: calls before models."""

import os
import sys
import threading

import pytest

from server.config import ServerConfig
from server.inference.model_owner import ModelOwner
from server.inference.model_runtime import ModelRuntime
from server.inference.priority import STEP, give_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_gives_way_takes_those_along_that_it_starts_and_nobody_else() -> None:
    found: list[int] = []

    def start_another() -> None:
        give_way()
        child = threading.Thread(target=lambda: found.append(niceness()))
        child.start()
        child.join()
        found.append(niceness())

    before = niceness()
    thread = threading.Thread(target=start_another)
    thread.start()
    thread.join()
    assert found == [min(before + STEP, 19)] * 2
    assert niceness() == before


class Asked:
    """Work that tells how nice its thread is."""

    def run(self, asked: list[None]) -> list[int]:
        return [niceness() for _ in asked]


def test_models_run_on_threads_that_give_way() -> None:
    owner = ModelOwner("encoder", token_budget=1, n_searching=lambda: 1)
    try:
        assert owner.ask(Asked(), None, n_inputs=1, n_tokens=1) == min(niceness() + STEP, 19)
    finally:
        owner.close()


async def test_bundles_are_opened_on_a_thread_that_gives_way_and_searches_are_not() -> None:
    runtime = ModelRuntime(ServerConfig())
    try:
        assert await runtime.prepare(niceness) == min(niceness() + STEP, 19)
        assert runtime.threads.submit(niceness).result() == niceness()
    finally:
        runtime.close()
