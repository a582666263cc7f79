from PIL import Image

from benchmarks.plots import plot_quality, shown_on_slices
from indexer.report import Estimate, EvaluationReport, Row, Slice

NAMES = (
    "random",
    "popularity",
    "popularity in query",
    "BM25",
    "untuned encoder",
    "do-it-yourself dense",
    "do-it-yourself two stages",
    "tuned dense",
    "hybrid",
    "two stages",
    "two stages + history",
)
KINDS = ("head", "torso", "tail", "unseen", "new items", "no history", "1-3 events", "4+ events")


def rows(names, offset=0.0):
    made = []
    for number, name in enumerate(names):
        estimate = Estimate(value=0.05 * number + offset, low=0.05 * number + offset - 0.02, high=0.05 * number + 0.03)
        metrics = {"MRR@10": estimate, "nDCG@10": estimate.model_copy(update={"value": estimate.value + 0.01})}
        made.append(Row(name=name, metrics=metrics, gain=None, floor_gain=None, share_of_possible=None))
    return tuple(made)


def report(names=NAMES, best="popularity in query", kinds=KINDS) -> EvaluationReport:
    return EvaluationReport(
        bundle="v1",
        data_fingerprint="d",
        n_items=10,
        split="test",
        n_queries=5432,
        n_distinct_queries=10,
        n_without_answer=0,
        relevant_grade=None,
        rerank_depth=30,
        seed=0,
        best_floor={"MRR@10": best},
        rows=rows(names),
        slices=tuple(Slice(name=k, by="kind", n_queries=9, best_floor={}, rows=rows(names, 0.02)) for k in kinds),
        notes=(),
        seconds={},
    )


def test_the_figure_is_a_thousand_pixels_wide(tmp_path):
    plot_quality(report(), "Quality on tests", tmp_path / "quality.png")
    with Image.open(tmp_path / "quality.png") as drawn:
        assert drawn.format == "PNG"
        assert drawn.width == 1000
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)} <= colours  # every series is there


def test_slices_compare_the_best_floor_the_peer_and_both_stages():
    assert shown_on_slices(report()) == [
        "popularity in query",
        "do-it-yourself two stages",
        "tuned dense",
        "two stages + history",
    ]
    without_peer = [name for name in NAMES if "yourself" not in name]
    assert shown_on_slices(report([*without_peer, "oracle"], "BM25")) == ["BM25", "tuned dense", "two stages + history"]
    assert shown_on_slices(report(["random", "BM25", "tuned dense"], "BM25")) == ["BM25", "tuned dense"]
