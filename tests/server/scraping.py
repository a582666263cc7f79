"""Reading a server's metrics as Prometheus does."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scrape(server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels."""
    families = text_string_to_metric_families(text_of(server))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def text_of(server) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as response:
        return response.read().decode()


def value(samples, name: str, **labels: str) -> float:
    """Return a sample's value; 0 where there is no such series yet."""
    return samples.get((name, frozenset(labels.items())), 0.0)
