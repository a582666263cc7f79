"""What a load measurement found: per offered load one row, as numbers, as a table, as a figure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.load_generator import Fate, Load, Outcome

ADMITTED = frozenset({Fate.COMPLETE, Fate.DEGRADED, Fate.LATE})
MOST_OF_A_STEP = 0.9  # what is left of it afterwards tells nothing
ANSWERED = frozenset({Fate.COMPLETE, Fate.DEGRADED})
WIDTH_INCHES, HEIGHT_INCHES, DPI = 10.0, 4.2, 100
# Okabe & Ito's colours, told apart by the colour-blind
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One offered load. Times are in milliseconds, and count from when a call was to be sent."""

    share: float  # of the capacity
    offered: float  # calls per second that were to be sent
    n_sent: int
    n_unsent: int  # left out because too many were in flight
    p50_ms: float | None  # of the calls that were admitted, late ones included; None: there were none
    p95_ms: float | None
    p99_ms: float | None
    complete: float  # answers within the objective, per second, that lack nothing
    degraded: float  # likewise, with something in degraded[]
    n_refused: int
    refusal_p50_ms: float | None
    refusal_p99_ms: float | None
    n_late: int  # deadline exceeded
    n_failed: int
    generator_late_p99_ms: float  # how much later than due calls were sent: large beside p50, it measured itself

    @property
    def goodput(self) -> float:
        """Answers within the objective, per second."""
        return self.complete + self.degraded


@dataclass(frozen=True, slots=True, kw_only=True)
class Glue:
    """What gRPC and everything around the stages add to a search; callers one at a time. Milliseconds."""

    p50_ms: float  # as the client sees it
    work_p50_ms: float  # sum of the stages but waiting
    glue_p50_ms: float  # the median difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """The smallest possible search."""

    alone: Glue  # of one caller
    per_s: float  # of many callers in a closed loop
    cpu_ms: float | None  # the server's processor time for each of their calls: it hangs least on what else runs


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One measurement."""

    slo_ms: float  # the objective, and the deadline of every call
    capacity: float  # answers per second in a closed loop without a tight deadline
    n_callers: int  # in that loop
    steps: Sequence[Step]
    recovery_s: float | None  # from the end of the overload; see ``recovery_of``; None: not within the step
    search: Glue
    echo: Echo
    extras: dict[str, object] = field(default_factory=dict)  # what else was asked for

    @property
    def peak(self) -> Step:
        """The load of the best goodput."""
        return max(self.steps, key=lambda step: step.goodput)

    def markdown(self) -> str:
        """Write it as a page."""
        head = ("load", "offered/s", "p50", "p95", "p99", "complete/s", "degraded/s", "refused", "refusal p99", "late")
        lines = [
            f"Objective and deadline: {self.slo_ms:g} ms. Capacity: {self.capacity:.1f} answers/s "
            f"({self.n_callers} callers in a closed loop).",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---:|" * len(head),
        ]
        for step in self.steps:
            row = (
                f"{step.share:.0%}",
                f"{step.offered:.1f}",
                _ms(step.p50_ms),
                _ms(step.p95_ms),
                _ms(step.p99_ms),
                f"{step.complete:.1f}",
                f"{step.degraded:.1f}",
                f"{step.n_refused:,}",
                _ms(step.refusal_p99_ms),
                f"{step.n_late:,}",
            )
            lines.append("| " + " | ".join(row) + " |")
        last = self.steps[-1]
        recovery = "not within the step after" if self.recovery_s is None else f"{self.recovery_s:.1f} s"
        lines += [
            "",
            "Milliseconds, from when a call was to be sent; percentiles are of admitted calls, late ones included. "
            "Answers per second are those within the objective.",
            "",
            f"- At {last.share:.0%}, goodput is {last.goodput / (self.peak.goodput or 1):.0%} of its peak; recovery "
            f"afterwards: {recovery}.",
            f"- One search at a time: p50 {self.search.p50_ms:.2f} ms, of which gRPC and glue "
            f"{self.search.glue_p50_ms:.2f} ms.",
            f"- Calls at echo depth: {self.echo.per_s:,.0f}/s, for each of which the server has "
            f"{_ms(self.echo.cpu_ms, 2)} ms of the processor; one at a time p50 {self.echo.alone.p50_ms:.2f} ms, of "
            f"which gRPC and glue {self.echo.alone.glue_p50_ms:.2f} ms.",
            *(f"- {name}: {value}" for name, value in self.extras.items()),
        ]
        return "\n".join(lines)


def step_of(load: Load, *, share: float, rate: float, slo_ms: float) -> Step:
    """Sum up one offered load.

    Args:
        load: What became of it.
        share: Of the capacity.
        rate: Calls per second that were to be sent.
        slo_ms: Within which an answer counts, in milliseconds.
    """
    outcomes = load.outcomes
    admitted = _times_ms(outcomes, ADMITTED)
    refused = _times_ms(outcomes, {Fate.REFUSED})

    def per_second(fate: Fate) -> float:
        return sum(each.fate is fate and each.latency_s * 1000 <= slo_ms for each in outcomes) / load.duration_s

    return Step(
        share=share,
        offered=rate,
        n_sent=len(outcomes),
        n_unsent=load.n_unsent,
        p50_ms=_percentile(admitted, 50),
        p95_ms=_percentile(admitted, 95),
        p99_ms=_percentile(admitted, 99),
        complete=per_second(Fate.COMPLETE),
        degraded=per_second(Fate.DEGRADED),
        n_refused=len(refused),
        refusal_p50_ms=_percentile(refused, 50),
        refusal_p99_ms=_percentile(refused, 99),
        n_late=sum(each.fate is Fate.LATE for each in outcomes),
        n_failed=sum(each.fate is Fate.FAILED for each in outcomes),
        generator_late_p99_ms=_percentile([each.late_s * 1000 for each in outcomes], 99) or 0.0,
    )


def glue_of(load: Load) -> Glue:
    """Split what the client saw into the work of the stages and the rest.

    Args:
        load: Of one caller in a closed loop, so that nothing waits for anything else.
    """
    answered = [each for each in load.outcomes if each.fate in ANSWERED]
    seen = np.array([each.latency_s * 1000 for each in answered])
    work = np.array([each.work_ms for each in answered])
    return Glue(
        p50_ms=float(np.median(seen)), work_p50_ms=float(np.median(work)), glue_p50_ms=float(np.median(seen - work))
    )


def recovery_of(after: Load, before: Load) -> float | None:
    """Return after how many seconds as many calls were answered as at the same load before, within chance; None: never.

    That is the moment of the first unanswered call behind which no larger share goes unanswered than before, by more
    than 1.96 standard errors. Also without an overload some are refused who come just behind several others.

    Args:
        after: What became of the load that followed the overload.
        before: And of the same load before it.
    """
    usual = (_n_unanswered(before.outcomes) + 1) / (len(before.outcomes) + 2)  # Laplace's rule: never quite 0
    moments = [0.0, *(each.due_s for each in after.outcomes if each.fate not in ANSWERED)]
    for moment in moments:
        rest = [each for each in after.outcomes if each.due_s > moment or moment == 0]
        if not rest or moment > MOST_OF_A_STEP * after.duration_s:
            return None
        if _n_unanswered(rest) / len(rest) <= usual + 1.96 * (usual * (1 - usual) / len(rest)) ** 0.5:
            return moment
    return None


def _n_unanswered(outcomes: Sequence[Outcome]) -> int:
    return sum(each.fate not in ANSWERED for each in outcomes)


def plot_load(report: LoadReport, title: str, path: Path) -> None:
    """Draw it: on the left times, on the right answers, both over the offered load.

    Args:
        report: What was found.
        title: Stands above both panels.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=13)
    shares = [100 * step.share for step in report.steps]
    for name, colour, style in (("p50", BLUE, "-"), ("p95", GREEN, "--"), ("p99", ORANGE, ":")):
        times = [getattr(step, f"{name}_ms") or np.nan for step in report.steps]
        left.plot(shares, times, style, marker="o", markersize=4, color=colour, label=name)
    left.axhline(report.slo_ms, color="0.5", linewidth=1)
    left.annotate("objective", (shares[0], report.slo_ms), fontsize=9, color="0.35", va="bottom")
    left.set_ylabel("ms from when the call was due")
    left.set_yscale("log")
    left.legend(frameon=False, fontsize=9)
    right.stackplot(
        shares,
        [step.complete for step in report.steps],
        [step.degraded for step in report.steps],
        labels=("complete", "degraded"),
        colors=(BLUE, "#9ecae1"),
    )
    right.plot(shares, [step.offered for step in report.steps], color="0.5", linewidth=1, label="offered")
    right.set_ylim(0, 1.6 * max(report.peak.goodput, report.capacity))
    right.set_ylabel("answers within the objective, per second")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:g}" for share in shares], fontsize=9)
        axes.minorticks_off()
        axes.set_xlabel("offered load, % of capacity")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _times_ms(outcomes: Sequence[Outcome], fates: frozenset[Fate] | set[Fate]) -> list[float]:
    return [each.latency_s * 1000 for each in outcomes if each.fate in fates]


def _percentile(values: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None


def _ms(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
