"""Filters as text, in the language of https://google.aip.dev/160.

Of it, the fields of items need this much::

    filter      sequences joined by AND; of a sequence `brand = Acme in_stock = true` all must hold too
    sequence    one or more of: conditions joined by OR, which binds tighter than AND
    condition   [NOT | -] comparison, or a filter in parentheses
    comparison  FIELD OPERATOR VALUE, or for = and : FIELD OPERATOR (VALUE OR VALUE ...)

A value is a word or a text in double or single quotes, in which a backslash takes the next character as it is. Left
out of the language: words without a field, which belong into the query, and functions.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken, VisitError

from corpus.errors import BadFilter
from retrieval.filtering.filters import (
    ATTRIBUTES,
    OPERATORS,
    And,
    Comparison,
    Filter,
    FilterLimits,
    Not,
    Operator,
    Or,
    check_field,
    check_operator,
)

P = ParamSpec("P")
T = TypeVar("T")

# a word ends where it must; a colon may stand inside one that is a value, as in 12:30
_GRAMMAR = r"""
    ?start: conjunction
    conjunction: sequence ("AND" sequence)*
    sequence: disjunction+
    disjunction: term ("OR" term)*
    ?term: ("NOT" | "-") simple -> negation
         | simple
    ?simple: comparison
           | "(" conjunction ")"
    comparison: field OPERATOR value
    field: NAME ("." (NAME | STRING))*
    ?value: VALUE -> word
          | STRING -> string
          | "(" choice ("OR" choice)* ")" -> choices
    ?choice: VALUE -> word
           | STRING -> string

    OPERATOR: "<=" | ">=" | "!=" | "=" | "<" | ">" | ":"
    NAME: /(?!(AND|OR|NOT)\b)[^\W\d]\w*/
    VALUE: /(?!(AND|OR|NOT)([\s()"',<>=!]|$))[^\s()"',<>=!]+/
    STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
    %ignore /\s+/
"""
_OPERATORS: dict[str, Operator] = {operator: operator for operator in OPERATORS}
_WORDING = {
    "NAME": "a field",
    "OPERATOR": "one of = != : < <= > >=",
    "VALUE": "a value",
    "STRING": "a quoted text",
    "LPAR": "(",
    "RPAR": ")",
    "MINUS": "-",
    "DOT": ".",
    "$END": "the end",
}


class _Choices(tuple[tuple[str, int], ...]):
    """Several values with their columns."""


class _Builder(Transformer[Token, Any]):
    """Makes filters bottom-up, while the parser reads: nesting costs no stack."""

    def conjunction(self, parts: list[Filter]) -> Filter:
        return _joined(And, parts)

    def sequence(self, parts: list[Filter]) -> Filter:
        return _joined(And, parts)

    def disjunction(self, parts: list[Filter]) -> Filter:
        return _joined(Or, parts)

    def negation(self, parts: list[Filter]) -> Filter:
        return Not(parts[0])

    def field(self, parts: list[Token]) -> tuple[str, int]:
        names = [_unquoted(part) if part.type == "STRING" else str(part) for part in parts]
        return ".".join(names), _column(parts[0])

    def word(self, parts: list[Token]) -> tuple[str, int]:
        return str(parts[0]), _column(parts[0])

    def string(self, parts: list[Token]) -> tuple[str, int]:
        return _unquoted(parts[0]), _column(parts[0])

    def choices(self, parts: list[tuple[str, int]]) -> _Choices:
        return _Choices(parts)

    def comparison(self, parts: list[Any]) -> Filter:
        (field, column), operator, value = parts
        if field != ATTRIBUTES:  # which alone takes a name for a value
            _placed(column, check_field, field)
            _placed(_column(operator), check_operator, field, operator)
        if not isinstance(value, _Choices):
            place = column if field == ATTRIBUTES else value[1]
            return _placed(place, Comparison, field, _OPERATORS[operator], value[0])
        if operator not in ("=", ":"):
            raise _at(_column(operator), f"expected = or : before a choice of values, got {operator}")
        return _joined(Or, [_placed(at, Comparison, field, _OPERATORS[operator], text) for text, at in value])


def parse_filter(text: str, limits: FilterLimits = FilterLimits()) -> Filter:  # noqa: B008 - immutable
    """Read a filter.

    Args:
        text: In the language at the top of this module.
        limits: How large it may be.
    Raises:
        BadFilter: If it is too large or not in the language, or names a field that items do not have; the message
            says at which column, from 1.
    """
    if len(text) > limits.characters:
        raise BadFilter(f"expected at most {limits.characters} characters, got {len(text)}; shorten it", field="filter")
    try:
        found: Filter = _parser().parse(text)  # type: ignore[assignment]  # the builder makes filters of trees
    except UnexpectedCharacters as exc:
        raise _unexpected(text, exc.pos_in_stream or 0, exc.allowed) from exc
    except UnexpectedToken as exc:
        end = exc.token.type == "$END"
        raise _unexpected(text, len(text) if end else exc.token.start_pos or 0, exc.accepts or exc.expected) from exc
    except UnexpectedEOF as exc:
        raise _unexpected(text, len(text), exc.expected) from exc
    except VisitError as exc:
        if isinstance(exc.orig_exc, BadFilter):
            raise exc.orig_exc from exc
        raise
    limits.check(found)
    return found


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=_Builder())


def _placed(column: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do something that may find a filter bad, and say at which column."""
    try:
        return work(*args, **kwargs)
    except BadFilter as exc:
        raise _at(column, str(exc)) from exc


def _joined(kind: type[And] | type[Or], parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else kind(*parts)


def _unquoted(token: Token) -> str:
    text, out, escaped = token[1:-1], [], False
    for character in text:
        escaped = character == "\\" and not escaped
        if not escaped:
            out.append(character)
    return "".join(out)


def _column(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _unexpected(text: str, position: int, expected: Any) -> BadFilter:  # noqa: ANN401 - names of terminals, in a set
    """Say what stands where something else should; a value is never repeated, as a shopper may have typed it."""
    names = sorted({_WORDING.get(name, name) for name in expected or ()} - {"the end"}) or ["the end"]
    got = "the end" if position >= len(text) else repr(text[position])
    return _at(position + 1, f"expected {', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]}, got {got}")


def _at(column: int, message: str) -> BadFilter:
    return BadFilter(f"column {column}: {message}", field="filter")
