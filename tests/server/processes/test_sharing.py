import os
import socket
from pathlib import Path

import pytest

from corpus.errors import ConfigError
from server.config import ServerConfig
from server.processes.sharing import Share, n_processes_of, n_threads_of


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(("asked", "n_processes"), [(1, 1), (3, 3), (0, 4), (20, 20)])
def test_processes_are_as_many_as_asked_for_or_one_for_two_cores(eight_cores, asked, n_processes):
    assert n_processes_of(ServerConfig(processes=asked)) == n_processes


def test_a_single_core_has_a_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert n_processes_of(ServerConfig(processes=0)) == 1


@pytest.mark.parametrize(("n_threads", "n_processes", "each"), [(None, 1, 8), (None, 3, 2), (None, 20, 1), (5, 4, 5)])
def test_cores_are_shared_out_unless_configured(eight_cores, n_threads, n_processes, each):
    assert n_threads_of(ServerConfig(n_threads=n_threads), n_processes) == each


def test_several_processes_need_a_system_that_lets_them_share_a_port(monkeypatch):
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert n_processes_of(ServerConfig(processes=1)) == 1
    with pytest.raises(ConfigError, match=r"server\.processes = 1 on a system"):
        n_processes_of(ServerConfig(processes=2))


def test_the_first_process_alone_takes_updates_and_each_has_a_socket_of_its_own(tmp_path):
    shares = [Share(number=n, n_processes=3, folder=Path("/run/tandem")) for n in (1, 2, 3)]
    assert [share.takes_updates for share in shares] == [True, False, False]
    assert shares[2].socket_of(1) == "unix:/run/tandem/1"
