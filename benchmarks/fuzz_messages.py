"""Requests that nobody should send: of the right structure, with values at, below and above every limit.

Most of a request's values are such as a storefront sends, so that what is behind the validation is reached; some are
hostile. A few messages are damaged after they were written.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from server.pb.tandem.search.v1 import search_pb2

HOSTILE_SHARES = (0.005, 0.03, 0.2)  # of a request's values; drawn for each request
PRESENT_SHARES = (0.1, 0.3, 0.8)  # of a message's fields; likewise
DAMAGED_SHARE = 0.05  # of all messages
HUGE_SHARE = 0.005  # of the hostile texts
MAX_NESTING = 4
MAX_VALUES = 1500  # in a request
MAX_CHARACTERS = 2_200_000  # in its texts: twice what the server takes
LENGTHS = (63, 64, 127, 128, 129, 511, 512, 513, 4095, 4096, 4097)  # of texts, around their limits
HUGE_LENGTHS = (65_536, 65_537, 1_000_000)
COUNTS = (0, 1, 2, 19, 20, 21, 50, 51, 100, 101, 200, 201, 500, 501, 1000, 1001)  # of repeated fields, likewise
INTEGERS = (-(2**31), -1, 0, 1, 2, 9, 10, 11, 50, 51, 99, 100, 101, 200, 201, 300, 301, 999, 1000, 1001, 2**31 - 1)
DOUBLES = (float("nan"), float("inf"), float("-inf"), -1.0, -0.0, 0.0, 5e-324, 0.5, 1.0, 1.0000001, 1e308)
SECONDS = (-(2**63), -62_135_596_801, -1, 0, 253_402_300_800, 2**63 - 1)  # the years 1 to 9999 and beyond
NANOS = (-1, 0, 1, 999_999_999, 1_000_000_000, 2**31 - 1)
TEXTS = (
    "",
    " ",
    "\t\r\n",
    "a\r\nSet-Cookie: b",
    "\x00",
    "red\x00shoe",
    "../../../../etc/passwd",
    "..\\..\\windows",
    "/",
    "file:///etc/passwd",
    "\u202egnirts",
    "\u2066\u2069",
    "\ufeff",
    "\u200b\u200d",
    "\ud7ff\ue000\uffff",
    "\U0010ffff",
    "e\u0301" * 40,
    "\u0301" * 300,
    "İıſß",
    "😀👩‍👩‍👧‍👦",
    "%s%n{0}{}${jndi:ldap://a}",
    "'; DROP TABLE events; --",
    '"\\"',
    "(" * 400,
    "NOT " * 300 + "a = 1",
    "brand:(" + " OR ".join("x" for _ in range(300)) + ")",
    "price < 1e999",
    "price < nan",
    "a" * 100 + "*" * 100,
)
USUAL: dict[str, tuple[Any, ...]] = {
    "query": ("red shoe", "acme", "steel pan", "shoo", "blu ray 3", "i-17"),
    "item_id": ("i-01", "i-17", "f-1", "f-2"),
    "item_ids": ("i-01", "i-17", "f-1", "f-2", "f-3"),
    "excluded_item_ids": ("i-02", "f-1"),
    "similar_to_item_id": ("i-03", "f-1"),
    "filter": ("price < 50", "brand = acme AND NOT in_stock = false", "attributes.colour:(red OR blue)"),
    "condition": ("price < 50", "brand = acme", 'category:"shoes"'),
    "order_by": ("relevance", "price", "price desc", "newest"),
    "field": ("brand", "category", "attributes.colour", "in_stock", "currency"),
    "excluded_filter_keys": ("brand", "price"),
    "page_category": ("shoes", "kitchen"),
    "category": ("shoes", "boot"),
    "paths": ("title", "price", "item_id", "*"),
    "page_size": (1, 5, 10, 20),
    "offset": (0, 1, 5),
    "rank": (1, 2, 3),
    "retrieval_depth": (1, 10, 50),
    "rerank_depth": (0, 1, 5),
    "limit": (1, 5),
    "boost": (-1.0, 0.5, 1.0),
    "strength": (0.0, 0.5, 1.0),
    "min_purchase_probability": (0.0, 0.1),
    "version": ("v999", "v0"),  # a real one would be activated, again and again
    "title": ("red acme shoe", "a new thing"),
    "price": (0.0, 9.99),
    "currency": ("EUR",),
    "texts": ("red shoe", "steel pan"),
    "page_token": ("",),
    "key": ("colour", "a"),
    "value": ("red", "b"),
    "values": ("red", "blue"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC."""

    path: str  # "/tandem.search.v1.SearchService/Search"
    request: type[Message]
    is_admin: bool  # reached at the admin address

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.rpartition("/")[2]


def methods() -> tuple[Method, ...]:
    """Return every RPC of the contract."""
    found = []
    for service in search_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            found.append(
                Method(
                    path=f"/{service.full_name}/{method.name}",
                    request=GetMessageClass(method.input_type),
                    is_admin=service.name == "IndexAdminService",
                )
            )
    return tuple(found)


class Fuzzer:
    """Makes requests. The same random numbers make the same requests."""

    def __init__(self, generator: random.Random) -> None:
        """Draw from a generator."""
        self._random = generator
        self._hostile = 0.0
        self._present = 0.0
        self._values_left = 0
        self._characters_left = 0
        self._makers: dict[int, Callable[[str], Any]] = {
            FieldDescriptor.CPPTYPE_STRING: self._text,
            FieldDescriptor.CPPTYPE_INT32: lambda _: self._random.choice(INTEGERS),
            FieldDescriptor.CPPTYPE_INT64: lambda _: self._random.choice(SECONDS),
            FieldDescriptor.CPPTYPE_DOUBLE: lambda _: self._random.choice(DOUBLES),
            FieldDescriptor.CPPTYPE_FLOAT: lambda _: self._random.choice(DOUBLES),
            FieldDescriptor.CPPTYPE_BOOL: lambda _: self._random.random() < 0.5,
            FieldDescriptor.CPPTYPE_ENUM: lambda _: self._random.choice((0, 1, 2, 3, 4, 5, 99, -1)),
        }

    def request(self, kind: type[Message]) -> bytes:
        """Make a request of some kind, as it goes over the wire."""
        self._hostile = self._random.choice(HOSTILE_SHARES)
        self._present = self._random.choice(PRESENT_SHARES)
        self._values_left, self._characters_left = MAX_VALUES, MAX_CHARACTERS
        message = kind()
        self._fill(message, 0)
        data = message.SerializeToString()
        return self._damaged(data) if self._random.random() < DAMAGED_SHARE else data

    def _fill(self, message: Any, nesting: int) -> None:  # noqa: ANN401 - any message
        if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
            message.seconds = self._random.choice(SECONDS) if self._is_hostile() else int(time.time()) - 60
            message.nanos = self._random.choice(NANOS) if self._is_hostile() else 0
            return
        for field in message.DESCRIPTOR.fields:
            self._values_left = max(0, self._values_left - 1)
            needed = field.name in ("query", "type", "events", "requests", "items", "item_ids", "item_id", "title")
            if self._random.random() < (0.9 if needed else self._present):
                self._set(message, field, nesting)

    def _set(self, message: Any, field: FieldDescriptor, nesting: int) -> None:  # noqa: ANN401 - any message
        is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if is_message and nesting >= MAX_NESTING:
            return
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(self._count()):
                self._set_entry(getattr(message, field.name), field.message_type, nesting)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(self._count()):
                if is_message:
                    self._fill(values.add(), nesting + 1)
                else:
                    values.append(self._value(field))
        elif is_message:
            getattr(message, field.name).SetInParent()
            self._fill(getattr(message, field.name), nesting + 1)
        else:
            setattr(message, field.name, self._value(field))

    def _set_entry(self, entries: Any, kind: Any, nesting: int) -> None:  # noqa: ANN401 - a map, a descriptor
        key, value = (kind.fields_by_name[name] for name in ("key", "value"))
        name = self._value(key)
        if value.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            self._fill(entries[name], nesting + 1)
        else:
            entries[name] = self._value(value)

    def _value(self, field: FieldDescriptor) -> Any:  # noqa: ANN401 - of any scalar type
        if self._is_hostile():
            return self._makers[field.cpp_type](field.name)
        if field.name in USUAL:
            return self._random.choice(USUAL[field.name])
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return f"{field.name.replace('_', '-')}-{self._random.randint(1, 3)}"
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return self._random.choice((1, 3, 5)) if field.name == "type" else 1
        return self._random.random() < 0.2 if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else 1

    def _text(self, _name: str) -> str:
        if self._random.random() < HUGE_SHARE:
            text = self._random.choice("aé ") * self._random.choice(HUGE_LENGTHS)
        elif self._random.random() < 0.3:
            text = self._random.choice("aé.1 ") * self._random.choice(LENGTHS)
        else:
            text = self._random.choice(TEXTS)
        text = text[: self._characters_left]
        self._characters_left -= len(text)
        return text

    def _count(self) -> int:
        wanted = self._random.choice(COUNTS) if self._is_hostile() else self._random.randint(1, 3)
        return min(wanted, self._values_left)

    def _is_hostile(self) -> bool:
        return self._random.random() < self._hostile

    def _damaged(self, data: bytes) -> bytes:
        place = self._random.randint(0, len(data))
        noise = bytes(self._random.randint(0, 255) for _ in range(self._random.randint(1, 8)))
        return self._random.choice((data[:place], data[:place] + noise + data[place:], data[:place] + noise, noise))


def requests(seed: int) -> Iterator[tuple[Method, bytes]]:
    """Make requests to all RPCs in turn, without end."""
    fuzzer = Fuzzer(random.Random(seed))
    while True:
        for method in methods():
            yield method, fuzzer.request(method.request)
