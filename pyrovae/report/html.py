"""HTML in pieces, escaped by default: text from a run's files can never become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_VOID = frozenset({"meta", "img", "br", "hr"})


class Html(str):
    """Text that is HTML already; everything else is escaped where it meets a page.

    >>> text(Html("<b>")), text("<b>")
    ('<b>', '&lt;b&gt;')
    """

    __slots__ = ()


def text(value: Any) -> Html:
    """A value as HTML: escaped, unless it is HTML already; None is nothing, and an iterable is its parts in a row.

    Args:
        value: anything.

    >>> text(["a", None, 1])
    'a1'
    """
    if value is None:
        return Html("")
    if isinstance(value, Html):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return Html("".join(text(part) for part in value))
    return Html(escape(str(value), quote=True))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element; a trailing underscore of an attribute's name is dropped, other underscores become hyphens.

    Args:
        name: of the element.
        children: HTML, text to be escaped, None, or sequences of these.
        attributes: text, or True for one without a value, or None to leave it out.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    closing = "" if name in _VOID else f"{text(children)}</{name}>"
    return Html(f"<{name}{written}>{closing}")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], label: str) -> Html:
    """A table whose first column heads its rows, in a box of its own that scrolls where the page is narrow.

    Args:
        columns: the heads of the columns; empty ones are left out.
        rows: the cells of each row, as many as there are columns.
        label: what the table holds, for readers who hear it.

    >>> '<th scope="row">kl</th><td>2</td>' in table(["", "nats"], [["kl", 2]], "terms")
    True
    """
    head = element("thead", element("tr", [element("th", column, scope="col") for column in columns]))
    body = [
        element("tr", element("th", first, scope="row"), [element("td", cell) for cell in cells])
        for first, *cells in rows
    ]
    made = element("table", head if any(columns) else None, element("tbody", body))
    return element("div", made, class_="scroll", role="region", aria_label=label, tabindex="0")


def prose(words: str) -> Html:
    """A sentence in which what stands between backticks is code.

    Args:
        words: the sentence.

    >>> prose("use `a<b`")
    'use <code>a&lt;b</code>'
    """
    return text([element("code", part) if number % 2 else part for number, part in enumerate(words.split("`"))])


def code(source: str, label: str) -> Html:
    """A block of code that scrolls in its own box.

    Args:
        source: the code.
        label: what it does, for readers who hear it.

    >>> code("a < b", "an example")[-27:]
    '<code>a &lt; b</code></pre>'
    """
    return element("pre", element("code", source), tabindex="0", role="region", aria_label=label)
