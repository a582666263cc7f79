"""One figure of a quality report: every system with its intervals, and who wins on which searches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.sentence_transformers_stack import TWO_STAGES as PEER
from indexer.report import HEADLINE, SLICE_MEASURES, EvaluationReport, Row
from indexer.systems import DENSE, ORACLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's colours, told apart by the colour-blind; markers differ as well, for print
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
WIDTH_INCHES, DPI = 10.0, 100  # 1,000 pixels wide
ROW_INCHES = 0.36


def plot_quality(report: EvaluationReport, title: str, path: Path) -> None:
    """Draw a report: on the left all systems, on the right the slices.

    Args:
        report: What an evaluation found.
        title: Stands above both panels.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    n_lines = max(len(report.rows), len(report.slices))
    figure = Figure(figsize=(WIDTH_INCHES, 1.8 + ROW_INCHES * n_lines), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1.0])
    figure.suptitle(title, fontsize=13)
    _dots(
        left,
        [row.name for row in report.rows],
        [(measure, report.rows, measure) for measure in SLICE_MEASURES],
    )
    left.set_title(f"All {report.n_queries:,} {report.split} searches", fontsize=11)
    names = shown_on_slices(report)
    lines = [(name, [_row(part.rows, name) for part in report.slices], HEADLINE) for name in names]
    _dots(right, [f"{part.name} ({part.n_queries:,})" for part in report.slices], lines)
    right.set_title(f"{HEADLINE} by kind of search", fontsize=11)
    figure.supxlabel("mean over searches, 95 % bootstrap interval", fontsize=10)
    figure.savefig(path)


def shown_on_slices(report: EvaluationReport) -> list[str]:
    """Name the systems worth comparing slice by slice: the best floor, the peer, the first stage, the last one."""
    names = [row.name for row in report.rows if row.name != ORACLE]
    wanted = (report.best_floor[HEADLINE], PEER, DENSE, names[-1])
    return [name for name in dict.fromkeys(wanted) if name in names]


def _dots(axes: "Axes", labels: Sequence[str], series: Sequence[tuple[str, Sequence[Row], str]]) -> None:
    """Draw one line of dots per label, the first on top; each series has its own colour, marker and offset."""
    gap = 0.6 / max(len(series), 1)
    for number, ((name, rows, measure), (colour, marker)) in enumerate(zip(series, STYLES, strict=False)):
        estimates = [row.metrics[measure] for row in rows]
        values = [estimate.value for estimate in estimates]
        ends = [
            [max(0.0, estimate.value - estimate.low) for estimate in estimates],
            [max(0.0, estimate.high - estimate.value) for estimate in estimates],
        ]
        places = [place + gap * (number - (len(series) - 1) / 2) for place in range(len(rows))]
        axes.errorbar(
            values, places, xerr=ends, fmt=marker, color=colour, markersize=5, capsize=2, linewidth=1.2, label=name
        )
    axes.set_yticks(range(len(labels)), labels, fontsize=10)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.grid(axis="x", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize=9, frameon=False)


def _row(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)
