"""Filters, decided for all items of a catalogue at once."""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np

from corpus.columns import PATH_SEPARATOR, BoolArray, ItemColumns, NumberArray, TextColumn, fold, fold_path
from corpus.errors import BadFilter
from retrieval.filtering.filters import ANY, And, Comparison, Filter, Not, attribute_name
from retrieval.filtering.row_set import RowSet

_COMPARE: dict[str, Callable[[NumberArray, float], BoolArray]] = {
    "=": np.equal,
    ":": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")


def matching_rows(found: Filter, columns: ItemColumns) -> RowSet:
    """Return the items for which a filter is true.

    Args:
        found: Of bounded depth: see ``FilterLimits``.
        columns: Of the catalogue.
    """
    return RowSet(_mask(found, columns))


def text_column(columns: ItemColumns, field: str) -> TextColumn:
    """Return the column of a field that holds texts; of categories that with every path that an item is in.

    Raises:
        BadFilter: If the field holds something else.
    """
    name = attribute_name(field)
    if name is not None:
        return columns.attribute(name)
    if field == "category":
        return columns.category
    if field in columns.texts:
        return columns.texts[field]
    raise BadFilter(f"expected a field with texts, got {field}")


def number_column(columns: ItemColumns, field: str) -> NumberArray | None:
    """Return the column of a field that holds one number, time or truth per item; None if it holds texts."""
    return {"price": columns.price, "updated_at": columns.updated_at, "in_stock": columns.in_stock}.get(field)


def _mask(node: Filter, columns: ItemColumns) -> BoolArray:
    """Return which items a filter is true for, in an array that is the caller's own."""
    if isinstance(node, Comparison):
        numbers = number_column(columns, node.field)
        return _of_texts(node, columns) if numbers is None else _of_numbers(node, numbers)
    if isinstance(node, Not):
        inner = _mask(node.operand, columns)
        return np.logical_not(inner, out=inner)
    join = np.logical_and if isinstance(node, And) else np.logical_or
    mask = _mask(node.operands[0], columns)
    for operand in node.operands[1:]:
        join(mask, _mask(operand, columns), out=mask)
    return mask


def _of_numbers(node: Comparison, numbers: NumberArray) -> BoolArray:
    if node.is_presence:
        return ~np.isnan(numbers)
    mask = _COMPARE[node.operator](numbers, _as_number(node.value))
    return mask & ~np.isnan(numbers) if node.operator == "!=" else mask


def _as_number(value: object) -> float:
    if isinstance(value, datetime):
        return (value - _EPOCH) / timedelta(microseconds=1)
    return float(value)  # type: ignore[arg-type]  # a comparison of such a field holds nothing else


def _of_texts(node: Comparison, columns: ItemColumns) -> BoolArray:
    is_path = node.field == "category"
    column = columns.category_leaf if is_path and node.operator != ":" else text_column(columns, node.field)
    if node.is_presence:
        return column.known.copy()
    if node.operator in ("<", "<=", ">", ">="):
        return column.items_of(_COMPARE[node.operator](column.numbers, _as_number(node.value)))
    text = str(node.value)
    is_prefix = text.endswith(ANY)
    key = (fold_path if is_path else fold)(text.removesuffix(ANY))
    if is_prefix:
        key += _whole_word_end(text.removesuffix(ANY), is_path=is_path)
    mask = column.items_in(*column.code_range(key, is_prefix=is_prefix))
    return column.known & ~mask if node.operator == "!=" else mask


def _whole_word_end(beginning: str, *, is_path: bool) -> str:
    """Return what folding cuts off the end of a beginning: ``a *`` stands for what goes on behind the word."""
    if is_path and beginning.rstrip().endswith(PATH_SEPARATOR):
        return f" {PATH_SEPARATOR} "
    return " " if beginning[-1:].isspace() else ""
