"""What an evaluation found: numbers with their intervals, as JSON, plain text and Markdown."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retrieval.metrics import MEASURES

HEADLINE = "MRR@10"  # the measure of the tables of slices and of differences
SLICE_MEASURES = (HEADLINE, "nDCG@10")
JUDGED = "judged nDCG@10"  # of each query's judged items alone

NDCG = (
    "nDCG: gains are the grades themselves (linear), the discount is log2(rank + 1), the ideal is over all labelled "
    "items of the query (ir-measures)."
)
JUDGED_MEANS = "judged nDCG@10: each system orders the judged items of the query and nothing else."
FLOOR_MEANS = (
    "The best floor is the best of random, popularity, popularity in query, BM25 and the untuned encoder by that "
    "measure, in this run"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A mean over queries with its 95 % bootstrap interval (percentiles of 1,000 resamples)."""

    value: float
    low: float
    high: float

    def mean(self) -> str:
        """Write the mean alone, as ``.583``."""
        return _number(self.value)

    def text(self, *, signed: bool = False) -> str:
        """Write mean and half the interval's width, as ``.583 ±.012``."""
        return f"{_number(self.value, signed=signed)} ±{_number((self.high - self.low) / 2)}"


class Row(_Part):
    """One system on one set of queries."""

    name: str
    metrics: dict[str, Estimate]
    gain: dict[str, Estimate] | None  # over the row above, paired by query; None in the first row
    floor_gain: dict[str, Estimate] | None  # over the best floor by each measure, paired; None for a floor
    share_of_possible: Estimate | None  # expected DCG@10 as a share of the oracle's; None where nobody knows it


class Slice(_Part):
    """A part of the queries, and how every system does on it by the measures of ``SLICE_MEASURES``."""

    name: str
    by: str  # what the queries are cut by; slices of one kind share a table
    n_queries: int
    best_floor: dict[str, str]  # by measure
    rows: tuple[Row, ...]


class EvaluationReport(_Part):
    """A bundle beside its floors, on held-out queries."""

    bundle: str  # version
    data_fingerprint: str  # of the prepared data
    n_items: int  # in the catalogue
    split: Literal["train", "valid", "test"]
    n_queries: int  # that were evaluated
    n_distinct_queries: int  # different texts among them
    n_without_answer: int  # drawn, but left out: no item of theirs counts as relevant
    relevant_grade: float | None  # least grade that counts as relevant; None: any above 0
    rerank_depth: int  # candidates that the second stage orders
    seed: int
    best_floor: dict[str, str]  # by measure: the name of the floor that does best on all queries
    rows: tuple[Row, ...]  # the simplest system first
    slices: tuple[Slice, ...]
    notes: tuple[str, ...]  # what was left out and why
    seconds: dict[str, float]  # wall-clock time by system

    def table(self) -> str:
        """Write the report as plain text of at most 80 columns; 82 with judgments."""
        head = ["system", *("judged" if measure == JUDGED else measure for measure in self._measures())]
        rows = [[row.name, *(_cell(row, m, Estimate.mean) for m in self._measures())] for row in self.rows]
        parts = [self._caption(), "", _align([head, *rows]), ""]
        parts += [f"{HEADLINE}, paired by query, ± half of the 95 % interval:", "", _align(self._gain_rows())]
        for by, table in self._slice_tables():
            parts += ["", f"{HEADLINE} by {by}:", "", _align(table)]
        return "\n".join([*parts, *("\n" + _wrapped(line) for line in self._closing())])

    def markdown(self) -> str:
        """Write the report as Markdown, with every interval."""
        rows = [[row.name, *(_cell(row, m, Estimate.text) for m in self._measures())] for row in self.rows]
        parts = [self._caption(), "", _pipe([["system", *self._measures()], *rows]), ""]
        parts += [f"± is half of the 95 % bootstrap interval. {HEADLINE} compared, paired by query:", ""]
        parts.append(_pipe(self._gain_rows()))
        for by, table in self._slice_tables():
            parts += ["", f"{HEADLINE} by {by}:", "", _pipe(table)]
        return "\n".join([*parts, "", "\n\n".join(self._closing())])

    def _measures(self) -> tuple[str, ...]:
        judged = any(JUDGED in row.metrics for row in self.rows)
        return (*MEASURES, JUDGED) if judged else MEASURES

    def _caption(self) -> str:
        relevant = "" if self.relevant_grade is None else f", relevant from grade {self.relevant_grade:g}"
        return (
            f"Bundle {self.bundle}, {self.n_items:,} items, {self.n_queries:,} {self.split} queries "
            f"({self.n_distinct_queries:,} different), rerank depth {self.rerank_depth}{relevant}"
        )

    def _gain_rows(self) -> list[list[str]]:
        head = ["system", "over the row above", "over the best floor"]
        return [head, *([row.name, _gain(row.gain), _gain(row.floor_gain)] for row in self.rows)]

    def _slice_tables(self) -> list[tuple[str, list[list[str]]]]:
        kinds = dict.fromkeys(part.by for part in self.slices)
        return [(by, self._slice_rows([part for part in self.slices if part.by == by])) for by in kinds]

    def _slice_rows(self, parts: Sequence[Slice]) -> list[list[str]]:
        head = ["system", *(part.name for part in parts)]
        counts = ["(queries)", *(f"{part.n_queries:,}" for part in parts)]
        columns = [{row.name: row.metrics[HEADLINE].mean() for row in part.rows} for part in parts]
        return [head, counts, *([row.name, *(column[row.name] for column in columns)] for row in self.rows)]

    def _closing(self) -> list[str]:
        shares = [f"{row.name} {row.share_of_possible.value:.0%}" for row in self.rows if row.share_of_possible]
        lines = [f"Share of the possible (expected DCG@10 / the oracle's): {', '.join(shares)}"] if shares else []
        if self.n_without_answer:
            lines.append(f"{self.n_without_answer:,} queries without a relevant item were left out.")
        lines += [NDCG, *([JUDGED_MEANS] if JUDGED in self._measures() else []), self._best_floors()]
        return [*lines, *(f"Note: {note}" for note in self.notes)]

    def _best_floors(self) -> str:
        named = "; ".join(f"{measure}: {name}" for measure, name in self.best_floor.items())
        return f"{FLOOR_MEANS} ({named})."


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 80, break_long_words=False, break_on_hyphens=False)


def _gain(gain: dict[str, Estimate] | None) -> str:
    return "" if gain is None else gain[HEADLINE].text(signed=True)


def _cell(row: Row, measure: str, write: Callable[[Estimate], str]) -> str:
    estimate = row.metrics.get(measure)  # the oracle, say, does not order judged lists
    return "" if estimate is None else write(estimate)


def _number(value: float, *, signed: bool = False) -> str:
    """Write three digits, without a zero before the point: ``.583``, ``-.020``, ``1.000``."""
    text = f"{value:{'+' if signed else ''}.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        numbers = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _pipe(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])
