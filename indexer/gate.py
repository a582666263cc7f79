"""The release gate: what a bundle has to show on validation searches before it is served.

The candidate and the bundle in service answer the same seeded sample of validation searches; both are opened as a
server opens them, and compared search by search (MRR@10, paired bootstrap, 95 % intervals). Relevant is what training
calls an answer: an item whose label weighs more than 0. The searches are those that no blend was fitted on. A candidate
is refused if

- its two stages do not beat its first stage alone: the mean gain is below 0, or the upper end of its interval is not
  above 0 (a second stage that changes nothing costs time for nothing);
- reading histories loses, on the searches that have one: the interval is below 0;
- shoppers without a history lose against the bundle in service, on all searches: the interval is below 0;
- all searches together, or a slice of them (``indexer.slices``), lose more than ``gate.max_slice_loss`` against the
  bundle in service, as served to shoppers with their histories, and the interval is below 0.

The last two need a bundle in service. Its rows are its own catalogue's: they are compared by item id, and an item that
the catalogue has lost since keeps its place and answers nothing.

What cannot be measured is skipped, and a note says so: with hardly any validation searches, which tell more of chance
than of the bundle, or on a host without prepared data or the packages for measuring, where a bundle arrives that was
judged elsewhere. Prepared data that are not those of the candidate are refused: they are there, so a comparison is
expected, and the rows of their labels may name other items.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from corpus.errors import ArtefactError, DeviceUnavailable, GateRefused
from corpus.prepared import Example, Prepared
from corpus.workspace import Workspace, find_version
from indexer.bundle import Bundle, open_bundle
from indexer.config import GateConfig
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publications import Check, GateOutcome
from indexer.publish import current_version
from indexer.report import Estimate
from indexer.slices import TrainingTraffic, slices
from indexer.systems import Run, SecondStage, candidate_run, retrieve
from rerank.config import RERANK_DEPTH
from retrieval.arrays import FloatArray
from retrieval.metrics import evaluate_rankings, paired_bootstrap

logger = logging.getLogger(__name__)

SEED = 0  # of the sample and the bootstrap: every candidate answers the same searches
MEASURE = "MRR@10"


def judge(workspace: Workspace, version: str | None, config: GateConfig) -> GateOutcome:
    """Ask the gate; nothing is published, and a refusal is an outcome like any other.

    Args:
        workspace: The store.
        version: The candidate; None is the newest bundle.
        config: How many searches, and what a slice may lose.
    Raises:
        VersionNotFound: If there is no such bundle.
        BundleCorrupt: If the candidate does not verify.
        GateRefused: If the prepared data are not those of the candidate.
    """
    folder = find_version(workspace.bundles, version, marker=MANIFEST_FILE)
    served = current_version(workspace.bundles)

    def skipped(note: str) -> GateOutcome:
        return GateOutcome(version=folder.name, served=None, verdict="skipped", notes=(note,))

    if served == folder.name:
        return skipped("it is in service already")
    if not (workspace.data / "manifest.json").exists():
        return skipped(f"no prepared data in {workspace.data} to measure on")
    if find_spec("ir_measures") is None:
        return skipped("measuring needs the `train` extra: pip install 'tandem-search[train]'")
    prepared = Prepared(workspace.data)
    _check_data(prepared, folder.name, read_manifest(folder).data_fingerprint)
    examples = [e for e in prepared.examples("valid", limit=config.queries, seed=SEED, part="judging") if _answers(e)]
    if not examples:
        return skipped("no validation search has an answer")
    if len(examples) < config.least_queries:
        return skipped(
            f"{len(examples)} validation searches have an answer; gate.least_queries is {config.least_queries}"
        )
    logger.info("release gate: %s answers %d validation searches", folder.name, len(examples))
    candidate = _measure(open_bundle(folder), examples, prepared)
    notes: list[str] = []
    before = _measure_served(workspace, served, examples, prepared, notes)
    checks = list(checks_alone(candidate, examples, notes))
    if before is not None:
        traffic = TrainingTraffic(prepared.examples("train", with_history=False))
        checks += checks_against(candidate, before, examples, traffic, config)
    return GateOutcome(
        version=folder.name,
        served=None if before is None else served,
        verdict="passed" if all(check.passed for check in checks) else "refused",
        checks=tuple(checks),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """MRR@10 of one bundle, search by search; each (n_queries,)."""

    one_stage: FloatArray
    anonymous: FloatArray  # two stages, histories withheld
    with_history: FloatArray  # as served
    has_reranker: bool


def _measure(bundle: Bundle, examples: Sequence[Example], prepared: Prepared) -> Measured:
    bundle = bundle.before("valid", prepared)
    qrels = {e.query_id: {label.row: label.grade for label in e.labels if label.weight > 0} for e in examples}

    def mrr(run: Run) -> FloatArray:
        return evaluate_rankings(_in_rows_of(prepared, bundle, run), qrels)[MEASURE]

    candidates = retrieve(examples, bundle)
    one_stage = mrr(candidate_run(examples, candidates))
    if bundle.reranker is None:
        return Measured(one_stage=one_stage, anonymous=one_stage, with_history=one_stage, has_reranker=False)
    second = SecondStage(bundle.reranker, candidates, depth=RERANK_DEPTH)
    return Measured(
        one_stage=one_stage,
        anonymous=mrr(second.run(examples, with_history=False, description="reranking without history")),
        with_history=mrr(second.run(examples, with_history=True, description="reranking with history")),
        has_reranker=True,
    )


def _measure_served(
    workspace: Workspace, served: str | None, examples: Sequence[Example], prepared: Prepared, notes: list[str]
) -> Measured | None:
    if served is None:
        notes.append("nothing is in service to compare with")
        return None
    try:
        bundle = open_bundle(find_version(workspace.bundles, served, marker=MANIFEST_FILE))
    except (ArtefactError, DeviceUnavailable) as exc:
        # a broken bundle in service is a reason to publish, not to refuse
        notes.append(f"{served}, which is in service, cannot be opened to compare with: {exc}")
        return None
    logger.info("release gate: %s, which is in service, answers them", served)
    return _measure(bundle, examples, prepared)


def _in_rows_of(prepared: Prepared, bundle: Bundle, run: Run) -> Mapping[str, Sequence[int]]:
    """Name a bundle's rows as the prepared catalogue does; an item that it lacks gets a number of its own below 0."""
    if bundle.items.ids == prepared.items.ids:
        return run
    known = [prepared.items.row_of(item_id) for item_id in bundle.items.ids]
    names = [-1 - row if other is None else other for row, other in enumerate(known)]
    return {query_id: [names[row] for row in ranking] for query_id, ranking in run.items()}


def checks_alone(candidate: Measured, examples: Sequence[Example], notes: list[str]) -> Iterator[Check]:
    """Ask what a bundle has to show by itself.

    Args:
        candidate: How it answered.
        examples: The searches.
        notes: Takes up what could not be asked.
    """
    if not candidate.has_reranker:
        notes.append("the bundle holds no reranker: the first stage is all that is served")
        return
    gain = _difference(candidate.with_history, candidate.one_stage)
    yield Check(
        question="two stages against one",
        difference=gain,
        n_queries=len(examples),
        passed=gain.value >= 0 and gain.high > 0,
    )
    known = np.array([bool(example.history) for example in examples])
    if not known.any():
        notes.append("no validation search has a history: what reading it does was not measured")
        return
    gain = _difference(candidate.with_history[known], candidate.anonymous[known])
    yield Check(
        question="reading the history against not",
        difference=gain,
        n_queries=int(known.sum()),
        passed=gain.high >= 0,
    )


def checks_against(
    candidate: Measured,
    before: Measured,
    examples: Sequence[Example],
    traffic: TrainingTraffic,
    config: GateConfig,
) -> Iterator[Check]:
    """Ask what shoppers would lose by replacing one bundle by another.

    Args:
        candidate: How the new one answered.
        before: How the one in service answered the same searches.
        examples: The searches.
        traffic: The training split, for the slices.
        config: What a slice may lose.
    """
    change = _difference(candidate.anonymous, before.anonymous)
    yield Check(
        question="no history, against the bundle in service",
        difference=change,
        n_queries=len(examples),
        passed=change.high >= 0,
    )
    everything = ("all", "", np.ones(len(examples), dtype=np.bool_))
    for name, _, mask in [everything, *slices(examples, traffic, lambda label: label.weight > 0)]:
        if mask.any():
            change = _difference(candidate.with_history[mask], before.with_history[mask])
            yield Check(
                question=f"slice {name!r}, against the bundle in service",
                difference=change,
                n_queries=int(mask.sum()),
                passed=change.value >= -config.max_slice_loss or change.high >= 0,
            )


def _difference(after: FloatArray, before: FloatArray) -> Estimate:
    low, high = paired_bootstrap(after, before, seed=SEED)
    return Estimate(value=float(np.mean(after - before, dtype=np.float64)), low=low, high=high)


def _answers(example: Example) -> bool:
    return any(label.weight > 0 for label in example.labels)


def _check_data(prepared: Prepared, version: str, fingerprint: str) -> None:
    if prepared.fingerprint != fingerprint:
        raise GateRefused(
            f"expected the prepared data {fingerprint[:12]} that bundle {version} was built from in {prepared.folder}, "
            f"to measure it on, got {prepared.fingerprint[:12]}; run `tandem build` and publish what it builds, "
            'or publish this one unmeasured with --force --reason "…"'
        )
