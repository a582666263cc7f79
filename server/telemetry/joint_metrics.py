"""The metrics of several serving processes at one address: each series with the number of its process.

They are not added up here: a process that is started again begins at nothing, and a sum that falls looks to Prometheus
like a server that counted everything twice. ``sum without (process)`` adds them up where they are read.
"""

import logging
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

ANSWER_S = 3.0  # for a process to tell its figures; Prometheus itself waits for 10
PROCESS = "process"  # the label


class JointMetrics(Collector):
    """What Prometheus reads of a server with several processes."""

    def __init__(self, n_processes: int) -> None:
        """Know of no process yet.

        Args:
            n_processes: How many there are to be.
        """
        self.registry = CollectorRegistry()
        self._ends = Counter(
            "tandem_process_ends", "Serving processes that ended unbidden.", (PROCESS,), registry=self.registry
        )
        for number in range(1, n_processes + 1):
            self._ends.labels(str(number))
        self._n_processes = n_processes
        self._addresses: dict[int, str] = {}  # of those that serve
        self.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead of time, so that registering asks nobody."""
        return ()

    def serves(self, number: int, address: str) -> None:
        """Read a process's figures at an address from now on."""
        self._addresses = self._addresses | {number: address}  # replaced, not changed: other threads read it

    def ended(self, number: int) -> None:
        """Count a process that ended."""
        self._ends.labels(str(number)).inc()
        self._addresses = {other: address for other, address in self._addresses.items() if other != number}

    def collect(self) -> Iterable[Metric]:
        """Ask every process."""
        addresses = self._addresses
        up = GaugeMetricFamily("tandem_process_up", "Whether a serving process tells its figures.", labels=[PROCESS])
        joint: dict[str, Metric] = {}
        with ThreadPoolExecutor(max(1, len(addresses)), thread_name_prefix="metrics") as threads:
            texts = dict(zip(addresses, threads.map(_read, addresses.values()), strict=True))
        for number in range(1, self._n_processes + 1):
            text = texts.get(number)
            up.add_metric([str(number)], float(text is not None))
            for family in text_string_to_metric_families(text or ""):
                into = joint.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [
                    sample._replace(labels={**sample.labels, PROCESS: str(number)}) for sample in family.samples
                ]
        yield up
        yield from joint.values()


def _read(address: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_S) as response:
            return str(response.read(), "utf-8")
    except OSError as exc:
        logger.warning("a serving process tells no figures: %s", exc)
        return None
