"""Random items and filters on them, and the same conditions decided item by item in plain Python."""

import math
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from corpus.items import Item
from retrieval.filtering.filters import And, Comparison, Filter, Not, Or

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
# few values, so that conditions often meet; both cases, an accent, a prefix of another, quotes, a number
TEXTS = st.sampled_from(["Nike", "NIKE", "Nikon", "löwe", "Lowe", "9", "10.5", 'a "b" \\', "AND", "Straße", "STRASSE"])
LEVELS = st.sampled_from(["Shoes", "shoes", "Sale", "Running"])
PRICES = st.sampled_from([0.0, 9.99, 50.0, 1e6])
TIMES = st.sampled_from([EPOCH, EPOCH + timedelta(microseconds=1), EPOCH + timedelta(days=1)])
NAMES = st.sampled_from(["color", "Color", "screen size", "a.b", "OR", "größe"])
PATHS = st.lists(LEVELS, min_size=1, max_size=3)


def optional(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


ITEMS = st.builds(
    Item,
    item_id=st.just("i"),
    title=st.just("t"),
    brand=optional(TEXTS),
    currency=optional(st.sampled_from(["EUR", "eur", "USD"])),
    category=st.lists(LEVELS, max_size=3).map(tuple),
    price=optional(PRICES),
    in_stock=optional(st.booleans()),
    updated_at=optional(TIMES),
    attributes=st.dictionaries(NAMES, st.lists(TEXTS, min_size=1, max_size=3).map(tuple), max_size=3),
)

EQUALITY = st.sampled_from(["=", "!=", ":"])
ANY_OPERATOR = st.sampled_from(["=", "!=", ":", "<", "<=", ">", ">="])
WILD = TEXTS | TEXTS.map(lambda text: text[:2] + "*")
FIELDS = st.sampled_from(["brand", "currency", "category", "price", "in_stock", "updated_at", "attributes.color"])


def comparisons() -> st.SearchStrategy[Comparison]:
    attribute = NAMES.map("attributes.{}".format)
    return st.one_of(
        st.builds(Comparison, st.just("brand"), EQUALITY, WILD),
        st.builds(Comparison, st.just("currency"), EQUALITY, st.just("EUR")),
        st.builds(Comparison, st.just("category"), EQUALITY, PATHS.map(" > ".join) | PATHS.map(">".join)),
        st.builds(Comparison, st.just("category"), EQUALITY, st.just("Shoes > r*")),
        st.builds(Comparison, st.just("price"), ANY_OPERATOR, PRICES),
        st.builds(Comparison, st.just("in_stock"), EQUALITY, st.booleans()),
        st.builds(Comparison, st.just("updated_at"), ANY_OPERATOR, TIMES),
        st.builds(Comparison, attribute, EQUALITY, WILD),
        st.builds(Comparison, attribute, st.sampled_from(["<", "<=", ">", ">="]), st.sampled_from([9.0, 10.0])),
        st.builds(Comparison, FIELDS | attribute, st.just(":"), st.just("*")),
    )


def filters() -> st.SearchStrategy[Filter]:
    def grown(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        some = st.lists(inner, min_size=2, max_size=3)
        return st.builds(Not, inner) | some.map(lambda each: And(*each)) | some.map(lambda each: Or(*each))

    return st.recursive(comparisons(), grown, max_leaves=6)


def holds(found: Filter, item: Item) -> bool:
    """Decide a filter for one item."""
    if isinstance(found, And):
        return all(holds(operand, item) for operand in found.operands)
    if isinstance(found, Or):
        return any(holds(operand, item) for operand in found.operands)
    if isinstance(found, Not):
        return not holds(found.operand, item)
    return _compares(found, item)


def values_of(item: Item, field: str) -> list:
    """Return what an item has in a field; of categories every path that it is in."""
    if field.startswith("attributes."):
        name = field.removeprefix("attributes.").casefold()
        return [value for key, values in item.attributes.items() if key.casefold() == name for value in values]
    if field == "category":
        return [" > ".join(item.category[:depth]) for depth in range(1, len(item.category) + 1)]
    value = getattr(item, field)
    return [] if value is None else [value]


def _compares(found: Comparison, item: Item) -> bool:
    values = values_of(item, found.field)
    if found.field == "category" and found.operator != ":":
        values = values[-1:]
    if found.is_presence:
        return bool(values)
    if found.operator == "!=":
        return bool(values) and not any(_equal(value, found) for value in values)
    if found.operator in ("=", ":"):
        return any(_equal(value, found) for value in values)
    return any(_ordered(value, found) for value in values)


def _equal(value: object, found: Comparison) -> bool:
    if not isinstance(value, str):
        return value == found.value
    wanted, value = str(found.value).casefold(), value.casefold()
    if found.field == "category":
        wanted = " > ".join(level.strip() for level in wanted.split(">"))
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def _ordered(value: object, found: Comparison) -> bool:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = math.nan
    order = {"<": value.__lt__, "<=": value.__le__, ">": value.__gt__, ">=": value.__ge__}  # type: ignore[operator]
    return order[found.operator](found.value)
