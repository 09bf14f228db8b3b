"""Pieces of a self-contained HTML page: tables, pictures, formulas and the Markdown that this project writes."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from evomal_core.losses import Loss

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  overflow-wrap: break-word }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc } h3 { margin-top: 1.8rem }
table { border-collapse: collapse; font-size: 14px; margin: 1rem 0 } .wide { overflow-x: auto }
td, th { padding: .2rem .5rem; text-align: left; vertical-align: top }
tr:nth-child(even) { background: #f6f6f6 } th { border-bottom: 1px solid #222 }
figure { margin: 1rem 0 } img { max-width: 100%; width: auto } figcaption, .small { color: #555; font-size: 14px }
code { background: #f0f0f0; padding: 0 .2em } summary { cursor: pointer; font-weight: 600 }
math { font-size: 1.1em } mfrac > * { math-depth: 0; font-size: 1em }
nav ul { columns: 20rem 3; padding-left: 1.2rem }
.reproduced { background: #bfe5d6 } .direction { background: #cfe8f7 } .not { background: #f9e3b8 }
.construction { background: #eeddea }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page that needs no other file."""
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>{html.escape(title)}</title><style>{STYLE}</style>'
    return "\n".join(
        ['<!doctype html>\n<html lang="en"><head>', head, "</head><body>", *parts, "</body></html>\n"]
    )


def heading(text: str, level: int = 2) -> str:
    """A heading with an anchor, see `anchor`."""
    return f'<h{level} id="{anchor(text)}">{html.escape(text)}</h{level}>'


def anchor(text: str) -> str:
    """The name by which a heading is linked to."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def contents(titles: Iterable[str]) -> str:
    """A list of links to headings."""
    links = "".join(f'<li><a href="#{anchor(title)}">{html.escape(title)}</a></li>' for title in titles)
    return f"<nav><ul>{links}</ul></nav>"


def table(
    data: pd.DataFrame,
    classes: Mapping[str, str] | None = None,
    cells: Mapping[str, Callable[..., str]] | None = None,
) -> str:
    """A table without its index.

    Args:
        data: its cells are escaped.
        classes: the style class of a cell by its text.
        cells: functions that write a column's cells as HTML, in place of escaping.
    """
    rows = ["<tr>" + "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in data.columns) + "</tr>"]
    for row in data.to_dict("records"):
        written = []
        for name, value in row.items():
            text = cells[str(name)](value) if cells and name in cells else html.escape(_text(value))
            look = (classes or {}).get(_text(value), "")
            written.append(f'<td class="{look}">{text}</td>' if look else f"<td>{text}</td>")
        rows.append(f"<tr>{''.join(written)}</tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _text(value: object) -> str:
    return "" if value is None or value != value else f"{value:.4g}" if isinstance(value, float) else str(value)


def details(summary: str, parts: Iterable[str]) -> str:
    """What is shown when its summary is clicked."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def markdown(text: str) -> str:
    """The small part of Markdown that this project's sentences use: paragraphs, lists, bold, italics and code."""
    blocks = []
    for block in re.split(r"\n\s*\n", html.escape(text, quote=False).strip()):
        lines: list[str] = []
        items: list[str] = []
        for line in block.splitlines():
            if line.startswith("- "):
                items.append(line[2:])
            elif items:
                items[-1] += f" {line.strip()}"
            else:
                lines.append(line)
        blocks += [f"<p>{_inline(' '.join(lines))}</p>"] if lines else []
        blocks += [f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"] if items else []
    return "\n".join(blocks)


def _inline(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"\*(.+?)\*", r"<i>\1</i>", text)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def picture(figure: Figure, title: str) -> str:
    """A figure as an image within the page."""
    from evomal_paper.plots.style import render

    return embedded(render(figure, "png", dpi=120), title)


def embedded(png: bytes, title: str, caption: str = "") -> str:
    """A PNG file's bytes as an image within the page."""
    data = base64.b64encode(png).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">{below}</figure>'


def formula(loss: Loss) -> str:
    """A loss's formula as MathML, which browsers typeset by themselves; its name if it has no closed one."""
    from sympy.printing.mathml import mathml

    from evomal_core.symbolic import rounded

    try:
        text = mathml(rounded(loss.sympy()), printer="presentation")
    except TypeError:
        return html.escape(f"a network of {loss.size} weights")
    text = re.sub(
        "<mn>-([^<]*)</mn>", r"<mrow><mo>−</mo><mn>\1</mn></mrow>", text.replace("<mo>-</mo>", "<mo>−</mo>")
    )
    return f'<math display="inline" displaystyle="true">{text}</math>'
