import numpy as np
import pytest

from corpus.errors import ConfigError
from corpus.items import Item, ItemTable
from retrieval.config import TEXT_FIELDS
from retrieval.passages import passage, passage_texts, passages

LAMP = Item(
    item_id="a",
    title="Floor lamp",
    description="Bright.",
    brand="Lumo",
    category=("Home", "Lamps"),
    attributes={"colour": ("black", "white"), "size": ()},
)


def test_fields_come_in_the_configured_order():
    assert passage(LAMP, ("title", "brand", "category")) == "Floor lamp | Lumo | Home > Lamps"
    assert passage(LAMP, ("brand", "title")) == "Lumo | Floor lamp"


def test_attributes_are_written_as_names_and_values_and_empty_ones_are_left_out():
    assert passage(LAMP, ("title", "attributes")) == "Floor lamp | colour: black, white"


def test_missing_fields_leave_no_trace():
    assert passage(Item(item_id="a", title="Rake"), TEXT_FIELDS) == "Rake"


def test_a_brand_that_the_title_names_is_not_repeated():
    assert passage(Item(item_id="a", title="LUMO floor lamp", brand="Lumo"), ("title", "brand")) == "LUMO floor lamp"


def test_a_brand_inside_another_word_is_kept():
    assert passage(Item(item_id="a", title="Lumosity card", brand="Lumo"), ("title", "brand")) == "Lumosity card | Lumo"


def test_the_catalogue_reads_like_its_items(tiny_items: ItemTable):
    items = ItemTable.from_items([LAMP, Item(item_id="b", title="Rake"), *map(tiny_items.item, range(10))])
    for fields in (TEXT_FIELDS, ("title",), ("category", "brand")):
        assert passages(items, fields) == [passage(items.item(row), fields) for row in range(len(items))]


def test_passages_made_when_read_are_those_of_the_catalogue(tiny_items: ItemTable):
    texts = passage_texts(tiny_items, TEXT_FIELDS)
    want = passages(tiny_items, TEXT_FIELDS)
    assert len(texts) == 60
    assert texts.take(np.array([17, 3, 17])) == [want[17], want[3], want[17]]
    assert [text for chunk in texts.chunks(25) for text in chunk] == want
    with pytest.raises(ConfigError, match="item_fields"):
        passage_texts(tiny_items, ("colour",))


def test_an_unknown_field_is_refused(tiny_items: ItemTable):
    with pytest.raises(ConfigError, match="colour"):
        passages(tiny_items, ("title", "colour"))
    with pytest.raises(ConfigError, match="none"):
        passage(LAMP, ())
