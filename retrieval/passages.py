"""The text of an item as the item tower and the reranker read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from corpus.errors import ConfigError
from corpus.items import Item, ItemTable
from retrieval.config import TEXT_FIELDS
from retrieval.texts import Texts

PASSAGE_VERSION = 1  # part of a model's fingerprint: raise it with every change to the text below


def passage(item: Item, fields: Sequence[str]) -> str:
    """Return the passage of one item.

    Args:
        item: The item.
        fields: Which of ``retrieval.config.TEXT_FIELDS``, in this order.
    Raises:
        ConfigError: If a field is unknown.
    """
    _check(fields)
    return _join([_text(name, getattr(item, name)) for name in fields])


def passages(items: ItemTable, fields: Sequence[str]) -> list[str]:
    """Return the passages of a catalogue, in row order.

    Args:
        items: The catalogue.
        fields: Which of ``retrieval.config.TEXT_FIELDS``, in this order.
    Raises:
        ConfigError: If a field is unknown.
    """
    _check(fields)
    columns = [[_text(name, value) for value in items.column(name)] for name in fields]
    return [_join(parts) for parts in zip(*columns, strict=True)]


def passage_texts(items: ItemTable, fields: Sequence[str]) -> Texts:
    """Return the passages of a catalogue, each made when it is read: a large catalogue's are never held together.

    Args:
        items: The catalogue.
        fields: Which of ``retrieval.config.TEXT_FIELDS``, in this order.
    Raises:
        ConfigError: If a field is unknown.
    """
    _check(fields)
    return Texts(lambda rows: passages(items.take(rows), fields), len(items))


def _check(fields: Sequence[str]) -> None:
    unknown = [name for name in fields if name not in TEXT_FIELDS]
    if unknown or not fields:
        raise ConfigError(f"expected item_fields out of {', '.join(TEXT_FIELDS)}, got {', '.join(fields) or 'none'}")


def _text(name: str, value: Any) -> str:  # noqa: ANN401 - a cell of any column
    if not value:
        return ""
    if name == "category":
        return " > ".join(value)
    if name == "attributes":
        return "; ".join(f"{key}: {', '.join(values)}" for key, values in _attributes(value) if values)
    return str(value)


def _attributes(value: Any) -> list[tuple[str, Sequence[str]]]:  # noqa: ANN401 - a mapping or a column's cell
    if isinstance(value, Mapping):
        return list(value.items())
    return [(pair["name"], pair["values"] or ()) for pair in value]


def _join(parts: Sequence[str]) -> str:
    """Join the parts; one that the text before it already holds, such as a brand in the title, is left out.

    Every token costs time at training and at build, and a repeated brand tells the model nothing.
    """
    text = ""
    for part in parts:
        if not part or f" {part.lower()} " in f" {text.lower()} ":
            continue
        text = f"{text} | {part}" if text else part
    return text
