from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.html import Html, joined, tag


class Reader(HTMLParser):
    """What a browser would find: the elements with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_elements_nest() -> None:
    """Markup that was made by `tag` goes in as it is."""
    made = tag("p", "a ", tag("b", "c"), class_="x", data_label="y")

    assert made == Html('<p class="x" data-label="y">a <b>c</b></p>')


def test_elements_without_an_end_have_none() -> None:
    """`</meta>` would be an error."""
    assert tag("meta", charset="utf-8") == Html('<meta charset="utf-8">')


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_text_stays_text(text: str) -> None:
    """Whatever a text holds, a browser reads that text, and no element more."""
    read = Reader(joined(tag("p", text), text).markup)

    assert read.elements == [("p", [])]
    assert read.text == text * 2


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_an_attribute_stays_an_attribute(text: str) -> None:
    """No value ends its attribute."""
    read = Reader(tag("p", title=text).markup)

    assert read.elements == [("p", [("title", text)])]
