"""The importers, each on a small copy of the published layout, through to prepared examples."""

import gzip
import json
from datetime import UTC, datetime

import polars as pl
import pytest

from corpus.errors import BadSource, ConfigError
from corpus.importers import KINDS, import_store
from corpus.prepare import prepare
from corpus.settings import DataConfig


class Imported:
    """An imported and prepared store."""

    def __init__(self, kind, source, root):
        self.imported = import_store(kind, source, root / "source")
        self.config = DataConfig.model_validate(self.imported.settings)
        self.report = prepare(self.config, root, root / "data")
        self.items = pl.read_parquet(root / "data" / "items.parquet")
        examples = pl.read_parquet(root / "data" / "examples.parquet")
        self.examples = examples.sort("timestamp", "query", nulls_last=True).to_dicts()

    def labels(self, example):
        return {self.items["item_id"][label["row"]]: label["grade"] for label in example["labels"]}


@pytest.fixture
def bring(tmp_path):
    def run(kind):
        return Imported(kind, tmp_path, tmp_path / "store")

    return run


def write(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def catalogue(folder, rows):
    write(folder / "catalogue.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))


def test_bestbuy_clicks_of_one_search_make_one_example(tmp_path, bring):
    rows = [{"item_id": i, "title": f"Game {i}", "brand": "UNKNOWN", "description": None} for i in ("sku1", "sku2")]
    catalogue(tmp_path, rows)
    write(
        tmp_path / "clicks.csv.gz",
        "user_id,query,item_id,query_time,click_time\n"
        "u1,Halo,sku1,2011-09-01 10:00:00.5,2011-09-01 10:00:20\n"
        "u1,Halo,sku2,2011-09-01 10:00:00.5,2011-09-01 10:00:30\n"
        "u1,gears,sku2,2011-09-25 23:59:59,2011-09-26 00:00:10\n"
        "u1,gears,sku1,2011-09-26 00:00:00,2011-09-26 00:00:10\n"
        "u1,halo,sku1,2011-10-01 00:00:00,2011-10-01 00:01:00\n",
    )
    store = bring("bestbuy")
    assert store.imported.counts == {"items": 2, "events": 9}
    assert [(e["query"], e["split"]) for e in store.examples] == [
        ("halo", "train"),
        ("gears", "valid"),
        ("halo", "test"),
    ]  # what was clicked only in the days of validation is no label of training
    assert store.labels(store.examples[0]) == {"sku1": 1.0, "sku2": 1.0}
    assert store.examples[0]["timestamp"] == datetime(2011, 9, 1, 10, 0, 0, 500_000, tzinfo=UTC)
    assert [e["type"] for e in store.examples[1]["history"]] == ["search", "click", "click", "search"]
    assert store.items["brand"].to_list() == [None, None]


def test_homedepot_dev_is_the_test_split_and_a_tenth_validates(tmp_path, bring):
    catalogue(tmp_path, [{"item_id": str(n), "title": f"item {n}"} for n in range(3)])
    lines = [f"train query {n},{n % 3},2.33,train\n" for n in range(300)]
    lines += ["angle bracket,0,3,dev\n", "angle bracket,1,2.5,dev\n", "angle bracket,2,2.33,dev\n"]
    write(tmp_path / "judgments.csv.gz", "query,item_id,relevance,split\n" + "".join(lines))
    store = bring("homedepot")
    assert store.report.n_test == 1
    assert store.report.n_train + store.report.n_valid == 300
    assert 15 <= store.report.n_valid <= 50
    (test,) = [e for e in store.examples if e["split"] == "test"]
    weights = [(label["grade"], label["weight"] > 0) for label in test["labels"]]
    assert weights == [(3.0, True), (2.25, True), (pytest.approx(1.995), False)]


def test_purchases_keep_the_published_split_and_order(tmp_path, bring):
    rows = [{"item_id": i, "title": i, "brand": None, "category": ["Beauty", "Hair & Care"]} for i in "abcd"]
    catalogue(tmp_path, rows)
    write(
        tmp_path / "purchases.csv.gz",
        "user_id,order,query,item_id,split\n"
        "u1,1,beauty hair,a,train\nu1,2,,b,train\nu1,3,beauty hair,c,valid\nu1,4,beauty hair,d,test\n"
        "u2,1,beauty hair,d,train\n",
    )
    store = bring("purchases")
    assert (store.report.n_train, store.report.n_valid, store.report.n_test) == (2, 1, 1)
    test = store.examples[-1]
    assert store.labels(test) == {"d": 3.0}
    assert [event["item_id"] for event in test["history"]] == ["c", "b", "a"]
    assert store.items["category"].to_list()[0] == ["Beauty", "Hair & Care"]


def test_esci_labels_become_grades_of_one_locale(tmp_path, bring):
    columns = ["example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "small_version",
               "large_version", "split"]  # fmt: skip
    rows = [(0, "usb hub", 1, f"P{n}", "us", label, 1, 1, "test") for n, label in enumerate("ESCI")]
    rows += [(9, "usb kabel", 2, "P0", "es", "E", 1, 1, "test"), (10, "big only", 3, "P0", "us", "E", 0, 1, "train")]
    rows += [(11 + n, f"train {n}", 4 + n, "P0", "us", "E", 1, 1, "train") for n in range(50)]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(
        tmp_path / "shopping_queries_dataset_examples.parquet"
    )
    names = ["product_id", "product_title", "product_description", "product_bullet_point", "product_brand",
             "product_color", "product_locale"]  # fmt: skip
    products = [(f"P{n}", f"Hub {n}", "<b>Fast</b>", "4 ports", "Acme", "red" if n else None, "us") for n in range(4)]
    products.append(("P0", "Kabel", None, None, None, None, "es"))
    pl.DataFrame(products, schema=names, orient="row").write_parquet(
        tmp_path / "shopping_queries_dataset_products.parquet"
    )
    store = bring("esci")
    assert store.imported.counts == {"items": 4, "judgments": 54}
    (test,) = [e for e in store.examples if e["split"] == "test"]
    assert store.labels(test) == {"P0": 3.0, "P1": 2.0, "P2": 1.0, "P3": 0.0}
    assert [label["weight"] for label in test["labels"]] == [1.0, 0.0, 0.0, 0.0]
    assert store.report.n_valid > 0 and store.report.n_train + store.report.n_valid == 50
    first, second = store.items.head(2).to_dicts()
    assert (first["title"], first["description"], first["brand"]) == ("Hub 0", "4 ports Fast", "Acme")
    assert first["attributes"] == []
    assert second["attributes"] == [{"name": "color", "values": ["red"]}]


def test_wands_tables_separated_by_tabs(tmp_path, bring):
    queries = "".join(f"{n}\tchair {n}\tChairs\n" for n in range(30))
    write(tmp_path / "query.csv", "query_id\tquery\tquery_class\n" + queries)
    write(
        tmp_path / "product.csv",
        "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\t"
        "rating_count\taverage_rating\treview_count\n"
        '7\toak chair\tChairs\tFurniture / Living Room / Chairs\t"sits ""well"""\t'
        "color:oak|material : wood|color:red\t1.0\t4.5\t1.0\n"
        "8\tplain stool\tStools\t\t\t\t\t\t\n",
    )
    labels = "".join(f"{n}\t{n}\t{7 + n % 2}\t{['Exact', 'Partial', 'Irrelevant'][n % 3]}\n" for n in range(30))
    write(tmp_path / "label.csv", "id\tquery_id\tproduct_id\tlabel\n" + labels)
    store = bring("wands")
    chair = store.items.row(0, named=True)
    assert (chair["item_id"], chair["title"], chair["description"]) == ("7", "oak chair", 'sits "well"')
    assert chair["category"] == ["Furniture", "Living Room", "Chairs"]
    assert chair["attributes"] == [
        {"name": "color", "values": ["oak", "red"]},
        {"name": "material", "values": ["wood"]},
    ]
    assert store.report.n_judged_queries == 30
    grades = {e["query"]: (store.labels(e), e["labels"][0]["weight"] > 0) for e in store.examples}
    assert grades["chair 0"] == ({"7": 3.0}, True)
    assert grades["chair 1"] == ({"8": 1.5}, False)
    assert grades["chair 2"] == ({"7": 0.0}, False)


UBI_QUERIES = [
    {"query_id": "q1", "client_id": "c1", "user_query": "Lamp", "timestamp": "2024-12-10T00:00:00Z",
     "query_response_hit_ids": ["a", "b"]},
    {"query_id": "q2", "client_id": "c1", "user_query": "desk", "timestamp": "2024-12-10T01:00:00Z"},
]  # fmt: skip


def ubi_event(action, object_id, minute, query_id="q1", **more):
    attributes = {"object": {"object_id": object_id, "object_id_field": "sku"}, "position": {"ordinal": 2}}
    return {
        "action_name": action, "query_id": query_id, "client_id": "c1", "timestamp": f"2024-12-10T00:{minute:02d}:00Z",
        "event_attributes": attributes if object_id else {}, **more,
    }  # fmt: skip


UBI_EVENTS = [
    ubi_event("click", "a", 1),
    ubi_event("purchase", "b", 50),
    ubi_event("product_hover", "a", 2),
    ubi_event("click", None, 3),
    {**ubi_event("add_to_cart", 5, 0, "q2"), "timestamp": "2024-12-10T01:00:30Z"},
]


@pytest.mark.parametrize("layout", ["two files", "one bulk file"])
def test_ubi_queries_and_events_meet_by_query_id(tmp_path, bring, layout):
    def lines(rows):
        return "".join(json.dumps(row) + "\n" for row in rows)

    if layout == "two files":
        write(tmp_path / "ubi_queries.jsonl", lines(UBI_QUERIES))
        write(tmp_path / "ubi_events.ndjson.gz", lines(UBI_EVENTS))
    else:
        bulk = [line for row in UBI_QUERIES + UBI_EVENTS for line in ({"index": {"_index": "ubi"}}, row)]
        write(tmp_path / "ubi_queries_events.ndjson", lines(bulk))
    write(tmp_path / "items.csv", "item_id,title\na,lamp a\nb,lamp b\n5,desk\n")
    store = bring("ubi")
    assert store.imported.counts == {"items": 3, "events": 5, "actions left out": 2}
    lamp, desk = store.examples
    assert (lamp["query"], lamp["user_id"], store.labels(lamp)) == ("lamp", "c1", {"a": 1.0, "b": 3.0})
    assert (desk["query"], store.labels(desk)) == ("desk", {"5": 2.0})
    assert [event["type"] for event in desk["history"]] == ["purchase", "click", "search"]


def test_every_kind_names_the_file_it_misses(tmp_path):
    for kind in KINDS:
        with pytest.raises(BadSource, match=r"expected .*(catalogue|query\.csv|examples|items).* found: nothing"):
            import_store(kind, tmp_path, tmp_path.parent / "out")


def test_unknown_kinds_and_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="bestbuy, homedepot, purchases, esci, wands, ubi, got 'walmart'"):
        import_store("walmart", tmp_path, tmp_path / "out")
    with pytest.raises(BadSource, match="expected a folder"):
        import_store("bestbuy", tmp_path / "none", tmp_path / "out")


def test_a_file_laid_out_otherwise_or_damaged_is_refused(tmp_path):
    pl.DataFrame({"query": ["q"]}).write_parquet(tmp_path / "shopping_queries_dataset_examples.parquet")
    with pytest.raises(BadSource, match=r"missing: product_id"):
        import_store("esci", tmp_path, tmp_path / "out")
    (tmp_path / "shopping_queries_dataset_examples.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadSource, match=r"cannot read the files of esci"):
        import_store("esci", tmp_path, tmp_path / "out")
    write(tmp_path / "items.csv", "item_id,title\na,t\n")
    write(tmp_path / "ubi_queries.jsonl", '{"hello": 1}\n')
    write(tmp_path / "ubi_events.jsonl", '{"hello": 1}\n')
    with pytest.raises(BadSource, match=r"expected column 'timestamp' in ubi_queries"):
        import_store("ubi", tmp_path, tmp_path / "out")
