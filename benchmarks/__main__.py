"""``python -m benchmarks``: one command per question.

quality   how good are the answers, beside their floors?
build     how fast is a catalogue embedded, beside plain SentenceTransformer.encode?
index     how fast do the kinds of vector index answer, and what do they cost?
latency   how long does an answer take, beside peers and the floor?
fuzz      does any request break the server?
load      what becomes of searches, from a tenth of the capacity to ten times as much?
faults    what do searches lose while a part fails?
"""

import logging
import signal
import sys

import typer

from benchmarks.build import build
from benchmarks.faults import faults
from benchmarks.fuzz import fuzz
from benchmarks.index import index
from benchmarks.latency import latency
from benchmarks.load import load
from benchmarks.quality import quality
from corpus.errors import TandemError

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
app.command()(quality)
app.command()(build)
app.command()(index)
app.command()(latency)
app.command()(load)
app.command()(fuzz)
app.command()(faults)


@app.callback()
def _root() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers are to end with their benchmark
    try:
        app()
    except TandemError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit(1) from exc
