import gzip
import io
import json

import polars as pl
import pytest
import zstandard

from corpus.errors import BadSource, ConfigError
from corpus.sources import TableSchema, find_files, read_blocks

SCHEMA = TableSchema(name="items", setting="item_columns", required=("item_id", "title"), optional=("brand",))
ROWS = [
    {"item_id": "1", "title": 'Ünï, "quoted"', "brand": None},
    {"item_id": "2", "title": "two\nlines", "brand": "B"},
]


def read(root, pattern, mapping=None, **options):
    return list(read_blocks(pattern, root, SCHEMA, mapping or {}, **options))


def rows(blocks):
    return [row for block in blocks for row in block.frame.rows(named=True)]


def compress(data, suffix):
    if suffix == ".gz":
        return gzip.compress(data)
    return zstandard.compress(data) if suffix else data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "ndjson", "tsv"])
def test_text_formats_read_alike_plain_and_compressed(tmp_path, kind, suffix):
    if kind in ("csv", "tsv"):
        text = pl.DataFrame(ROWS).write_csv(separator="\t" if kind == "tsv" else ",")
    else:
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / f"items.{kind}{suffix}").write_bytes(compress(text.encode(), suffix))
    got = rows(read(tmp_path, f"items.{kind}{suffix}"))
    assert [{k: v or None for k, v in row.items()} for row in got] == ROWS


def test_parquet_keeps_its_types_and_numbers_its_rows(tmp_path):
    pl.DataFrame({"item_id": [1, 2, 3], "title": ["a", "b", "c"], "price": [1.0, 2.0, 3.0]}).write_parquet(
        tmp_path / "items.parquet"
    )
    blocks = read(tmp_path, "items.parquet", block_rows=2)
    assert pl.concat([block.frame for block in blocks]).to_dict(as_series=False) == {
        "item_id": [1, 2, 3],
        "title": ["a", "b", "c"],
    }
    assert [line for block in blocks for line in block.lines] == [1, 2, 3]


def test_a_glob_reads_every_file_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text(f"item_id,title\n{name},t\n")
    blocks = read(tmp_path, "*.csv")
    assert [(block.file, block.frame["item_id"].to_list()) for block in blocks] == [("a.csv", ["a"]), ("b.csv", ["b"])]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path):
    (tmp_path / "items[1].csv").write_text("item_id,title\n1,t\n")
    assert find_files("items[1].csv", tmp_path) == [tmp_path / "items[1].csv"]


def test_columns_are_mapped_and_nested_keys_reached(tmp_path):
    (tmp_path / "i.csv").write_text("sku;name;extra\n7;seven;x\n")
    assert rows(read(tmp_path, "i.csv", {"item_id": "sku", "title": "name"})) == [{"item_id": "7", "title": "seven"}]
    (tmp_path / "i.jsonl").write_text('{"product": {"id": 7}, "name": "seven", "a.b": "flat"}\n')
    got = rows(read(tmp_path, "i.jsonl", {"item_id": "product.id", "title": "name", "brand": "a.b"}))
    assert got == [{"item_id": "7", "title": "seven", "brand": "flat"}]


def test_json_numbers_become_ids_without_a_fraction(tmp_path):
    (tmp_path / "i.jsonl").write_text('{"item_id": 12.0, "title": true}\n{"item_id": 0.5, "title": ["x"]}\n')
    assert [(r["item_id"], r["title"]) for r in rows(read(tmp_path, "i.jsonl"))] == [("12", "true"), ("0.5", '["x"]')]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "i.csv").write_bytes(b"\xef\xbb\xbfitem_id,title\n1,t\n")
    assert rows(read(tmp_path, "i.csv")) == [{"item_id": "1", "title": "t"}]


def test_line_numbers_survive_quoted_line_breaks_and_blank_lines(tmp_path):
    (tmp_path / "i.csv").write_text('item_id,title\n1,"a\nb"\n\n2,c\n3\n4,d\n')
    (block,) = read(tmp_path, "i.csv")
    assert block.lines == [2, 5, 7]
    assert block.broken == [(6, "expected 2 fields, got 1")]


def test_rows_with_broken_utf8_are_refused_one_by_one(tmp_path):
    (tmp_path / "i.csv").write_bytes(b"item_id,title\n1,caf\xc3\xa9\n2,caf\xe9\n3,tea\n")
    (block,) = read(tmp_path, "i.csv")
    assert block.frame["title"].to_list() == ["café", "tea"]
    assert block.lines == [2, 4]
    assert block.broken == [(3, "broken UTF-8")]
    (tmp_path / "i.jsonl").write_bytes(
        b'{"item_id": "1", "title": "a"}\n{"item_id": "2", "title": "\xe9"}\n{"item_id": "3", "title": "\\ud800"}\n'
    )
    (block,) = read(tmp_path, "i.jsonl")
    assert block.lines == [1]
    assert block.broken == [(2, "broken UTF-8"), (3, "broken UTF-8")]


def test_lines_that_are_no_json_objects_are_refused(tmp_path):
    (tmp_path / "i.jsonl").write_text('{"item_id": "1", "title": "a"}\n{"item_id": \n[1]\n\n' + "[" * 100_000 + "\n")
    (block,) = read(tmp_path, "i.jsonl")
    assert block.broken == [(2, "not valid JSON"), (3, "expected a JSON object"), (5, "not valid JSON")]


def test_blocks_hold_at_most_the_rows_asked_for(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\n" + "".join(f"{n},t\n" for n in range(5)))
    (tmp_path / "i.jsonl").write_text("".join(f'{{"item_id": "{n}", "title": "t"}}\n' for n in range(5)))
    for name in ("i.csv", "i.jsonl"):
        blocks = read(tmp_path, name, block_rows=2)
        assert [block.frame.height for block in blocks] == [2, 2, 1]
        assert [row["item_id"] for row in rows(blocks)] == list("01234")


@pytest.mark.parametrize("name", ["i.csv", "i.jsonl", "i.parquet"])
def test_a_missing_column_names_what_was_found_and_the_setting(tmp_path, name):
    frame = pl.DataFrame({"sku": ["1"], "title": ["t"]})
    path = tmp_path / name
    {"i.csv": frame.write_csv, "i.jsonl": frame.write_ndjson, "i.parquet": frame.write_parquet}[name](path)
    with pytest.raises(BadSource, match=r"expected column 'item_id' in i\..*found: sku, title.*item_columns"):
        read(tmp_path, name)


def test_a_mapped_optional_column_must_exist(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\n1,t\n")
    with pytest.raises(BadSource, match="expected column 'marke'"):
        read(tmp_path, "i.csv", {"brand": "marke"})


def test_a_mapping_of_an_unknown_name_is_a_configuration_error(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\n1,t\n")
    with pytest.raises(ConfigError, match=r"item_columns.*got colour"):
        read(tmp_path, "i.csv", {"colour": "c"})


def test_a_missing_file_and_an_unmatched_glob_name_the_path(tmp_path):
    for pattern in ("none.csv", "none*.csv"):
        with pytest.raises(BadSource, match=r"expected a file at .*none"):
            read(tmp_path, pattern)


@pytest.mark.parametrize("name", ["items.xlsx", "items", "items.parquet.gz", "items.gz"])
def test_an_unknown_format_lists_the_known_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadSource, match=r"ends in \.csv"):
        read(tmp_path, name)


def test_damaged_files_are_named(tmp_path):
    whole = io.BytesIO()
    pl.DataFrame({"item_id": ["1"], "title": ["t"]}).write_parquet(whole)
    text = b"item_id,title\n" + b"".join(b"%d,title\n" % n for n in range(10_000))
    broken = {
        "i.parquet": whole.getvalue()[:-20],
        "i.csv.gz": gzip.compress(text)[:-200],
        "i.csv.zst": zstandard.compress(text)[:-20],
        "j.csv.gz": b"no gzip at all",
        "j.csv.zst": b"no zstd at all",
        "k.csv": b'item_id,title\n1,"' + b"x" * (17 * 2**20),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadSource, match=f"cannot read {name}"):
            read(tmp_path, name)


def test_every_frame_of_a_zstd_file_is_read(tmp_path):
    (tmp_path / "i.csv.zst").write_bytes(zstandard.compress(b"item_id,title\n1,a\n") + zstandard.compress(b"2,b\n"))
    assert [row["item_id"] for row in rows(read(tmp_path, "i.csv.zst"))] == ["1", "2"]


def test_a_file_in_another_encoding_or_without_a_header_is_refused(tmp_path):
    (tmp_path / "i.csv").write_bytes("item_id,title,größe\n".encode("latin-1"))
    with pytest.raises(BadSource, match="UTF-8"):
        read(tmp_path, "i.csv")
    (tmp_path / "e.csv").write_bytes(b"")
    with pytest.raises(BadSource, match="header line"):
        read(tmp_path, "e.csv")
