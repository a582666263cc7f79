import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import ArtefactError, ConfigError, InputError
from corpus.items import Item, ItemTable
from retrieval.config import LexicalConfig
from retrieval.filtering.row_set import RowSet
from retrieval.lexical import lexical_index
from retrieval.lexical.lexical_index import SETTINGS_FILE, LexicalIndex

TITLE_ONLY = LexicalConfig(title=1, brand=0, category=0, description=0, attributes=0, identifier=0)


def table(*titles, **fields):
    return ItemTable.from_items(
        Item(item_id=f"i{row}", title=title, **{name: values[row] for name, values in fields.items()})
        for row, title in enumerate(titles)
    )


@pytest.fixture(scope="module")
def index(tiny_items):
    return LexicalIndex.build(tiny_items, LexicalConfig())


def test_score_is_bm25():
    # k1 = 1.2, b = 0.75 and Lucene's idf; lengths 2, 1, 3 are stored exactly, the average is 2
    index = LexicalIndex.build(table("red shoe", "shoe", "blue steel pan"), TITLE_ONLY)
    rows, scores = index.search("shoe", 10)
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    want = [idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * length / 2)) for length in (1, 2)]
    assert rows.tolist() == [1, 0]
    np.testing.assert_allclose(scores, want, rtol=1e-5)


def test_boosts_multiply_the_score_of_a_field():
    items = table("lamp", "lamp", brand=["acme", None])
    plain = LexicalIndex.build(items, LexicalConfig(title=1, brand=1))
    boosted = LexicalIndex.build(items, LexicalConfig(title=1, brand=3))
    np.testing.assert_allclose(boosted.search("acme", 5)[1], 3 * plain.search("acme", 5)[1], rtol=1e-6)


def test_a_field_without_boost_is_not_searched():
    items = table("lamp", description=["bright"])
    assert LexicalIndex.build(items, LexicalConfig(description=1)).search("bright", 5)[0].tolist() == [0]
    assert len(LexicalIndex.build(items, LexicalConfig(description=0)).search("bright", 5)[0]) == 0


@pytest.mark.parametrize("word", ["knife", "acme", "kitchen", "wood", "material"])
def test_every_text_field_is_searched(word):
    items = table(
        "sharp knife",
        "lamp",
        brand=["acme", None],
        category=[("kitchen", "knives"), ()],
        description=["a fine handle of wood", None],
        attributes=[{"material": ("steel", "oak")}, {}],
    )
    assert LexicalIndex.build(items, LexicalConfig()).search(word, 5)[0].tolist() == [0]


@pytest.mark.parametrize("query", ["RUNNING shoes", "run shoe", "shoe, running!", "Shóe rún"])
def test_case_accents_punctuation_and_endings_make_no_difference(query):
    index = LexicalIndex.build(table("running shoe", "steel pan"), TITLE_ONLY)
    want = index.search("running shoe", 5)
    got = index.search(query, 5)
    assert got[0].tolist() == want[0].tolist() == [0]
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize(
    ("language", "query", "rows"),
    [
        ("english", "shoe", [0, 1]),
        ("none", "shoe", [1]),
        ("none", "shoes", [0]),
        ("english", "buche", [3]),
        ("german", "buche", [2, 3]),
        ("german", "BÜCHER", [2, 3]),
    ],
)
def test_endings_are_cut_off_in_the_language_of_the_store(language, query, rows, tmp_path):
    items = table("shoes", "shoe", "bücher", "buche")
    LexicalIndex.build(items, TITLE_ONLY.model_copy(update={"language": language}), tmp_path)
    got, _ = LexicalIndex.open(tmp_path).search(query, 5)
    assert sorted(got.tolist()) == rows


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("手机壳", [0, 1]),
        ("手机", [0, 1]),
        ("壳", [0]),  # one character of a longer run
        ("iphone透明", [0, 2]),  # no space at the border of the scripts
        ("iphone 15", [0, 2]),
        ("ｹｰｽ", [3]),  # half-width kana
        ("ケース", [3]),
        ("무선 이어폰", [4]),
        ("이어폰", [4]),
        ("机手", []),  # both characters stand in titles, but never in this order
    ],
)
def test_chinese_japanese_and_korean_are_found_by_parts_of_a_title(query, rows):
    index = LexicalIndex.build(
        table("iPhone 15 透明手机壳", "智能手机", "iPhone 15 case", "アイホンケース", "삼성 무선이어폰"), TITLE_ONLY
    )
    assert sorted(index.search(query, 5)[0].tolist()) == rows


def test_the_longest_common_run_of_characters_ranks_first():
    index = LexicalIndex.build(table("手机", "洗衣机", "手机壳", "壳牌机油"), TITLE_ONLY)
    rows, _ = index.search("手机壳", 5)
    assert rows.tolist() == [2, 0]


HEADPHONES = table(
    "Sony wireless headphones black",
    "Sony WH-1000XM4 wireless headphones",
    "Sony WH-1000XM5 wireless headphones with a case",
    "Sony WH 1000 XM3",
    attributes=[{"EAN": ("4548736112100",)}, {"UPC": ("0 27242 91925 3",)}, {}, {}],
)


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("WH-1000XM4", 1),
        ("wh1000xm4", 1),
        ("wh 1000 xm4", 1),
        ("wh-1000 xm4 headphones", 1),
        ("sony wireless headphones wh1000xm5", 2),
        ("WH-1000XM3", 3),
        ("wh1000xm3", 3),
        ("4548736112100", 0),
        ("027242919253", 1),
        ("27242919253", 1),
        ("0027242919253", 1),  # as an EAN
        ("i2", 2),
        ("I-2", 2),
    ],
)
def test_identifiers_are_found_first_however_they_are_written(query, row):
    config = LexicalConfig(title=1, brand=0, category=0, description=0, attributes=0)
    assert LexicalIndex.build(HEADPHONES, config).search(query, 5)[0].tolist()[0] == row


def test_an_identifier_scores_its_boost_times_idf_and_words_whatever_stands_beside_it():
    items = table("A100", "A100 B200 C300", "lamp", attributes=[{}, {"code": ("A100",)}, {}])
    only = LexicalConfig(title=0, brand=0, category=0, description=0, attributes=0, identifier=3)
    rows, scores = LexicalIndex.build(items, only).search("a-100", 5)
    assert rows.tolist() == [0, 1]
    np.testing.assert_allclose(scores, 3 * 2 * math.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), rtol=1e-6)


def test_identifiers_without_boost_are_not_searched():
    assert len(LexicalIndex.build(HEADPHONES, TITLE_ONLY).search("wh1000xm4", 5)[0]) == 0


def test_a_short_number_finds_an_item_id_only_when_it_stands_alone():
    items = ItemTable.from_items([Item(item_id="360", title="lamp"), Item(item_id="7", title="xbox 360 console")])
    index = LexicalIndex.build(items, LexicalConfig())
    assert index.search("360", 5)[0].tolist() == [0, 1]
    assert index.search("xbox 360", 5)[0].tolist() == [1]


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    folder = tmp_path_factory.mktemp("games")
    items = table(
        "The Elder Scrolls V: Skyrim",
        "PlayStation 3 console",
        "Xbox wireless controller",
        "Pokémon Sapphire",
        "Sony WH-1000XM4",
        "手机壳 iPhone",
        description=["dragons", None, None, None, None, None],
        category=[("Games",), ("Consoles",), ("Accessories",), ("Games",), ("Audio",), ()],
    )
    config = LexicalConfig(title=1, brand=0, category=1, description=0, attributes=0)
    LexicalIndex.build(items, config, folder)
    return LexicalIndex.open(folder)


@pytest.mark.parametrize(
    ("query", "corrected", "row"),
    [
        ("Skyrm", "skyrim", 0),
        ("elder scrols, skyrim!", "elder scrolls, skyrim!", 0),
        ("playstation3", "playstation 3", 1),
        ("x box wirless", "xbox wireless", 2),
        ("pokemom", "pokemon", 3),  # without the accent, as the index has it
        ("手机壳 ipone", "手机壳 iphone", 5),
        ("acessories", "accessories", 2),  # from the category
        ("sony wh1000xm4 skyrm", "sony wh1000xm4 skyrim", None),  # the identifier is known as such
    ],
)
def test_unknown_words_are_mended_and_searched(games, query, corrected, row):
    assert games.correct(query) == corrected
    rows, scores = games.search(query, 5)
    for got, want in zip((rows, scores), games.search(corrected, 5, spelling=False), strict=True):
        np.testing.assert_array_equal(got, want)
    assert row is None or rows[0] == row


@pytest.mark.parametrize(
    "query", ["skyrim", "controllers", "Pokémon", "wh1000xm4", "i3", "手机", "壳机 zzzz", "dragns", "", "!?", "12345"]
)
def test_nothing_to_mend(games, query):
    # among them: another ending, an identifier, and a word of a field that is not searched
    assert games.correct(query) is None


def test_spelling_can_be_left_as_typed(games):
    assert games.search("skyrm", 5)[0].tolist() == [0]
    assert games.search("skyrm", 5, spelling=False)[0].tolist() == []


def test_known_words_cost_nothing_in_score(games):
    got, want = games.search("skyrim elder", 5), games.search("skyrim elder", 5, spelling=False)
    np.testing.assert_array_equal(got[1], want[1])


def test_a_language_without_a_stemmer_is_refused():
    with pytest.raises(ConfigError, match="klingon"):
        LexicalIndex.build(table("lamp"), TITLE_ONLY.model_copy(update={"language": "klingon"}))


@pytest.mark.parametrize(
    "query", ["shoe AND NOT shoe", "title:shoe", "-shoe", '"shoe', "shoe~2^9 (", "+(shoe", "shoe*"]
)
def test_no_character_of_a_query_is_syntax(query):
    index = LexicalIndex.build(table("shoe", "pan"), TITLE_ONLY)
    assert index.search(query, 5)[0].tolist() == [0]


@settings(max_examples=150, deadline=None)
@given(query=st.text(max_size=80))
def test_any_text_is_safe(index, query):
    rows, scores = index.search(query, 10)
    assert len(rows) == len(scores) <= 10
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(scores) <= 0).all()
    assert (scores > 0).all()
    assert index.correct(query) != query


@pytest.mark.parametrize("query", ["", "   ", "!?", "zzzzzz", "x" * 100])
def test_a_query_without_a_known_word_finds_nothing(index, query):
    rows, scores = index.search(query, 10)
    assert (rows.tolist(), scores.tolist()) == ([], [])
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_a_repeated_word_counts_as_often():
    index = LexicalIndex.build(table("red pan", "blue shoe"), TITLE_ONLY)
    once, twice = index.search("pan", 5)[1], index.search("pan pan", 5)[1]
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_equal_scores_come_in_row_order_and_the_cut_keeps_the_first():
    index = LexicalIndex.build(table(*["blue pan"] * 30), TITLE_ONLY)
    assert index.search("pan", 12)[0].tolist() == list(range(12))


def test_an_enormous_query_and_depth_are_bounded(index, tiny_items):
    words = " ".join(f"word{number}" for number in range(5000))
    rows, _ = index.search(f"shoe shoe {words}", 10**9)
    assert 0 < len(rows) <= len(tiny_items)


def test_depth_below_one_is_refused(index):
    with pytest.raises(InputError):
        index.search("shoe", 0)


def test_a_saved_index_answers_as_the_one_in_memory(index, tiny_items, tmp_path):
    folder = tmp_path / "a" / "lexical"
    LexicalIndex.build(tiny_items, LexicalConfig(), folder)
    opened = LexicalIndex.open(folder)
    assert len(opened) == len(index) == 60
    for query in ("red running shoe", "acme mug", "garden"):
        for got, want in zip(opened.search(query, 20), index.search(query, 20), strict=True):
            np.testing.assert_array_equal(got, want)


def test_opened_index_keeps_its_boosts(tmp_path):
    LexicalIndex.build(table("lamp", brand=["acme"]), TITLE_ONLY, tmp_path)
    assert len(LexicalIndex.open(tmp_path).search("acme", 5)[0]) == 0


def test_opening_and_searching_leave_the_folder_as_it_was(tiny_items, tmp_path):
    LexicalIndex.build(tiny_items, LexicalConfig(), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # a server may run as another user
    folder_time = tmp_path.stat().st_mtime_ns
    assert len(LexicalIndex.open(tmp_path).search("shoe", 5)[0]) == 5
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    # not even a lock came and went: a server may see the bundle read-only
    assert tmp_path.stat().st_mtime_ns == folder_time
    assert not [name for name in before if name.endswith(".lock")]


def test_an_empty_catalogue_finds_nothing():
    assert len(LexicalIndex.build(table(), LexicalConfig()).search("shoe", 3)[0]) == 0


def test_a_folder_without_an_index_is_an_artefact_error(tmp_path):
    with pytest.raises(ArtefactError, match="build the bundle again"):
        LexicalIndex.open(tmp_path)


def test_damaged_settings_and_files_are_artefact_errors(tmp_path):
    LexicalIndex.build(table("lamp", "pan"), TITLE_ONLY, tmp_path)
    path = tmp_path / SETTINGS_FILE
    good = path.read_text()
    for key, value in (("n_items", 3), ("format_version", 99), ("surprise", 1)):
        path.write_text(json.dumps(json.loads(good) | {key: value}))
        with pytest.raises(ArtefactError, match="build the bundle again"):
            LexicalIndex.open(tmp_path)
    path.write_text(good)
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(ArtefactError, match="build the bundle again"):
        LexicalIndex.open(tmp_path)


def test_building_where_a_file_is_in_the_way_is_an_artefact_error(tmp_path):
    (tmp_path / "lexical").write_text("in the way")
    with pytest.raises(ArtefactError, match="check the folder"):
        LexicalIndex.build(table("lamp"), TITLE_ONLY, tmp_path / "lexical")


@pytest.mark.parametrize("few_rows", [0, 10_000], ids=["dropping the others", "asking for the rows"])
@pytest.mark.parametrize("chosen", [[7], [90, 3, 500, 41], list(range(0, 600, 2))], ids=["one", "four", "half"])
def test_search_among_some_rows_is_the_whole_ranking_without_the_others(monkeypatch, few_rows, chosen):
    monkeypatch.setattr(lexical_index, "FEW_ROWS", few_rows)
    index = LexicalIndex.build(table(*(f"lamp {'red ' * (row % 7)}{row}" for row in range(600))), TITLE_ONLY)
    all_rows, all_scores = index.search("red lamp", 600)
    kept = np.isin(all_rows, chosen)
    rows, scores = index.search("red lamp", 20, allowed=RowSet.of(np.array(chosen), 600))
    assert rows.tolist() == all_rows[kept][:20].tolist()
    np.testing.assert_allclose(scores, all_scores[kept][:20], rtol=1e-6)


def test_no_allowed_row_means_no_hit(index, tiny_items):
    rows, _ = index.search("bottle", 5, allowed=RowSet.of(np.array([], dtype=np.int64), len(tiny_items)))
    assert len(rows) == 0


def test_items_unpacked_in_parts_keep_their_rows(tiny_items, monkeypatch):
    want = LexicalIndex.build(tiny_items, LexicalConfig()).search("red acme running shoe", 60)
    monkeypatch.setattr("retrieval.lexical.text.ITEMS_AT_ONCE", 7)
    got = LexicalIndex.build(tiny_items, LexicalConfig()).search("red acme running shoe", 60)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
