"""Importers: public data sets and logging standards, brought into Tandem's own columns."""

from corpus.importers.registry import KINDS, import_store
from corpus.importers.report import ImportReport

__all__ = ["KINDS", "ImportReport", "import_store"]
