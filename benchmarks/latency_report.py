"""The latency benchmark's results as tables and as a figure."""

from pathlib import Path
from typing import Any

from benchmarks.plots import DPI, STYLES

SIZE_INCHES = (10.0, 4.4)


def latency_markdown(document: dict[str, Any]) -> str:
    """Return the report."""
    machine, peaks, store = document["machine"], document["peaks"], document["store"]
    int8 = f"{peaks['int8'] / 1e9:,.0f} GOP/s int8" if peaks["int8"] else "int8 unknown (no ONNX Runtime)"
    lines = [
        "# Latency",
        "",
        f"`{document['command']}`, seed {document['seed']}; {machine['n_cores']} cores of {machine['processor']}, load "
        f"average {machine['load_average_before'][0]} before and {machine['load_average_after'][0]} after, "
        f"{document['wall_s']:.0f} s. Store `{store['name']}`, {store['n_items']:,} items; "
        f"{store['shape']['n_layers']} layers of {store['shape']['width']}. Medians over "
        f"{document['plan']['rounds']} rounds by turns (quartiles).",
        "",
        f"Measured peaks: {peaks['fp32'] / 1e9:,.0f} GFLOP/s fp32, {int8}, {peaks['bytes_per_s'] / 1e9:.1f} GB/s.",
        *_quality(document),
        *_models("Reranking", document["rerank"], ("candidates", "tokens")),
        *_cascade(document["cascade"]),
        *_models("Encoding one query", document["encode"], ("precision", "mean_tokens")),
    ]
    for n_items, size in document["served"].items():
        lines += _served(int(n_items), size)
    return "\n".join(lines) + "\n"


def plot_latency(document: dict[str, Any], path: Path) -> None:
    """Draw reranking by candidates, one panel per length, the floor below.

    Args:
        document: As written to ``latency.json``.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    rows = document["rerank"]
    lengths = list(dict.fromkeys(row["tokens"] for row in rows))
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, length in zip(panels, lengths, strict=True):
        some = [row for row in rows if row["tokens"] == length]
        names = list(dict.fromkeys(row["system"] for row in some))
        for name, (colour, marker) in zip(names, STYLES, strict=False):
            mine = [row for row in some if row["system"] == name]
            middle = [row["ms"]["median"] for row in mine]
            ends = [
                [max(0.0, row["ms"]["median"] - row["ms"]["low"]) for row in mine],
                [max(0.0, row["ms"]["high"] - row["ms"]["median"]) for row in mine],
            ]
            places = [row["candidates"] for row in mine]
            axes.errorbar(places, middle, yerr=ends, marker=marker, color=colour, capsize=2, label=name)
        floor = {row["candidates"]: row["floor"].get("int8_ms", row["floor"]["fp32_ms"]) for row in some}
        axes.plot(list(floor), list(floor.values()), color="0.4", linestyle="--", label="floor")
        axes.set_yscale("log")
        axes.set_xlabel("candidates")
        axes.set_title(f"{length} tokens a pair", fontsize=11)
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("milliseconds")
    panels[-1].legend(fontsize=8)
    figure.savefig(path)


def _quality(document: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Quality and determinism",
        "",
        f"{document['quality'][0]['n_queries']} judged test queries, the chain as served, "
        f"{document['plan']['judged_depth']} candidates to rerank; lost against the plain fp32 path, "
        "± 1.96 standard errors, paired by query.",
        "",
        "| system | nDCG@10 | lost | lost, share | top-10 overlap | same top 10 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["quality"]:
        share = "–" if row["lost_share"] is None else f"{row['lost_share']:+.2%}"
        lines.append(
            f"| {row['system']} | {row['ndcg']:.4f} | {row['lost']:+.4f} ±{row['lost_error']:.4f} | {share} | "
            f"{row['overlap']:.3f} | {row['same_members']:.1%} |"
        )
    lines += [
        "",
        "The same pairs in other batches (budgets of 1,024 and 16,384 tokens, and beside another query's pairs), the "
        "cross-encoder's scores alone:",
        "",
        "| precision | queries | top-10 order changed | top-10 members changed | largest difference of scores |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {each['n_queries']} | {each['order_changed']:.1%} | {each['members_changed']:.1%} | "
        f"{each['largest_difference']:.1e} |"
        for name, each in document["determinism"].items()
    ]
    return lines


def _cascade(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## The second stage over real searches",
        "",
        f"Features, trees and cross-encoder together, {rows[0]['depth']} candidates of judged test queries; the plain "
        "stack's cross-encoder alone reads the same.",
        "",
        "| system | read | ms | × plain fp32 |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        ms, times = row["ms"], row["times_faster"]
        lines.append(
            f"| {row['system']} | {row['read']:.1f} | {ms['median']:.1f} ({ms['low']:.1f}–{ms['high']:.1f}) | "
            f"{times['median']:.2f} ({times['low']:.2f}–{times['high']:.2f}) |"
        )
    return lines


def _models(title: str, rows: list[dict[str, Any]], about: tuple[str, str]) -> list[str]:
    lines = [
        "",
        f"## {title}",
        "",
        f"| {about[0]} | {about[1].replace('_', ' ')} | system | ms | × plain fp32 | × ONNX Runtime int8 | floor, ms "
        "| × floor |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        precision = row.get("precision", "int8")
        floor = row["floor"].get(f"{precision}_ms", row["floor"]["fp32_ms"])
        faster = [
            _spread(row["times_faster"][name]) if name in row["times_faster"] else ""
            for name in ("plain fp32", "ONNX Runtime int8")
        ]
        lines.append(
            f"| {row[about[0]]} | {row[about[1]]} | {row['system']} | {_spread(row['ms'])} | {faster[0]} "
            f"| {faster[1]} | {floor:.2f} | {row['ms']['median'] / floor:.1f} |"
        )
    return lines


def _served(n_items: int, size: dict[str, Any]) -> list[str]:
    starts = size["starts"]
    repeat = size["repeat"]
    lines = [
        "",
        f"## Served: {n_items:,} items",
        "",
        f"Ready after {_spread(starts['ready_s'])} s; {_spread(starts['rss_mb'])} MB resident after some searches, "
        f"{'with' if starts['torch'] else 'without'} torch (the plain stack: {size['plain_rss_mb']:,.0f} MB). "
        f"A repeated search takes {_spread(repeat['p50_ms']['again'])} ms, a new one "
        f"{_spread(repeat['p50_ms']['first'])} ms: {_spread(repeat['times_faster'])} times as long.",
        "",
        "| candidates | events | system | p50, ms | p99, ms | × p50 | × p99 |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in size["search"]:
        for name in ("plain stack", "Tandem"):
            faster = row["times_faster"]
            times = f"{_spread(faster['p50'])} | {faster['p99']:.2f}" if name == "Tandem" else "|"
            lines.append(
                f"| {row['candidates']} | {row['events']} | {name} | {_spread(row[name]['p50_ms'])} | "
                f"{row[name]['p99_ms']:.1f} | {times} |"
            )
    total = sum(size["stages"].values())
    lines += ["", "Where a search's time goes:", "", "| stage | median, ms | share |", "| --- | ---: | ---: |"]
    lines += [f"| {stage} | {value:.2f} | {value / total:.1%} |" for stage, value in size["stages"].items()]
    for what, title in (("histories", "events"), ("depths", "candidates")):
        if what not in size:
            continue
        lines += ["", f"| {title} | p50, ms | p99, ms |", "| ---: | ---: | ---: |"]
        lines += [f"| {n} | {_spread(at['p50_ms'])} | {at['p99_ms']:.1f} |" for n, at in size[what]["of"].items()]
        grown = ", ".join(f"{pair}: {_spread(times)}" for pair, times in size[what]["times_longer"].items())
        lines += ["", f"Times as long, {title}: {grown}."]
    if "load" in size:
        lines += [
            "",
            "| callers | system | answers/s | p50, ms | p99, ms | refused |",
            "| ---: | --- | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {at['callers']} | {name} | {_spread(at['qps'])} | {_spread(at['p50_ms'])} | {_spread(at['p99_ms'])} | "
            f"{at['refused']} |"
            for name, levels in size["load"]["levels"].items()
            for at in levels
        ]
        most = {name: "none" if qps is None else f"{qps:.1f}/s" for name, qps in size["load"]["throughput"].items()}
        lines += ["", "Throughput at p99 ≤ 250 ms: " + ", ".join(f"{name} {qps}" for name, qps in most.items()) + "."]
    return lines


def _spread(spread: dict[str, float]) -> str:
    digits = 2 if abs(spread["median"]) < 10 else 1
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}–{spread['high']:.{digits}f})"
