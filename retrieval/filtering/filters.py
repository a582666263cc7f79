"""Conditions on items, as values that Python callers build; ``filter_language`` beside this reads the same from text.

    And(Comparison("brand", "=", "Acme"), Comparison("price", "<", 50))      brand = "Acme" AND price < 50

Fields and what they may be compared with::

    brand, currency     = != :                a text; one that ends with * stands for all that begin so
    category            = != :                a path, "Shoes > Running": = is that very category, : also those below it
    price               = != : < <= > >=      a number
    updated_at          = != : < <= > >=      a time; without a zone it is UTC
    in_stock            = != :                true or false
    attributes.NAME     = != : < <= > >=      a text, for the last four a number; true if any of the values fits

``FIELD:*`` is true for items that have the field. Any other comparison, also ``!=``, is false for items that lack it,
so that ``NOT price < 50`` has the items without a price and ``price >= 50`` has not. Texts are compared by
``corpus.columns.fold``. Nothing here imports a parser, so that clients can build filters cheaply.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias, cast

from corpus.columns import PATH_SEPARATOR, TEXTS, fold
from corpus.errors import BadFilter

Operator = Literal["=", "!=", ":", "<", "<=", ">", ">="]
Value: TypeAlias = str | float | bool | datetime

ATTRIBUTES = "attributes"
FIELDS = (*TEXTS, "category", "price", "in_stock", "updated_at")
ANY = "*"  # the value of FIELD:*
WORDS = ("AND", "OR", "NOT")

_EQUALITY: tuple[Operator, ...] = ("=", "!=", ":")
_ORDER: tuple[Operator, ...] = ("<", "<=", ">", ">=")
OPERATORS = (*_EQUALITY, *_ORDER)
_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition on one field.

    Args:
        field: As at the top of this module; the name of an attribute follows ``attributes.`` as it is.
        operator: One that the field takes.
        value: Of the field's type, or the text of one.
    Raises:
        BadFilter: If field, operator and value do not fit.
    """

    field: str
    operator: Operator
    value: Value

    def __post_init__(self) -> None:
        field, value = self.field, self.value
        if field == ATTRIBUTES and self.operator == ":" and isinstance(value, str) and value not in ("", ANY):
            field, value = f"{ATTRIBUTES}.{value}", ANY  # a map has its keys
        check_field(field)
        check_operator(field, self.operator)
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "value", _checked(field, self.operator, value))

    @property
    def is_presence(self) -> bool:
        """Whether any value will do."""
        return self.operator == ":" and self.value == ANY


@dataclass(frozen=True, slots=True, init=False)
class And:
    """All of some conditions, one or more."""

    operands: tuple["Filter", ...]

    def __init__(self, *operands: "Filter") -> None:
        object.__setattr__(self, "operands", _some(operands))


@dataclass(frozen=True, slots=True, init=False)
class Or:
    """Any of some conditions, one or more."""

    operands: tuple["Filter", ...]

    def __init__(self, *operands: "Filter") -> None:
        object.__setattr__(self, "operands", _some(operands))


@dataclass(frozen=True, slots=True)
class Not:
    """All items for which a condition is not true."""

    operand: "Filter"


Filter: TypeAlias = Comparison | And | Or | Not


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterLimits:
    """How large a filter may be."""

    characters: int = 4096  # of its text
    terms: int = 200  # comparisons
    depth: int = 20  # levels of AND, OR and NOT inside each other

    def check(self, found: Filter) -> None:
        """Refuse a filter that is too large.

        Raises:
            BadFilter: If it is.
        """
        n_terms, deepest = 0, 0
        rest: list[tuple[Filter, int]] = [(found, 0)]
        while rest:  # no recursion: what is too deep would overflow the stack
            node, depth = rest.pop()
            n_terms += isinstance(node, Comparison)
            deepest = max(deepest, depth)
            rest.extend((child, depth + 1) for child in _children(node))
        if n_terms > self.terms:
            raise BadFilter(
                f"expected at most {self.terms} comparisons, got {n_terms}; shorten the filter", field="filter"
            )
        if deepest > self.depth:
            raise BadFilter(
                f"expected at most {self.depth} levels of AND, OR and NOT, got {deepest}; flatten it", field="filter"
            )


def check_field(field: str) -> None:
    """Refuse a field that items do not have.

    Raises:
        BadFilter: If it is unknown; the message names those that are known.
    """
    name = attribute_name(field)
    if field not in FIELDS and not (name and name.strip()):
        raise BadFilter(
            f"expected one of the fields {', '.join(FIELDS)} or an attribute, written {ATTRIBUTES}.NAME or "
            f'{ATTRIBUTES}."A NAME", got {field[:40]!r}'
        )


def check_operator(field: str, operator: str) -> None:
    """Refuse an operator that a known field does not take.

    Raises:
        BadFilter: If it is one.
    """
    has_order = field in ("price", "updated_at") or attribute_name(field) is not None
    taken = OPERATORS if has_order else _EQUALITY
    if operator not in taken:
        raise BadFilter(f"expected {field} with one of {' '.join(taken)}, got {operator}")


def attribute_name(field: str) -> str | None:
    """Return the name of the attribute that a field is; None for a field of another kind."""
    head, dot, name = field.partition(".")
    return name if head == ATTRIBUTES and dot else None


def without(found: Filter, fields: Collection[str]) -> Filter | None:
    """Return a filter with its conditions on some fields left out.

    What is left is true for an item if the filter would be for some values of those fields: of ``AND`` the other
    operands are left; an ``OR`` with a condition left out holds for all.

    Args:
        found: The filter.
        fields: As ``Comparison.field`` has them; letter case does not count.
    Returns:
        None if nothing is left.
    """
    return _loosened(found, {fold(field) for field in fields}, is_negated=False)


def _loosened(node: Filter, fields: Collection[str], *, is_negated: bool) -> Filter | None:
    """Drop what depends on the fields; None stands for always true, for always false where ``is_negated``."""
    if isinstance(node, Comparison):
        return None if fold(node.field) in fields else node
    if isinstance(node, Not):
        inner = _loosened(node.operand, fields, is_negated=not is_negated)
        return None if inner is None else Not(inner)
    loosened = [_loosened(operand, fields, is_negated=is_negated) for operand in node.operands]
    left = [operand for operand in loosened if operand is not None]
    # the one that decides alone: a true operand of OR, a false one of AND
    is_decided = len(left) < len(loosened) and isinstance(node, And if is_negated else Or)
    if is_decided or not left:
        return None
    return left[0] if len(left) == 1 else type(node)(*left)


def render(found: Filter) -> str:
    """Write a filter as text; reading it back gives the same filter."""
    if isinstance(found, Comparison):
        return f"{_render_field(found.field)} {found.operator} {_render_value(found.value)}"
    if isinstance(found, Not):
        return f"NOT {_render_operand(found.operand)}"
    joint = " AND " if isinstance(found, And) else " OR "
    return joint.join(_render_operand(operand) for operand in found.operands)


def _render_operand(found: Filter) -> str:
    return render(found) if isinstance(found, Comparison) else f"({render(found)})"


def _render_field(field: str) -> str:
    name = attribute_name(field)
    if name is None:
        return field
    return f"{ATTRIBUTES}.{name if _NAME.fullmatch(name) and name not in WORDS else _quoted(name)}"


def _render_value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if value == ANY:
        return ANY
    return _quoted(value.isoformat() if isinstance(value, datetime) else value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _children(node: Filter) -> tuple[Filter, ...]:
    if isinstance(node, Comparison):
        return ()
    return (node.operand,) if isinstance(node, Not) else node.operands


def shown(number: float) -> str:
    """Return a number as catalogues write it: 4 instead of 4.0, and all of its digits."""
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(number)


def _some(operands: tuple[Filter, ...]) -> tuple[Filter, ...]:
    if not operands:
        raise BadFilter("expected one condition or more, got none")
    return operands


def _checked(field: str, operator: str, value: Value) -> Value:
    """Return a value in the type of its field."""
    if operator == ":" and value == ANY:
        return ANY
    if field == "price" or (operator in _ORDER and field != "updated_at"):
        return _number(field, operator, value)
    if field == "updated_at":
        return _time(value)
    if field == "in_stock":
        return _truth(value)
    if isinstance(value, datetime | bool) or not isinstance(value, str | int | float):
        raise BadFilter(f"expected {field} with a text, got a {type(value).__name__}")
    return _text(field, value if isinstance(value, str) else shown(value))


def _number(field: str, operator: str, value: Value) -> float:
    try:
        if isinstance(value, bool | datetime):
            raise ValueError("not a number")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
    except (ValueError, TypeError, OverflowError) as exc:
        raise BadFilter(f"expected {field} {operator} a number, such as 49.90, got something else") from exc
    return number


def _time(value: Value) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(cast(str, value))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as exc:
        raise BadFilter(
            'expected updated_at with a time, such as "2026-03-01" or "2026-03-01T12:00:00Z", got something else'
        ) from exc


def _truth(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in ("true", "false"):
        raise BadFilter("expected in_stock with true or false, got something else")
    return value.lower() == "true"


def _text(field: str, value: str) -> str:
    if not (value.replace(PATH_SEPARATOR, "") if field == "category" else value).strip():
        raise BadFilter(f"expected {field} with a text, got a blank one; {field}:* finds the items that have it")
    return value
