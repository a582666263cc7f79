"""What a build found out about its vector index: each setting of the search with its recall and time."""

import importlib.util
from pathlib import Path
from typing import Any

from corpus.errors import ConfigError
from indexer.manifest import BundleManifest
from retrieval.vectors.tuning_point import SETTINGS, TuningPoint

COLOUR, KEPT_COLOUR = "#0072B2", "#D55E00"  # Okabe & Ito's, told apart by the colour-blind
SIZE_INCHES, DPI = (7.0, 4.5), 100


def curve_table(manifest: BundleManifest) -> str:
    """Return the measured settings as lines of text, the one that was kept marked."""
    kept = _kept(manifest)
    width = max(len("setting"), *(len(point.text()) for point in manifest.tuning))
    lines = [f"{'setting':<{width}}  ann_recall@100  ms/query"]
    for point in manifest.tuning:
        mark = "  kept" if point == kept else ""
        lines.append(f"{point.text():<{width}}  {point.recall:>14.4f}  {point.ms_per_query:>8.3f}{mark}")
    return "\n".join([f"vector index: {_index(manifest)['kind']}", *lines])


def check_plot(path: Path) -> None:
    """Refuse a figure that could not be drawn, before the build that it is to show.

    Args:
        path: The PNG to write.
    Raises:
        ConfigError: If matplotlib is not installed, or the file's folder does not exist.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "expected matplotlib for --plot, found none; install the `bench` extra, or build without --plot"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"expected a folder for the figure {path}, found none; make it, or name another file")


def plot_curve(manifest: BundleManifest, path: Path) -> None:
    """Draw recall over the time of a search; ``check_plot`` tells whether that is possible.

    Args:
        manifest: Of the bundle.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    kept = _kept(manifest)
    for point in manifest.tuning:
        colour = KEPT_COLOUR if point == kept else COLOUR
        axes.plot(point.ms_per_query, point.recall, "o", color=colour)
        axes.annotate(
            point.text(), (point.ms_per_query, point.recall), textcoords="offset points", xytext=(5, -9), fontsize=7
        )
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per query")
    axes.set_ylabel("ann_recall@100")
    axes.set_title(f"Bundle {manifest.version}: {_index(manifest)['kind']}, {manifest.n_items:,} items", fontsize=11)
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, format="png")


def _index(manifest: BundleManifest) -> dict[str, Any]:
    retriever: Any = manifest.config["retriever"]
    return dict(retriever["index"])


def _kept(manifest: BundleManifest) -> TuningPoint | None:
    index = _index(manifest)
    return next((p for p in manifest.tuning if all(getattr(p, name) == index[name] for name in SETTINGS)), None)
