"""All checks that need a GPU, in one go: ``python -m benchmarks.gpu``; less than nine minutes.

Needs nothing but this repository: models have random weights in the shapes of MiniLM-L6 and BERT-base, for speed does
not depend on what was learned, and texts are made-up words. The peer runs in the same process: sentence-transformers in
fp16. What the machine lacks, such as FAISS's own GPU indexes, is skipped with the reason. ``--dry-run`` takes every
path in tiny on whatever there is, CPUs included: it shows that the script works, and no more.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import Circumstances
from benchmarks.gpu_indexes import check_indexes, made_up_vectors, read_bandwidth, top_rows
from benchmarks.gpu_models import MODELS, Stack, open_stack, pairs_of, words
from corpus.errors import DeviceUnavailable, TandemError

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SEED = 13
UNPROVEN = "dry run: GPU figures are unproven; these are of tiny sizes"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """How much is measured."""

    sizes: tuple[int, ...] = (1_000_000, 10_000_000)  # items; what does not fit in memory is skipped
    searches: int = 200
    texts: int = 20_000
    pairs: int = 20_000
    reranks: int = 50
    rerank_depth: int = 100
    rounds: int = 5
    limit_s: float = 500.0  # checks that would begin later are skipped


DRY = GpuPlan(sizes=(500,), searches=4, texts=12, pairs=12, reranks=3, rerank_depth=6, rounds=2, limit_s=600.0)


def run(plan: GpuPlan, device: str, folder: Path, *, tiny: bool) -> dict[str, Any]:
    """Run all checks; one that fails leaves the others alone.

    Args:
        plan: How much.
        device: As torch names it.
        folder: Where made-up models are kept meanwhile.
        tiny: Models of one narrow layer, to see that it works.
    """
    began = time.monotonic()
    found: dict[str, Any] = {}
    stacks: dict[str, Stack] = {}

    def check(name: str, work: Callable[[], Any]) -> None:
        if time.monotonic() - began > plan.limit_s:
            found[name] = {"skipped": f"no time left of {plan.limit_s:g} s"}
            return
        started = time.monotonic()
        try:
            found[name] = work()
        except (TandemError, RuntimeError, MemoryError, OSError) as exc:
            found[name] = {"failed": f"{type(exc).__name__}: {exc}"[:500]}
        logger.info("%s: %.1f s: %s", name, time.monotonic() - started, json.dumps(found[name])[:300])

    check("bandwidth", lambda: {"bytes_per_s": read_bandwidth(device, n_bytes=2**20 if tiny else 2**32)})
    for name in MODELS:
        check(f"{name}: open", partial(_open, stacks, name, folder, device, tiny=tiny))
        if name in stacks:
            stack = stacks[name]
            check(f"{name}: embedding", partial(embedding, stack, plan))
            check(f"{name}: pairs", partial(reranking, stack, plan))
            check(f"{name}: rerank {plan.rerank_depth}", partial(rerank_latency, stack, plan))
    rate = found["bandwidth"].get("bytes_per_s")
    dim = next((stack.dim for stack in stacks.values()), 384)
    for n in plan.sizes:
        check(f"indexes of {n:,}", partial(check_indexes, n, dim, device, rate, n_searches=plan.searches, seed=SEED))
    for name, stack in stacks.items():
        check(f"{name}: end to end", partial(end_to_end, stack, plan, device))
    return found


def embedding(stack: Stack, plan: GpuPlan) -> dict[str, Any]:
    """Embed texts of 8 to 64 words: texts per second, Tandem in bf16 beside sentence-transformers in fp16."""
    texts = words(plan.texts, 8, 64, seed=SEED)
    return _rates(
        {
            "Tandem bf16": lambda: stack.encoder.encode(texts),
            "sentence-transformers fp16": lambda: stack.plain_encoder.encode(texts, show_progress_bar=False),
        },
        len(texts),
        plan.rounds,
    )


def reranking(stack: Stack, plan: GpuPlan) -> dict[str, Any]:
    """Score pairs of up to 128 tokens: pairs per second."""
    first, passages = words(1, 8, 8, seed=SEED)[0], words(plan.pairs, 16, 116, seed=SEED)
    pairs = pairs_of(stack, first, passages)
    found = _rates(
        {
            "Tandem bf16": lambda: stack.scorer.score(pairs),
            "sentence-transformers fp16": lambda: stack.plain_scorer.predict(
                [(first, passage) for passage in passages], batch_size=256, show_progress_bar=False
            ),
        },
        len(passages),
        plan.rounds,
    )
    return {**found, "mean_tokens": float(np.mean([len(p) + len(pairs.prefixes[0]) + 1 for p in pairs.passages]))}


def rerank_latency(stack: Stack, plan: GpuPlan) -> dict[str, Any]:
    """Score one request's pairs at a time: milliseconds."""
    first, passages = words(1, 8, 8, seed=SEED)[0], words(plan.rerank_depth, 16, 116, seed=SEED + 1)
    pairs = pairs_of(stack, first, passages)
    texts = [(first, passage) for passage in passages]
    own = _milliseconds(lambda _: stack.scorer.score(pairs), plan.reranks)
    peer = _milliseconds(
        lambda _: stack.plain_scorer.predict(texts, batch_size=256, show_progress_bar=False), plan.reranks
    )
    return {"Tandem bf16": own, "sentence-transformers fp16": peer, "times_faster": round(peer["p50"] / own["p50"], 3)}


def end_to_end(stack: Stack, plan: GpuPlan, device: str) -> dict[str, Any]:
    """Encode a query, search the smallest catalogue exactly, and rerank, in this process: milliseconds."""
    import torch

    n = plan.sizes[0]
    items = made_up_vectors(n, stack.dim, device, seed=SEED).to(torch.float16)
    passages = stack.tokenizer.token_ids(words(1000, 8, 48, seed=SEED))
    queries = words(plan.reranks, 2, 8, seed=SEED)

    def search(number: int) -> object:
        query = queries[number % len(queries)]
        vector = torch.as_tensor(stack.encoder.encode([query]), device=device, dtype=torch.float16)
        rows = top_rows(items, vector, plan.rerank_depth)[0].tolist()
        chosen = [passages[row % len(passages)] for row in rows]
        return stack.scorer.score(pairs_of(stack, query, chosen))

    return {"n_items": n, **_milliseconds(search, plan.reranks)}


def _open(stacks: dict[str, Stack], name: str, folder: Path, device: str, *, tiny: bool) -> dict[str, Any]:
    stack = stacks[name] = open_stack(name, folder, device, tiny=tiny)
    return {"dim": stack.dim, "n_parameters": stack.n_parameters}


def _rates(systems: dict[str, Callable[[], object]], n: int, rounds: int) -> dict[str, Any]:
    """Return how many a second each system does, the median of rounds by turns, and how much the first is faster."""
    from benchmarks.latency_cases import by_turns

    def ignoring_the_round(work: Callable[[], object]) -> Callable[[int], object]:
        return lambda _: work()

    seconds = by_turns({name: ignoring_the_round(work) for name, work in systems.items()}, rounds)
    rates = {name: round(n / float(np.median(taken)), 1) for name, taken in seconds.items()}
    own, peer = seconds.values()
    return {**rates, "times_faster": round(float(np.median(np.array(peer) / np.array(own))), 3)}


def _milliseconds(work: Callable[[int], object], n: int) -> dict[str, float]:
    for number in range(2):
        work(number)
    taken = []
    for number in range(n):
        began = time.perf_counter()
        work(number)
        taken.append(1e3 * (time.perf_counter() - began))
    return {"p50": round(float(np.percentile(taken, 50)), 3), "p99": round(float(np.percentile(taken, 99)), 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the checks, write their JSON and print it.

    Raises:
        DeviceUnavailable: If there is no GPU and this is no dry run.
    """
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="the JSON to write")
    parser.add_argument("--sizes", help="numbers of items, with commas; default: 1000000,10000000")
    parser.add_argument("--limit", type=float, help="seconds after which no check begins; default: 500")
    parser.add_argument("--dry-run", action="store_true", help="everything in tiny, on a CPU if need be")
    options = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.dry_run:
        raise DeviceUnavailable("expected a GPU, found none; add --dry-run to see that the script works")
    changes: dict[str, Any] = {}
    if options.sizes:
        changes["sizes"] = tuple(sorted(int(size) for size in options.sizes.split(",")))
    if options.limit:
        changes["limit_s"] = options.limit
    plan = GpuPlan(**{**asdict(DRY if options.dry_run else GpuPlan()), **changes})
    circumstances = Circumstances()
    with tempfile.TemporaryDirectory() as folder:
        checks = run(plan, "cuda" if has_gpu else "cpu", Path(folder), tiny=options.dry_run)
    document = {
        "command": "python -m benchmarks.gpu" + (" --dry-run" if options.dry_run else ""),
        "proven": has_gpu and not options.dry_run,
        "seed": SEED,
        "plan": asdict(plan),
        "checks": checks,
        **circumstances.document(),
    }
    if has_gpu:
        with suppress(RuntimeError):
            document["memory_peak_bytes"] = torch.cuda.max_memory_allocated()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(document["checks"], indent=1) + "\n")
    if not document["proven"]:
        sys.stdout.write(f"{UNPROVEN}\n")
    sys.stdout.write(f"written: {options.out}\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        main()
    except TandemError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit(1) from exc
