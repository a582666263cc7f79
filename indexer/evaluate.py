"""How good is a bundle? Measured on held-out queries beside the floors, from the same run."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from corpus.config import Section
from corpus.errors import ConfigError, InputError, ModelIndexMismatch
from corpus.items import ItemTable
from corpus.prepared import Example, Prepared, Split
from corpus.workspace import Workspace, find_version
from indexer.bundle import Bundle, open_bundle
from indexer.floors import Floors, Ranking
from indexer.manifest import MANIFEST_FILE
from indexer.publish import current_version
from indexer.report import HEADLINE, Estimate, EvaluationReport, Row, Slice
from indexer.systems import Contest, Untuned, runs
from retrieval.arrays import FloatArray
from retrieval.behaviour import Behaviour
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
    rerank_depth: Annotated[int, Field(ge=1)] = 30
    seed: Annotated[int, Field(ge=0)] = 0


def evaluate_bundle(
    workspace: Workspace, retriever_config: RetrieverConfig, *, version: str | None = None, **settings: object
) -> EvaluationReport:
    """Evaluate a bundle of a workspace.

    Args:
        workspace: The store.
        retriever_config: Names the base model of the row "untuned encoder".
        version: The bundle; None is the current one, or the newest if none was published.
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
    return evaluate(Prepared(workspace.data), bundle, config, untuned=untuned, oracle=_oracle(workspace))


def evaluate(
    prepared: Prepared,
    bundle: Bundle,
    config: EvaluationConfig,
    *,
    untuned: Untuned | None = None,
    oracle: "Oracle | None" = None,
) -> EvaluationReport:
    """Evaluate an opened bundle.

    Args:
        prepared: The data that the bundle was built from.
        bundle: What is judged.
        config: What to evaluate.
        untuned: The base model, for its row; None leaves the row out.
        oracle: The best possible rankings, where a synthetic store knows them. Queries without one are then left
            out of every row, so that all rows speak of the same queries.
    Returns:
        Each system on all queries and on each slice of them.
    Raises:
        ModelIndexMismatch: If the data is not what the bundle was built from: its rows would name other items.
        InputError: If the split holds no query with an answer.
    """
    _check_same_catalogue(prepared, bundle)
    drawn = prepared.examples(config.split, limit=config.limit, seed=config.seed)
    examples = [example for example in drawn if _has_answer(example, config.relevant_grade)]
    notes: list[str] = []
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
    before = prepared.pairs_before(config.split)
    stage = bundle.stage.behaviour
    bundle = bundle.with_behaviour(Behaviour.build(before, bundle.retriever.encoder, stage, n_items=len(bundle.items)))
    floors = Floors(before, len(bundle.items))
    judge = _Judge(examples, config, bundle.items, oracle)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    best = None if oracle is None else oracle.rankings(bundle.items)
    contest = Contest(bundle=bundle, floors=floors, untuned=untuned, oracle=best)
    for name, run in runs(contest, examples, rerank_depth=config.rerank_depth, seed=config.seed, notes=notes):
        judge.add(name, run)
        seconds[name] = round(time.monotonic() - started, 3)
        started = time.monotonic()
    return EvaluationReport(
        bundle=bundle.manifest.version,
        split=config.split,
        n_queries=len(examples),
        n_distinct_queries=len({example.query for example in examples}),
        n_without_answer=sum(not _has_answer(example, config.relevant_grade) for example in drawn),
        relevant_grade=config.relevant_grade,
        rerank_depth=config.rerank_depth,
        seed=config.seed,
        rows=judge.rows(np.ones(len(examples), dtype=np.bool_)),
        slices=tuple(
            Slice(name=name, n_queries=int(mask.sum()), rows=judge.rows(mask))
            for name, mask in _slices(examples, floors)
            if mask.any()
        ),
        notes=tuple(notes),
        seconds=seconds,
    )


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

    def rows(self, mask: npt.NDArray[np.bool_]) -> tuple[Row, ...]:
        """Sum the judged systems up over some of the queries."""
        rows: list[Row] = []
        above: Scores | None = None
        for name, scores in self._scores.items():
            part = {measure: scores[measure][mask] for measure in MEASURES}
            share = self._shares.get(name)
            rows.append(
                Row(
                    name=name,
                    metrics={m: self._estimate(part[m]) for m in MEASURES},
                    gain=None if above is None else {m: self._estimate(part[m], above[m]) for m in MEASURES},
                    share_of_possible=None if share is None else self._estimate(share[mask]),
                )
            )
            above = part
        return tuple(rows)

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


def _has_answer(example: Example, relevant_grade: float | None) -> bool:
    if relevant_grade is None:
        return any(label.grade > 0 for label in example.labels)
    return any(label.grade >= relevant_grade for label in example.labels)


def _slices(examples: Sequence[Example], floors: Floors) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    seen = np.array([floors.seen(example.query) for example in examples])
    n_events = np.array([len(example.history) for example in examples])
    return [
        ("seen", seen),
        ("unseen", ~seen),
        ("no history", n_events == 0),
        ("1-3 events", (n_events >= 1) & (n_events <= 3)),
        ("4+ events", n_events >= 4),
    ]


def _check_same_catalogue(prepared: Prepared, bundle: Bundle) -> None:
    if prepared.items.ids != bundle.items.ids:
        raise ModelIndexMismatch(
            f"expected bundle {bundle.manifest.version} to hold the catalogue of {prepared.folder}, "
            "got another one; build a bundle from this data"
        )
