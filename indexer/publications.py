"""Who was served when, and why: ``bundles/publications.jsonl``, one line per change of CURRENT, only ever added to."""

import errno
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from corpus.errors import ArtefactError
from corpus.folders import fsync_path
from indexer.manifest import Version
from indexer.report import Estimate

PUBLICATIONS_FILE = "publications.jsonl"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Part):
    """One question of the release gate."""

    question: str
    difference: Estimate  # of MRR@10, paired by query: below 0 is a loss
    n_queries: int
    passed: bool

    def text(self) -> str:
        """Write the check as one line."""
        low, high = (
            Estimate(value=end, low=end, high=end).mean() for end in (self.difference.low, self.difference.high)
        )
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}  {self.question}: {self.difference.mean()} [{low}, {high}] on {self.n_queries:,} searches"


class GateOutcome(_Part):
    """What the release gate found on a bundle; see ``indexer.gate``."""

    version: Version  # the candidate
    served: Version | None  # what it was compared with; None: nothing, or it could not be opened
    verdict: Literal["passed", "refused", "skipped"]  # skipped: nothing could be measured, the notes say why
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Write the outcome as plain text."""
        against = f" against {self.served}" if self.served else ""
        lines = [f"release gate: {self.version}{against} {self.verdict}", *(f"  {each.text()}" for each in self.checks)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


class Publication(_Part):
    """One change of CURRENT."""

    action: Literal["publish", "rollback"]
    version: Version  # served from now on
    parent: Version | None  # served until now
    time: AwareDatetime
    gate: GateOutcome | None  # None: nobody asked it
    reason: str | None  # why the gate was overridden


def record(bundles: Path, publication: Publication) -> None:
    """Add a line, and flush it to the disk; after an error the file is what it was.

    Raises:
        OSError: If the disk does not take it.
    """
    line = (publication.model_dump_json() + "\n").encode()
    with (bundles / PUBLICATIONS_FILE).open("a+b", buffering=0) as file:
        end = _end(file)
        file.truncate(end)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # the first error is the one to tell of
                file.truncate(end)
            raise
    fsync_path(bundles)


def last_recorded(bundles: Path) -> str | None:
    """Return the version that the last line says is served; None if there is no whole line.

    Raises:
        ArtefactError: If the last line is not what ``record`` writes.
    """
    path = bundles / PUBLICATIONS_FILE
    try:
        with path.open("rb", buffering=0) as file:
            end = _end(file)
            file.seek(0)
            lines = file.read(end).splitlines()
        return Publication.model_validate_json(lines[-1]).version if lines else None
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise ArtefactError(
            f"expected publications, one JSON object a line, in {path}, got something else at its end; "
            "move the file away: publishing begins a new one"
        ) from exc


def _end(file: FileIO) -> int:
    """Return where the last whole line ends: a kill or a full disk may have left a part of one behind it."""
    file.seek(0)
    return file.readall().rfind(b"\n") + 1
