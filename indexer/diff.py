"""What changes for shoppers when one bundle takes another's place: items, settings and models, answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue

from corpus.items import ItemTable
from corpus.prepared import Example, Prepared
from corpus.workspace import Workspace, find_version
from indexer.bundle import Bundle, open_bundle
from indexer.manifest import MANIFEST_FILE, BundleManifest
from indexer.systems import SecondStage, candidate_run, retrieve
from rerank.config import RERANK_DEPTH

SEED = 0  # of the sample of searches
TOP = 10
SHOWN = 5  # items of a kind that the text names; the document names all
ASIDE = frozenset({"version", "parent", "created_at", "files"})  # of a manifest: different in any two bundles


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ItemChanges(_Part):
    """What happened to the catalogue."""

    added: tuple[str, ...]  # item ids, in the order of the catalogue
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]  # item id → fields whose value differs
    n_unchanged: int


class SettingChange(_Part):
    """One value of the manifest."""

    name: str  # dotted: config.retriever.index.kind
    before: JsonValue  # None: not there
    after: JsonValue


class AnswerChanges(_Part):
    """How the same searches are answered, without histories."""

    source: str  # of the searches: validation, or titles
    n_queries: int
    overlap: float | None  # mean share of the ten best that both have; None: nothing was asked
    same_order: float | None  # share of searches whose ten best are the same, in the same order


class BundleDiff(_Part):
    """All differences between two bundles."""

    before: str
    after: str
    items: ItemChanges
    settings: tuple[SettingChange, ...]
    answers: AnswerChanges

    def text(self) -> str:
        """Write the differences as plain text."""
        items = self.items
        fields: dict[str, int] = {}
        for names in items.changed.values():
            for name in names:
                fields[name] = fields.get(name, 0) + 1
        counts = ", ".join(f"{name} {n:,}" for name, n in sorted(fields.items(), key=lambda pair: (-pair[1], pair[0])))
        lines = [
            f"{self.before} → {self.after}",
            f"items: {len(items.added):,} added, {len(items.removed):,} removed, {len(items.changed):,} changed"
            f"{f' ({counts})' * bool(counts)}, {items.n_unchanged:,} as they were",
            *(f"  {sign} {some}" for sign, some in zip("+-~", map(_some, self._ids()), strict=True) if some),
            f"settings and models: {len(self.settings)} differ",
            *(f"  {each.name}: {_short(each.before)} → {_short(each.after)}" for each in self.settings),
        ]
        answers = self.answers
        if answers.overlap is not None and answers.same_order is not None:
            lines.append(
                f"answers: on {answers.n_queries:,} {answers.source}, {answers.overlap:.1%} of the {TOP} best are in "
                f"both, {answers.same_order:.1%} of the searches are answered alike"
            )
        else:
            lines.append("answers: nothing to ask")
        return "\n".join(lines)

    def _ids(self) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        return self.items.added, self.items.removed, tuple(self.items.changed)


def diff_bundles(workspace: Workspace, before: str, after: str, *, n_queries: int) -> BundleDiff:
    """Compare two bundles of a store; both are verified and opened as a server opens them.

    Args:
        workspace: The store.
        before: A version, such as ``v3``.
        after: Another.
        n_queries: Searches that both answer: validation searches if there are prepared data, or else titles.
    Raises:
        VersionNotFound: If there is no such finished bundle.
        BundleCorrupt: If one does not verify.
    """
    folders = [find_version(workspace.bundles, version, marker=MANIFEST_FILE) for version in (before, after)]
    old, new = (open_bundle(folder) for folder in folders)
    source, queries = sample_queries(workspace.data, (old.items, new.items), n_queries)
    return BundleDiff(
        before=before,
        after=after,
        items=diff_items(old.items, new.items),
        settings=diff_settings(old.manifest, new.manifest),
        answers=diff_answers(_answers(old, queries), _answers(new, queries), source),
    )


def diff_items(before: ItemTable, after: ItemTable) -> ItemChanges:
    """Compare two catalogues by item id; the order of the items does not count."""
    changed = before.changed_fields(after)
    added = tuple(item_id for item_id in after.ids if before.row_of(item_id) is None)
    return ItemChanges(
        added=added,
        removed=tuple(item_id for item_id in before.ids if after.row_of(item_id) is None),
        changed=changed,
        n_unchanged=len(after) - len(added) - len(changed),
    )


def diff_settings(before: BundleManifest, after: BundleManifest) -> tuple[SettingChange, ...]:
    """Compare what two manifests say about settings, models, data and packages, in the order of the names."""
    old, new = (_flat(manifest.model_dump(mode="json", exclude=set(ASIDE))) for manifest in (before, after))
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return tuple(SettingChange(name=name, before=old.get(name), after=new.get(name)) for name in names)


def diff_answers(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], source: str) -> AnswerChanges:
    """Compare the answers to the same searches.

    Args:
        before: Item ids of each search's ten best, best first.
        after: The same searches' from the other bundle.
        source: What the searches are.
    """
    overlaps = [
        1.0 if not one and not other else len(set(one) & set(other)) / max(len(one), len(other))
        for one, other in zip(before, after, strict=True)
    ]
    return AnswerChanges(
        source=source,
        n_queries=len(overlaps),
        overlap=float(np.mean(overlaps)) if overlaps else None,
        same_order=float(np.mean([list(a) == list(b) for a, b in zip(before, after, strict=True)]))
        if overlaps
        else None,
    )


def sample_queries(data: Path, catalogues: Sequence[ItemTable], n_queries: int) -> tuple[str, list[str]]:
    """Return searches to compare bundles with, and what they are.

    Args:
        data: The folder of the prepared data, which need not be there.
        catalogues: Of the bundles; titles come from the last one.
        n_queries: At most so many.
    """
    if (data / "manifest.json").exists():
        drawn = Prepared(data).examples("valid", limit=n_queries, seed=SEED, with_history=False)
        if drawn:
            return "validation searches", [example.query for example in drawn]
    items = catalogues[-1]
    rows = np.random.default_rng(SEED).permutation(len(items))[:n_queries]
    return "titles", items.titles(np.sort(rows).tolist())


def _answers(bundle: Bundle, queries: Sequence[str]) -> list[list[str]]:
    examples = [
        Example(query_id=str(number), query=query, user_id=None, timestamp=None, labels=(), history=())
        for number, query in enumerate(queries)
    ]
    candidates = retrieve(examples, bundle)
    if bundle.reranker is None:
        run = candidate_run(examples, candidates)
    else:
        second = SecondStage(bundle.reranker, candidates, depth=RERANK_DEPTH)
        run = second.run(examples, with_history=False, description=f"asking {bundle.manifest.version}")
    return [[bundle.items.ids[row] for row in run[example.query_id][:TOP]] for example in examples]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = inner
    return flat


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _short(value: JsonValue) -> str:
    text = "none" if value is None else value if isinstance(value, str) else str(value)
    return text if len(text) <= 20 else f"{text[:17]}…"
