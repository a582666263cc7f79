"""The index benchmark's results as tables and as a figure."""

from pathlib import Path
from typing import Any

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#999999")
MARKERS = "osD^v<>Px"
SIZE_INCHES, DPI = (10.0, 4.6), 100

HEADER = (
    "| kind | build, s | bytes per item | setting | recall | p50, ms | p99, ms | QPS, one thread | QPS, all "
    "| times flat |\n|---|---:|---:|---|---:|---:|---:|---:|---:|---:|"
)


def index_markdown(document: dict[str, Any]) -> str:
    """Return the report: per size one table for each recall, then filters, exponents and the circumstances."""
    machine = document["machine"]
    lines = [
        "# Vector indexes by size",
        "",
        f"{document['n_real']:,} real titles and {document['n_queries']:,} typed queries, {document['dim']} numbers, "
        f"seed {document['seed']}; {machine['n_cores']} cores of {machine['processor']}, load "
        f"{machine['load_average_before'][0]:g}. Every search asks for 100 items.",
        "",
        f"`{document['command']}`",
    ]
    for n, size in document["sizes"].items():
        lines += ["", f"## {int(n):,} items", ""]
        flat = size["flat"]
        rate = int(n) * 4 * document["dim"] / flat["floor_ms"] / 1e6  # GB/s
        lines.append(
            f"Flat takes {flat['times_floor']:.2f} times as long as reading its embeddings at the {rate:.1f} GB/s that "
            "one thread read in the same call."
        )
        for target in flat["at"]:
            lines += [
                "",
                f"ann_recall@100 of {target} on the tuning queries; `recall` is that of the others:",
                "",
                HEADER,
            ]
            lines += [_row(kind, measured, flat, target) for kind, measured in size.items()]
        lines += [
            "",
            "Among a share of the items:",
            "",
            "| kind | share | recall | p50, ms | p99, ms |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {kind} | {share} | {at['recall']:.4f} | {at['p50']:.2f} | {at['p99']:.2f} |"
            for kind, measured in size.items()
            for share, at in measured.get("filtered", {}).items()
        ]
    lines += [
        "",
        "## How latency grows",
        "",
        "b of p50 ~ n^b at the lower recall, from the smallest to the largest "
        "size that a kind was measured at; `auto` is what a build chooses at each size:",
        "",
    ]
    lines += [f"- {kind}: {b:.2f}" for kind, b in document["exponents"].items()] or ["- one size only"]
    lines += ["", "## Made-up items", "", "Cosine of an item with its nearest neighbour, by percentiles:", ""]
    lines += [
        f"- {name}: " + ", ".join(f"{share} {value:.3f}" for share, value in deciles.items())
        for name, deciles in document["similarity"].items()
    ]
    return "\n".join(lines) + "\n"


def plot_index(document: dict[str, Any], path: Path) -> None:
    """Draw queries per second of one thread over the size, one panel per recall.

    Args:
        document: As written to ``index.json``.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    sizes = document["sizes"]
    targets = list(next(iter(sizes.values()))["flat"]["at"])
    kinds = list(dict.fromkeys(kind for size in sizes.values() for kind in size))
    for axes, target in zip(figure.subplots(1, len(targets), sharey=True), targets, strict=True):
        for kind, colour, marker in zip(kinds, COLOURS, MARKERS, strict=False):
            points = [
                (int(n), at["qps"]) for n, size in sizes.items() if (at := size.get(kind, {}).get("at", {}).get(target))
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=kind)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("items")
        axes.set_title(f"ann_recall@100 ≥ {target}", fontsize=11)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("queries per second, one thread")
    figure.axes[-1].legend(fontsize=8)
    figure.savefig(path)


def _row(kind: str, measured: dict[str, Any], flat: dict[str, Any], target: str) -> str:
    if "skipped" in measured:
        return f"| {kind} | | | {measured['skipped']} | | | | | | |"
    cells = f"| {kind} | {measured['build_s']:,.1f} | {measured['bytes_per_item']:,.1f} "
    at = measured["at"].get(target)
    if at is None:
        return f"{cells}| not reached | | | | | | |"
    return (
        f"{cells}| {at['setting']} | {at['recall']:.4f} | {at['p50']:.2f} | {at['p99']:.2f} | {at['qps']:,.0f} | "
        f"{at['qps_all']:,.0f} | {at['qps'] / flat['at'][target]['qps']:.1f} |"
    )
