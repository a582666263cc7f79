import re

import polars as pl

from corpus.items import ITEM_SCHEMA


def test_the_catalogue_has_the_schema_and_unique_ids(synthetic_store):
    frame = synthetic_store.frame("items")
    assert dict(frame.schema) == ITEM_SCHEMA
    assert frame["item_id"].n_unique() == len(frame) == synthetic_store.config.n_items
    assert frame.null_count().sum_horizontal().item() == 0


def test_titles_name_the_brand_the_style_and_the_price_level(synthetic_store):
    for item in map(synthetic_store.items.item, range(300)):
        words = item.title
        assert words.startswith(item.brand)
        assert item.attributes["style"][0] in words
        assert item.attributes["range"][0] in words


def test_descriptions_name_everything(synthetic_store):
    for item in map(synthetic_store.items.item, range(300)):
        text = item.description.lower()
        assert item.brand.lower() in text
        for (value,) in item.attributes.values():
            assert value.lower() in text


def test_texts_have_no_gaps_and_no_braces(synthetic_store):
    frame = synthetic_store.frame("items")
    for text in [*frame["title"], *frame["description"]]:
        assert not re.search(r"[{}]|  | ,|,,| \.|\.\.| in,| in$|\ba [aeiou]|\(\)|, \(", text), text


def test_some_titles_omit_the_colour(synthetic_store):
    items = [synthetic_store.items.item(row) for row in range(len(synthetic_store.items))]
    coloured = [item for item in items if "colour" in item.attributes]
    omitted = sum(item.attributes["colour"][0] not in item.title for item in coloured)
    assert 0.06 < omitted / len(coloured) < 0.2


def test_no_two_items_share_a_picture_and_few_are_out_of_stock(synthetic_store):
    frame = synthetic_store.frame("items")
    assert frame["image_uri"].n_unique() == len(frame)
    assert 0.01 < 1 - frame["in_stock"].mean() < 0.06
    assert frame["updated_at"].max() <= synthetic_store.config.start


def test_categories_are_a_department_and_an_aisle(synthetic_store, vocabulary):
    frame = synthetic_store.frame("items")
    assert frame["category"].list.len().unique().to_list() == [2]
    departments = frame.select(pl.col("category").list.first().unique()).to_series()
    assert set(departments) == {product.department for product in vocabulary.types.values()}
