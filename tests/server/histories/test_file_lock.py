import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from server.histories.file_lock import FileLock

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_a_turn_that_another_holds_is_waited_for(path):
    with closing(FileLock(path)) as one, closing(FileLock(path)) as two:
        order: list[str] = []

        def wait() -> None:
            with two.hold(within_s=60):
                order.append("two")

        waiting = threading.Thread(target=wait)
        with one.hold(within_s=60):
            waiting.start()
            waiting.join(0.1)
            assert waiting.is_alive()
            order.append("one")
        waiting.join()
    assert order == ["one", "two"]


def test_a_turn_that_does_not_come_is_told_and_a_later_one_may(path):
    with closing(FileLock(path)) as one, closing(FileLock(path)) as two:
        with one.hold(within_s=60), pytest.raises(TimeoutError, match=r"writing for 0\.05 s"), two.hold(within_s=0.05):
            pass
        with two.hold(within_s=0.05):
            pass


def test_a_killed_process_gives_its_turn_back(path):
    code = (
        "import pathlib, sys, time\n"
        "from server.histories.file_lock import FileLock\n"
        "with FileLock(pathlib.Path(sys.argv[1])).hold(within_s=60):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process, closing(FileLock(path)) as turns:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(TimeoutError), turns.hold(within_s=0.01):
            pass
        os.kill(process.pid, signal.SIGKILL)
        with turns.hold(within_s=60):
            pass
