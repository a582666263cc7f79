"""Several serving processes on one port: each test runs real ones over a real, tiny bundle."""

import os
import signal
import threading
import urllib.request
from contextlib import closing
from datetime import UTC, datetime

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from corpus.errors import BadPageToken, Overloaded, TandemError
from corpus.events import Event, EventType
from corpus.items import Item
from indexer.publish import publish
from server.access.credentials import Credentials
from server.client import TandemAdmin, TandemClient
from server.config import ServerConfig
from server.histories.contract import open_histories
from tests.server.conftest import copy_bundle
from tests.server.gates import QUERY, eventually
from tests.server.supervised import Supervised, supervised

pytestmark = pytest.mark.slow
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def running(store, tmp_path_factory):
    """Two processes for all tests that leave them as they were."""
    folder = tmp_path_factory.mktemp("supervised")
    with supervised(store.root, folder / "log", history_path=str(folder / "history.sqlite3")) as running:
        yield running


class Apart(Credentials):
    """Gives each client a connection of its own: those of one process to one address are else shared."""

    def channel(self, address: str) -> grpc.Channel:
        return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def connect(running: Supervised) -> TandemClient:
    return TandemClient(running.address, timeout_s=60, credentials=Apart())


def process_of(client: TandemClient) -> int:
    """Return who answers: search ids begin with it."""
    return int(client.search(QUERY, page_size=1).search_id.partition(".")[0])


def client_of(running: Supervised, number: int) -> TandemClient:
    """Connect until the kernel has chosen a process."""
    for _ in range(200):
        client = connect(running)
        if process_of(client) == number:
            return client
        client.close()
    raise AssertionError(f"no connection to process {number} in 200")


def ids_of(response) -> list[str]:
    return [hit.item.item_id for hit in response.results]


def scrape(running: Supervised) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"http://{running.metrics_address}/metrics", timeout=60) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(samples, name: str, **labels: str) -> dict[str, float]:
    """Return the sum of the series that have some labels, by process."""
    sums: dict[str, float] = {}
    for (found, pairs), value in samples.items():
        if found == name and labels.items() <= dict(pairs).items():
            process = dict(pairs)["process"]
            sums[process] = sums.get(process, 0.0) + value
    return sums


# answering


def test_both_processes_answer_on_one_port_alike(running):
    with closing(client_of(running, 1)) as one, closing(client_of(running, 2)) as two:
        assert ids_of(one.search(QUERY)) == ids_of(two.search(QUERY)) != []


def test_a_further_page_continues_the_first_whichever_process_it_is_asked_of(running):
    with closing(client_of(running, 1)) as one, closing(client_of(running, 2)) as two:
        whole = ids_of(one.search(QUERY, page_size=15))
        for first, other in ((one, two), (two, one)):
            page = first.search(QUERY, page_size=5)
            found = ids_of(page)
            for client in (other, first, other)[:2]:
                page_after = client.search(QUERY, page_size=5, page_token=page.next_page_token)
                assert page_after.search_id == page.search_id
                assert page_after.results[0].rank == len(found) + 1
                found += ids_of(page_after)
                page = page_after
            assert found == whole


def test_a_sibling_refuses_tokens_as_the_process_itself_does(running):
    with closing(client_of(running, 1)) as one, closing(client_of(running, 2)) as two:
        token = one.search(QUERY, page_size=5).next_page_token
        for client in (one, two):
            with pytest.raises(BadPageToken, match="belongs to another request") as caught:
                client.search("hose", page_size=5, page_token=token)
            assert caught.value.field == "page_token"


def test_events_that_both_record_are_all_there(running, store):
    names = [f"i-{number:02}" for number in range(1, 21)]

    def record(client: TandemClient, own: list[str]) -> None:
        for name in own:
            client.record_events(
                [Event(timestamp=NOW, user_id="u", session_id=None, type=EventType.CLICK, item_id=name)]
            )

    with closing(client_of(running, 1)) as one, closing(client_of(running, 2)) as two:
        threads = [
            threading.Thread(target=record, args=(client, own))
            for client, own in ((one, names[::2]), (two, names[1::2]))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        settings = ServerConfig(history_path=str(running.settings["history_path"]))
        with closing(open_histories(settings, store)) as histories:
            assert {event.item_id for event in histories.history("user:u")} == set(names)
        assert one.delete_user(user_id="u") == 20
        assert two.delete_user(user_id="u") == 0


def test_metrics_tell_every_process_and_add_up(running):
    labels = {"rpc": "SearchService.Search", "code": "OK"}
    before = total(scrape(running), "tandem_calls_total", **labels)
    with closing(client_of(running, 1)) as one, closing(client_of(running, 2)) as two:
        between = total(scrape(running), "tandem_calls_total", **labels)
        for client, n in ((one, 3), (two, 2)):
            for _ in range(n):
                client.search(QUERY)
        after = total(scrape(running), "tandem_calls_total", **labels)
    assert before.keys() <= {"1", "2"}
    assert {process: after[process] - between[process] for process in after} == {"1": 3.0, "2": 2.0}
    samples = scrape(running)
    assert total(samples, "tandem_process_up") == {"1": 1.0, "2": 1.0}
    assert total(samples, "tandem_process_ends_total") == {"1": 0.0, "2": 0.0}
    assert total(samples, "tandem_bundle_info", version="v1") == {"1": 1.0, "2": 1.0}
    assert set(total(samples, "process_resident_memory_bytes")) == {"1", "2"}


def test_a_caller_is_limited_by_all_processes_together(store, tmp_path):
    refusals = {"rpc": "SearchService.Search", "code": "RESOURCE_EXHAUSTED"}
    settings = {"max_calls_per_second": 0.001, "history_path": str(tmp_path / "h")}
    with supervised(store.root, tmp_path / "log", **settings) as running:
        with closing(connect(running)) as client:
            assert client.search(QUERY).results
        for _ in range(200):
            with closing(connect(running)) as other, pytest.raises(Overloaded):
                other.search(QUERY)
            if set(total(scrape(running), "tandem_calls_total", **refusals)) == {"1", "2"}:
                break
        else:
            raise AssertionError("all connections went to one process")


# updates and versions


def test_updates_and_versions_reach_every_process(own_store, tmp_path):
    with (
        supervised(own_store.root, tmp_path / "log") as running,
        closing(client_of(running, 1)) as one,
        closing(client_of(running, 2)) as two,
        TandemAdmin(running.admin_address, timeout_s=60) as admin,
    ):
        assert admin.upsert_items([Item(item_id="new", title="quixotic zeppelin")]) == 1
        assert ids_of(one.search("quixotic zeppelin"))[0] == "new"
        eventually(lambda: "new" in ids_of(two.search("quixotic zeppelin")))
        admin.delete_items(["new"])
        eventually(lambda: "new" not in ids_of(two.search("quixotic zeppelin")))
        copy_bundle(own_store, "v1", "v2")
        assert admin.activate_version("v2", reason="a test") == "v2"
        assert one.search(QUERY).index_version == "v2"
        eventually(lambda: two.search(QUERY).index_version == "v2")
        copy_bundle(own_store, "v1", "v3")
        publish(own_store.bundles, "v3", reason="a test")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: {client.search(QUERY).index_version for client in (one, two)} == {"v3"})
        assert running.stop() == 0


# ends


def test_a_killed_process_is_replaced_and_no_later_call_is_lost(own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log") as running, closing(client_of(running, 2)) as other:
        survivor_token = other.search(QUERY, page_size=5).next_page_token
        with closing(client_of(running, 1)) as client:
            lost_token = client.search(QUERY, page_size=5).next_page_token
            first_life = running.pids[1]
            os.kill(first_life, signal.SIGKILL)
            running.wait_for("process 1 ended with -9, and is started again")
            for caller in (client, other):
                for _ in range(20):
                    assert process_of(caller) == 2
            for _ in range(20):
                with closing(connect(running)) as late:
                    assert len(late.search(QUERY).results) == 10
            with pytest.raises(BadPageToken, match="search again without it"):
                client.search(QUERY, page_size=5, page_token=lost_token)
            assert client.search(QUERY, page_size=5, page_token=survivor_token).results[0].rank == 6
        eventually(lambda: running.pids[1] != first_life)
        eventually(lambda: total(scrape(running), "tandem_process_up") == {"1": 1.0, "2": 1.0}, within_s=120)
        assert total(scrape(running), "tandem_process_ends_total") == {"1": 1.0, "2": 0.0}
        with closing(client_of(running, 1)) as again, TandemAdmin(running.admin_address, timeout_s=60) as admin:
            admin.upsert_items([Item(item_id="new", title="quixotic zeppelin")])  # its log is no longer the dead one's
            assert "new" in ids_of(again.search("quixotic zeppelin"))
            with pytest.raises(BadPageToken, match="search again without it"):
                other.search(QUERY, page_size=5, page_token=lost_token)


def test_a_stop_lets_the_calls_in_flight_of_all_processes_finish(own_store, tmp_path):
    # texts are embedded some at a time, so that a call with many takes a while
    texts = [f"a text that is number {n} of many and goes on for a little while" for n in range(100)]
    with supervised(own_store.root, tmp_path / "log") as running:
        clients = {number: client_of(running, number) for number in (1, 2)}
        answered: dict[int, int] = {}

        def embed(number: int) -> None:
            answered[number] = len(clients[number].embed(texts, "query"))

        callers = [threading.Thread(target=embed, args=(number,)) for number in clients]
        for caller in callers:
            caller.start()
        eventually(lambda: sum(total(scrape(running), "tandem_queue_calls", queue="search").values()) >= 1)
        pids = running.pids
        assert running.stop() == 0
        for caller in callers:
            caller.join()
        for client in clients.values():
            client.close()
        assert answered == {1: 100, 2: 100}
        assert [line["event"] for line in running.lines][-1] == "stopped"
        for pid in pids.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_processes_end_when_their_supervisor_is_killed(own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log") as running:
        assert running.address
        pids = running.pids
        running.process.kill()
        running.process.wait()

        def gone(pid: int) -> bool:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            return False

        eventually(lambda: all(map(gone, pids.values())), within_s=60)


def test_a_process_whose_models_are_stuck_is_replaced(own_store, tmp_path):
    settings = {"wedged_after_s": 1.0, "drain_timeout_s": 1.0}
    with supervised(own_store.root, tmp_path / "log", target="gets_stuck", **settings) as running:
        with closing(client_of(running, 1)) as client, pytest.raises(TandemError):
            client.search("anvil")
        running.wait_for("process 1 is replaced: its models have been stuck")
        eventually(lambda: len(running.pids_of(1)) == 2)
        eventually(lambda: total(scrape(running), "tandem_process_up") == {"1": 1.0, "2": 1.0}, within_s=120)
        with closing(client_of(running, 1)) as again:
            assert again.search("anvil").results


def test_a_process_that_is_not_heard_of_is_replaced(own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log", silence_s=15.0) as running:
        assert running.address
        os.kill(running.pids[2], signal.SIGSTOP)
        running.wait_for("process 2 has not been heard of for 15 s: killed")
        eventually(lambda: len(running.pids_of(2)) == 2)
        running.wait_for(r"(?s)(serving v1 on .*){2}")


# what keeps all of them from serving


def test_a_process_that_dies_at_every_start_ends_the_whole(own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log", target="dies_at_start") as running:
        assert running.process.wait(120) == 1
        assert "one ended 3 times in a row, the last time with exit code -9" in running.text
        assert "serving v1" not in running.text


def test_a_bundle_that_does_not_verify_is_told_once(own_store, tmp_path):
    victim = own_store.bundles / "v1" / "vectors.npy"
    victim.write_bytes(victim.read_bytes()[:-1])
    with supervised(own_store.root, tmp_path / "log") as running:
        assert running.process.wait(120) == 1
        assert running.text.count("vectors.npy") == 1


def test_a_wrong_configuration_starts_no_process(own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log", api_keys="none.json") as running:
        assert running.process.wait(120) == 2
        assert "has pid" not in running.text


def test_a_second_server_does_not_share_the_port_by_mistake(running, own_store, tmp_path):
    with supervised(own_store.root, tmp_path / "log", address=running.address) as second:
        assert second.process.wait(120) == 2
        assert "Address already in use" in second.text
