import pytest

from retrieval.lexical.text import segment_item, segment_query, without_runs


def test_ascii_text_stays():
    assert (
        segment_item("Sony WH-1000XM4, (black)")
        == segment_query("Sony WH-1000XM4, (black)")
        == "Sony WH-1000XM4, (black)"
    )


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("手机壳", ["手机", "机壳"]),
        ("iPhone手机壳x2", ["iPhone", "手机", "机壳", "x2"]),
        ("茶", ["茶"]),
        ("スーパー", ["スー", "ーパ", "パー"]),
        ("ｶﾞﾝﾀﾞﾑ", ["ガン", "ンダ", "ダム"]),  # half-width kana and its voicing marks
        ("佐々木", ["佐々", "々木"]),
        ("トム・ソーヤ", ["トム", "・", "ソー", "ーヤ"]),
        ("무선 이어폰", ["무선", "이어", "어폰"]),
        ("𠮷野家", ["𠮷野", "野家"]),  # beyond the basic plane
        ("cafe\u0301 naïve", ["café", "naïve"]),
        ("чай зелёный", ["чай", "зелёный"]),
    ],
)
def test_query_runs_become_pairs(text, terms):
    assert segment_query(text).split() == terms


def test_items_keep_the_single_characters_too():
    assert segment_item("新手机").split() == ["新手", "手机", "新", "手", "机"]
    assert segment_item("茶 tea").split() == ["茶", "tea"]


def test_without_runs_keeps_every_character_in_its_place():
    assert without_runs("新iphone 手机壳 x") == " iphone     x"
    assert without_runs("plain") == "plain"
    assert without_runs("cafe\u0301 ｹｰｽ") == "café    "
