"""How long completing a query takes on a large log.

    python -m benchmarks.suggestions --queries 200000

A log is made up: queries of one to four words out of 20,000 of Zipfian frequency. Printed as one JSON object: how long
the look-ups take to make, and median and worst of some beginnings of each kind, in milliseconds.
"""

import argparse
import json
import sys
import time

import numpy as np

from benchmarks.circumstances import commit, processor
from retrieval.event_log.suggestions import Suggestions

N_WORDS = 20_000
N_BEGINNINGS = 200  # of each kind


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    queries = _queries(options.queries, generator)
    began = time.perf_counter()
    log = Suggestions(queries, (generator.pareto(1.2, len(queries)) + 1).tolist()).warm()
    seconds = time.perf_counter() - began
    drawn = [queries[number] for number in generator.integers(0, len(queries), N_BEGINNINGS)]
    beginnings = {
        "one letter": [query[:1] for query in drawn],
        "three letters": [query[:3] for query in drawn],
        "half": [query[: (len(query) + 1) // 2] for query in drawn],
        "words turned round": [" ".join(reversed(query.split())) for query in drawn],
        "a slip": [query[:2] + "q" + query[2:] for query in drawn],
    }
    result = {
        "queries": len(log),
        "seed": options.seed,
        "processor": processor(),
        "tandem": commit(),
        "making_s": round(seconds, 2),
        "complete_ms": {kind: _times_ms(log, texts) for kind, texts in beginnings.items()},
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _queries(n: int, generator: np.random.Generator) -> list[str]:
    letters = np.array(list("eeeeaaairrtttooonnnlllssccuddpmhgbfywkvxzjq"))
    words = ["".join(generator.choice(letters, length)) for length in generator.integers(3, 10, N_WORDS)]
    share = 1 / np.arange(1, N_WORDS + 1)
    found: dict[str, None] = {}
    while len(found) < n:
        drawn = generator.choice(N_WORDS, (n, 4), p=share / share.sum())
        lengths = generator.integers(1, 5, n)
        texts = (" ".join(words[w] for w in row[:length]) for row, length in zip(drawn, lengths, strict=True))
        found |= dict.fromkeys(texts)
    return list(found)[:n]


def _times_ms(log: Suggestions, texts: list[str]) -> dict[str, float]:
    times = []
    for text in texts:
        began = time.perf_counter()
        log.complete(text, 10)
        times.append(time.perf_counter() - began)
    return {"median": round(float(np.median(times)) * 1000, 2), "worst": round(max(times) * 1000, 2)}


if __name__ == "__main__":
    main()
