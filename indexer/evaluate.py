"""How good is a bundle? Measured on held-out queries beside the floors, from the same run."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, ValidationError

from corpus.config import Section
from corpus.errors import ConfigError, InputError, ModelIndexMismatch
from corpus.items import ItemTable
from corpus.prepared import Example, Label, Part, Prepared, Split
from corpus.workspace import Workspace, find_version
from indexer.bundle import Bundle, open_bundle
from indexer.floors import Floors, Ranking
from indexer.judged import is_judged, judged_runs
from indexer.manifest import MANIFEST_FILE
from indexer.publish import current_version
from indexer.report import HEADLINE, JUDGED, SLICE_MEASURES, Estimate, EvaluationReport, Row, Slice
from indexer.slices import Mask, TrainingTraffic, slices
from indexer.systems import FLOORS, Contest, Peer, Untuned, runs
from rerank.config import RERANK_DEPTH
from retrieval.arrays import FloatArray
from retrieval.config import RetrieverConfig
from retrieval.metrics import MEASURES, evaluate_rankings, paired_bootstrap

if TYPE_CHECKING:
    from corpus.synthetic import Oracle

logger = logging.getLogger(__name__)

Scores = dict[str, FloatArray]  # (n_queries,) by measure


class EvaluationConfig(Section):
    """What is evaluated, and how.

    Attributes:
        split: Choose settings on ``valid``; report on ``test``.
        limit: Evaluate a seeded sample of so many queries; None takes all.
        relevant_grade: The least grade that counts as relevant for the binary measures; None: any above 0. Queries
            without such an item are left out.
        rerank_depth: Candidates that the second stage orders.
        seed: Of the sample, the random floor and the bootstrap.
    """

    split: Split = "test"
    limit: Annotated[int, Field(ge=1)] | None = None
    relevant_grade: float | None = None
    rerank_depth: Annotated[int, Field(ge=1)] = RERANK_DEPTH
    seed: Annotated[int, Field(ge=0)] = 0

    def is_relevant(self, label: Label) -> bool:
        """Tell whether a labelled item counts as relevant for the binary measures."""
        return label.grade > 0 if self.relevant_grade is None else label.grade >= self.relevant_grade


def evaluate_bundle(
    workspace: Workspace,
    retriever_config: RetrieverConfig,
    *,
    version: str | None = None,
    peer: Peer | None = None,
    **settings: object,
) -> EvaluationReport:
    """Evaluate a bundle of a workspace.

    Args:
        workspace: The store.
        retriever_config: Names the base model of the row "untuned encoder".
        version: The bundle; None is the current one, or the newest if none was published.
        peer: Another stack, for its rows in the same report; see ``evaluate``.
        settings: The fields of ``EvaluationConfig``.
    Raises:
        ConfigError: If a setting is unknown or impossible.
        VersionNotFound: If there is no such bundle.
        InputError: If the split holds no query with an answer.
    """
    try:
        config = EvaluationConfig.model_validate(settings)
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in exc.errors())
        raise ConfigError(f"the evaluation's settings do not fit: {faults}") from exc
    chosen = version or current_version(workspace.bundles)
    bundle = open_bundle(find_version(workspace.bundles, chosen, marker=MANIFEST_FILE))
    untuned = Untuned(config=retriever_config, cache=workspace.embeddings)
    return evaluate(Prepared(workspace.data), bundle, config, untuned=untuned, oracle=_oracle(workspace), peer=peer)


def evaluate(
    prepared: Prepared,
    bundle: Bundle,
    config: EvaluationConfig,
    *,
    untuned: Untuned | None = None,
    oracle: "Oracle | None" = None,
    peer: Peer | None = None,
) -> EvaluationReport:
    """Evaluate an opened bundle.

    Args:
        prepared: The data that the bundle was built from.
        bundle: What is judged.
        config: What to evaluate.
        untuned: The base model, for its row; None leaves the row out.
        oracle: The best possible rankings, where a synthetic store knows them. Queries without one are then left
            out of every row, so that all rows speak of the same queries.
        peer: Another stack that ranks the same queries; its rows stand between the floors and Tandem's.
    Returns:
        Each system on all queries and on each slice of them.
    Raises:
        ModelIndexMismatch: If the data is not what the bundle was built from: its rows would name other items.
        InputError: If the split holds no query with an answer.
    """
    prepared = _in_rows_of(bundle, prepared)
    notes: list[str] = []
    drawn = _draw(prepared, bundle, config, notes)

    def is_answered(example: Example) -> bool:
        return any(map(config.is_relevant, example.labels))

    examples = [example for example in drawn if is_answered(example)]
    if oracle is not None:
        oracle = oracle.for_examples(examples)
        known = [example for example in examples if example.query_id in oracle]
        if not known:
            notes.append(f"no row for the oracle: it knows no query of the {config.split} split")
            oracle = None
        elif len(known) < len(examples):
            notes.append(f"{len(examples) - len(known):,} queries that the oracle does not know were left out")
            examples = known
    if not examples:
        raise InputError(
            f"expected queries with a relevant item in the {config.split} split, found none among {len(drawn)}; "
            "choose another split or a lower relevant grade"
        )
    # the bundle's own tables may hold the very choices that are to be foretold
    bundle = bundle.before(config.split, prepared)
    floors = Floors(prepared.pairs_before(config.split), len(bundle.items))
    traffic = TrainingTraffic(prepared.examples("train", with_history=False))
    judge = _Judge(examples, config, bundle.items, oracle)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    best = None if oracle is None else oracle.rankings(bundle.items)
    contest = Contest(bundle=bundle, floors=floors, untuned=untuned, oracle=best, peer=peer)
    for name, run in runs(contest, examples, rerank_depth=config.rerank_depth, seed=config.seed, notes=notes):
        judge.add(name, run)
        seconds[name] = round(time.monotonic() - started, 3)
        started = time.monotonic()
    if all(map(is_judged, examples)):
        for name, run in judged_runs(contest, examples, seed=config.seed):
            judge.add_judged(name, run)
        seconds[JUDGED] = round(time.monotonic() - started, 3)
    elif any(map(is_judged, examples)):
        notes.append(f"no {JUDGED}: only some of these queries were judged, the others were observed")
    everything = np.ones(len(examples), dtype=np.bool_)
    return EvaluationReport(
        bundle=bundle.manifest.version,
        data_fingerprint=prepared.fingerprint,
        n_items=len(bundle.items),
        split=config.split,
        n_queries=len(examples),
        n_distinct_queries=len({example.query for example in examples}),
        n_without_answer=len(drawn) - sum(map(is_answered, drawn)),
        relevant_grade=config.relevant_grade,
        rerank_depth=config.rerank_depth,
        seed=config.seed,
        best_floor=judge.best_floors(everything, (*MEASURES, JUDGED)),
        rows=judge.rows(everything, (*MEASURES, JUDGED)),
        slices=tuple(
            Slice(
                name=name,
                by=by,
                n_queries=int(mask.sum()),
                best_floor=judge.best_floors(mask, SLICE_MEASURES),
                rows=judge.rows(mask, SLICE_MEASURES),
            )
            for name, by, mask in slices(examples, traffic, config.is_relevant)
            if mask.any()
        ),
        notes=tuple(notes),
        seconds=seconds,
    )


def _draw(prepared: Prepared, bundle: Bundle, config: EvaluationConfig, notes: list[str]) -> list[Example]:
    """Draw the queries; of the valid split none that the bundle's blend was fitted on."""
    part: Part = "all"
    if config.split == "valid" and bundle.manifest.blend is not None:
        part = "judging"
        notes.append("only the fifth of the valid split that the blend was not fitted on")
    return prepared.examples(config.split, limit=config.limit, seed=config.seed, part=part)


class _Judge:
    """Judges rankings on one set of queries, and cuts the outcome into slices."""

    def __init__(
        self, examples: Sequence[Example], config: EvaluationConfig, items: ItemTable, oracle: "Oracle | None"
    ) -> None:
        self._qrels = {e.query_id: {label.row: label.grade for label in e.labels} for e in examples}
        self._config = config
        self._items = items
        self._oracle = oracle
        self._scores: dict[str, Scores] = {}
        self._shares: dict[str, FloatArray] = {}

    def add(self, name: str, run: Mapping[str, Ranking]) -> None:
        """Judge one system."""
        self._scores[name] = evaluate_rankings(run, self._qrels, relevant_from=self._config.relevant_grade)
        if self._oracle is not None:
            self._shares[name] = self._oracle.share_of_possible(run, self._items).astype(np.float32)
        logger.info("%s: %s %.3f", name, HEADLINE, self._scores[name][HEADLINE].mean())

    def add_judged(self, name: str, run: Mapping[str, Ranking]) -> None:
        """Judge how a system that was judged before orders the labelled items alone."""
        self._scores[name][JUDGED] = evaluate_rankings(run, self._qrels)["nDCG@10"]

    def best_floors(self, mask: Mask, measures: Sequence[str]) -> dict[str, str]:
        """Name the best floor on some of the queries by each measure that any floor has."""
        floors = [(name, self._scores[name]) for name in FLOORS if name in self._scores]
        best: dict[str, str] = {}
        for measure in measures:
            means = {name: float(scores[measure][mask].mean()) for name, scores in floors if measure in scores}
            if means:
                best[measure] = max(means, key=lambda name: means[name])
        return best

    def rows(self, mask: Mask, measures: Sequence[str]) -> tuple[Row, ...]:
        """Sum the judged systems up over some of the queries."""
        rows: list[Row] = []
        best = {
            measure: self._scores[name][measure][mask] for measure, name in self.best_floors(mask, measures).items()
        }
        above: Scores | None = None
        for name, scores in self._scores.items():
            part = {measure: scores[measure][mask] for measure in measures if measure in scores}
            share = self._shares.get(name)
            rows.append(
                Row(
                    name=name,
                    metrics={measure: self._estimate(values) for measure, values in part.items()},
                    gain=None if above is None else self._gains(part, above),
                    floor_gain=None if name in FLOORS else self._gains(part, best),
                    share_of_possible=None if share is None else self._estimate(share[mask]),
                )
            )
            above = part
        return tuple(rows)

    def _gains(self, scores: Scores, below: Scores) -> dict[str, Estimate]:
        return {m: self._estimate(values, below[m]) for m, values in scores.items() if m in below}

    def _estimate(self, values: FloatArray, below: FloatArray | None = None) -> Estimate:
        base = np.zeros_like(values) if below is None else below
        low, high = paired_bootstrap(values, base, seed=self._config.seed)
        return Estimate(value=float(np.mean(values - base, dtype=np.float64)), low=low, high=high)


def _oracle(workspace: Workspace) -> "Oracle | None":
    path = workspace.source / "oracle.parquet"
    if not path.exists():
        return None
    from corpus.synthetic import Oracle

    return Oracle.read(path)


def _in_rows_of(bundle: Bundle, prepared: Prepared) -> Prepared:
    """Return the data with the bundle's rows; raise if it is not what the bundle was built from."""
    if prepared.items.ids == bundle.items.ids:
        return prepared
    if bundle.manifest.live_sequence and prepared.fingerprint == bundle.manifest.data_fingerprint:
        return prepared.under(bundle.items)  # the build put live updates into the catalogue
    raise ModelIndexMismatch(
        f"expected bundle {bundle.manifest.version} to hold the catalogue of {prepared.folder}, "
        "got another one; build a bundle from this data"
    )
