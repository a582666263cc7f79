"""The rejects file: every input row that was refused, with its file, line and reason."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from corpus.errors import InputError

DUPLICATE = "duplicate"


class RejectLog:
    """Writes ``rejects.jsonl`` and keeps count.

    Queries and user ids are never written: the line number leads to them. Duplicates and rows that another split
    owns are listed too, but are no fault of the data and do not count towards the limit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("w", encoding="utf-8")
        self._faults: dict[str, Counter[str]] = {}
        self._examples: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()  # by "table: reason", faults or not

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, table: str, file: str, rows: Iterable[tuple[int, str]], *, is_fault: bool = True) -> None:
        """List refused rows of one file.

        Args:
            table: items, events or judgments.
            file: The file as shown to the user.
            rows: Line number and reason of each.
            is_fault: Whether they count towards ``max_reject_share``.
        """
        faults = self._faults.setdefault(table, Counter())
        for line, reason in rows:
            entry = {"table": table, "file": file, "line": line, "reason": reason}
            self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self.counts[f"{table}: {reason}"] += 1
            if is_fault:
                faults[reason] += 1
                self._examples.setdefault((table, reason), f"{file}:{line}")

    def n_faults(self, table: str) -> int:
        """Return how many rows of a table were refused, duplicates apart."""
        return self._faults.get(table, Counter()).total()

    def check(self, table: str, n_rows: int, max_share: float) -> None:
        """Stop the run if too many rows of a table were refused.

        Raises:
            InputError: If more than ``max_share`` of ``n_rows`` were; it names the commonest reasons.
        """
        n_faults = self.n_faults(table)
        if n_faults <= max_share * n_rows:
            return
        reasons = "; ".join(
            f"{count:,} x {reason} (first at {self._examples[table, reason]})"
            for reason, count in self._faults[table].most_common(3)
        )
        raise InputError(
            f"expected at most {max_share:.1%} unusable rows in {table}, got {n_faults:,} of {n_rows:,}: {reasons}; "
            "mend the rows, or raise data.max_reject_share",
            field=table,
        )
