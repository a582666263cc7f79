"""What an evaluation found: numbers with their intervals, as JSON, plain text and Markdown."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from retrieval.metrics import MEASURES

HEADLINE = "MRR@10"  # the measure of the slices and of the plain table's last column


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Part):
    """A mean over queries with its 95 % bootstrap interval (percentiles of 1,000 resamples)."""

    value: float
    low: float
    high: float

    def text(self, *, signed: bool = False) -> str:
        """Write mean and half the interval's width, as ``.583 ±.012``."""
        return f"{_number(self.value, signed=signed)} ±{_number((self.high - self.low) / 2)}"


class Row(_Part):
    """One system on one set of queries."""

    name: str
    metrics: dict[str, Estimate]
    gain: dict[str, Estimate] | None  # over the row above, paired by query; None in the first row
    share_of_possible: Estimate | None  # expected DCG@10 as a share of the oracle's; None where nobody knows it


class Slice(_Part):
    """A part of the queries, and how every system does on it."""

    name: str
    n_queries: int
    rows: tuple[Row, ...]


class EvaluationReport(_Part):
    """A bundle beside its floors, on held-out queries."""

    bundle: str  # version
    split: Literal["train", "valid", "test"]
    n_queries: int  # that were evaluated
    n_distinct_queries: int  # different texts among them
    n_without_answer: int  # drawn, but left out: no item of theirs counts as relevant
    relevant_grade: float | None  # least grade that counts as relevant; None: any above 0
    rerank_depth: int  # candidates that the second stage orders
    seed: int
    rows: tuple[Row, ...]  # the simplest system first
    slices: tuple[Slice, ...]
    notes: tuple[str, ...]  # what was left out and why
    seconds: dict[str, float]  # wall-clock time by system

    def table(self) -> str:
        """Write the report as plain text of at most 80 columns."""
        head = ["system", *MEASURES, "gain"]
        rows = [[row.name, *(_number(row.metrics[m].value) for m in MEASURES), _gain(row)] for row in self.rows]
        legend = f"gain: {HEADLINE} over the row above, paired by query, ± half of the 95 % interval"
        parts = [self._caption(), "", _align([head, *rows]), legend]
        if self.slices:
            parts += ["", f"{HEADLINE} by kind of query:", "", _align(self._slice_rows())]
        return "\n".join([*parts, *("\n" + line for line in self._closing())])

    def markdown(self) -> str:
        """Write the report as Markdown, with every interval."""
        head = ["system", *MEASURES, f"{HEADLINE} over the row above"]
        rows = [[row.name, *(row.metrics[m].text() for m in MEASURES), _gain(row)] for row in self.rows]
        parts = [self._caption(), "", _pipe([head, *rows]), "", "± is half of the 95 % bootstrap interval."]
        if self.slices:
            parts += ["", f"{HEADLINE} by kind of query:", "", _pipe(self._slice_rows())]
        if closing := self._closing():
            parts += ["", "\n\n".join(closing)]
        return "\n".join(parts)

    def _caption(self) -> str:
        relevant = "" if self.relevant_grade is None else f", relevant from grade {self.relevant_grade:g}"
        return (
            f"Bundle {self.bundle}, {self.n_queries:,} {self.split} queries "
            f"({self.n_distinct_queries:,} different), rerank depth {self.rerank_depth}{relevant}"
        )

    def _slice_rows(self) -> list[list[str]]:
        head = ["system", *(part.name for part in self.slices)]
        counts = ["(queries)", *(f"{part.n_queries:,}" for part in self.slices)]
        columns = [{row.name: _number(row.metrics[HEADLINE].value) for row in part.rows} for part in self.slices]
        return [head, counts, *([row.name, *(column[row.name] for column in columns)] for row in self.rows)]

    def _closing(self) -> list[str]:
        shares = [f"{row.name} {row.share_of_possible.value:.0%}" for row in self.rows if row.share_of_possible]
        lines = [f"Share of the possible (expected DCG@10 / the oracle's): {', '.join(shares)}"] if shares else []
        if self.n_without_answer:
            lines.append(f"{self.n_without_answer:,} queries without a relevant item were left out.")
        return [*lines, *(f"Note: {note}" for note in self.notes)]


def _gain(row: Row) -> str:
    return "" if row.gain is None else row.gain[HEADLINE].text(signed=True)


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
