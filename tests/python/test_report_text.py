"""Figures and names as people read them."""

from __future__ import annotations

import pytest

from perfopt.report import text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Net.forward", "Net.forward"),
        ("", ""),
        ("größe ☃ 😀 [bold]", "größe ☃ 😀 [bold]"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\tc\r\x00", "a\\nb\\tc\\r\\x00"),
        ("\u202eturned \x9b1m \ud800", "\\u202eturned \\x9b1m \\ud800"),
        ("a" * 10, "a" * 10),
        ("b" * 5 + "-" * 100 + "e" * 5, "bbbbb…eeeee"),
    ],
)
def test_words_of_others_are_shown_without_harm(words: str, shown: str) -> None:
    assert text.printable(words, most=10 if len(words) > 50 else 200) == shown


def test_the_middle_is_left_out_at_any_length() -> None:
    assert [text.printable("abcdef", most) for most in (1, 2, 3, 6)] == ["a…", "a…f", "ab…f", "abcdef"]
