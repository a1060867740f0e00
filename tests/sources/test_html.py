"""HTML: content survives, furniture does not, and no page brings the parser down."""

import time

import pytest

from memory.errors import InvalidInputError
from tests.sources.checks import parse, texts

PAGE = """<!doctype html><title>Opening hours - The Mill</title>
<header><a href=/>Home</a></header><nav><ul><li><a href=/a>Menu entry</a></ul></nav>
<div class="cookie-banner">We use cookies</div><script>var secret = 1</script>
<div><ul><li><a href=1>One</a><li><a href=2>Two</a><li><a href=3>Three</a><li><a href=4>Four</a><li><a href=5>Five</a></ul></div>
<main><h1>Opening hours</h1><p>The mill is open <b>daily</b>,<br>except in snow.
<h2>Prices</h2><table><thead><tr><th>Who<th>Price</thead><tr><td rowspan=2>Adult<td>5 €<tr><td>4 € (group)</table>
<h2>How to come</h2><ol><li>By train<ul><li>to Mill Lane</ul><li>On foot</ol>
<section id="cookies"><h2>Cookies we bake</h2><p>Oat and ginger.</section>
<pre>def mill():
    return 1</pre></main><footer>Imprint</footer>"""


def test_content_survives_and_furniture_does_not() -> None:
    parsed = parse(PAGE, "text/html")

    assert parsed.title == "Opening hours"
    assert parsed.text == (
        "Opening hours\n\nThe mill is open daily,\nexcept in snow.\n\nPrices\n\n| Who | Price |\n| Adult | 5 € |\n"
        "| Adult | 4 € (group) |\n\nHow to come\n\n1. By train\n  - to Mill Lane\n2. On foot\n\n"
        "Cookies we bake\n\nOat and ginger.\n\ndef mill():\n    return 1"
    )
    assert ("Opening hours", "Prices") in [section.heading for section in parsed.sections]


def test_a_page_of_links_is_kept_when_there_is_nothing_else() -> None:
    parsed = parse("<nav><a href=1>Alpha</a> <a href=2>Beta</a></nav>", "text/html")

    assert texts(parsed) == ["Alpha Beta"]
    assert parsed.warnings == ("the page is nothing but navigation; all of its text was kept",)


def test_the_declared_charset_of_a_page_is_used() -> None:
    body = '<meta charset="shift_jis"><p>東京の天気</p>'.encode("shift_jis")

    assert parse(body, "text/html").text == "東京の天気"


@pytest.mark.parametrize("body", ["<script>only()</script>", "<p> </p>", "<!-- nothing -->"])
def test_a_page_without_text_is_refused(body: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(body, "text/html")


@pytest.mark.parametrize(
    "body",
    [
        "<div>" * 200_000 + "deep",
        "<b><p>" * 50_000 + "deep",
        "<p " + " ".join(f"a{n}" for n in range(50_000)) + ">x",
        "<ul><li>" * 100_000 + "deep",
        "<!--" * 100_000,
        "<table><tr><td>" * 50_000 + "deep",
        "<a " * 200_000,
    ],
)
def test_hostile_pages_are_refused_quickly(body: str) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidInputError):
        parse(body, "text/html")
    assert time.monotonic() - started < 5


def test_deep_pages_within_the_limit_are_read() -> None:
    assert texts(parse("<div>" * 3000 + "deep", "text/html")) == ["deep"]
    assert "deep" in texts(parse("<ul><li>x" * 1000 + "deep", "text/html"))[-1]
