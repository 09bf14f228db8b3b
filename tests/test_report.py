"""The report is one page that needs nothing else, and holds what the runs hold."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import evomal_core as em
from evomal_core import paper
from evomal_core.cli import main
from evomal_core.comparison import html_parts
from evomal_core.comparison.report import write_report

RESULTS = Path(__file__).resolve().parents[1] / "results"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds; fails where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three methods of Sine and one of Diabetes, and a figure of another notebook."""
    place = tmp_path_factory.mktemp("results")
    runs = [f"sine/quick/{method}/seed-0" for method in ("baseline", "ml3", "evomal")]
    for run in [*runs, "diabetes/quick/evomal/seed-0"]:
        shutil.copytree(RESULTS / run, place / run)
    figure = RESULTS / "sine/quick/figures/table3.png"
    (place / "landscapes/figures").mkdir(parents=True)
    shutil.copy(figure, place / "landscapes/figures/figure7.png")
    return place


@pytest.fixture(scope="module")
def text(folder):
    assert write_report(folder, folder / "report.html") == 4
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_needs_no_other_file_and_no_network(text, page):
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.of("img"))


def test_every_link_leads_to_a_heading(page):
    targets = [attributes["href"] for attributes in page.of("a")]
    identifiers = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert set(targets) <= identifiers
    assert "#sine-regression-profile-quick" in targets
    assert len(identifiers) == len([1 for _, attributes in page.tags if "id" in attributes])


def test_counts_stand_on_top_and_every_cell_below(page):
    words = " ".join(" ".join(page.words).split())
    assert "Of 227 numbers in the papers' tables: " in words
    assert words.index("Of 227 numbers") < words.index("Verdicts")
    for name in (*paper.TABLES.values(), "Claims in words", "Provenance", "Further analyses"):
        assert name in words
    for oddity in (line for lines in paper.ODDITIES.values() for line in lines):
        assert oddity.partition("`")[0].strip() in words


def test_formulas_and_provenance_of_each_run_are_there(text, page, folder):
    words = " ".join(page.words)
    assert len(page.of("math")) == 2  # EvoMAL's; the baseline and ML³ have none
    for path in folder.glob("*/*/*/seed-*/run.json"):
        record = json.loads(path.read_text())
        assert record["finished"] in words
        assert record["versions"]["commit"][:12] in words
    assert "landscapes/figures/figure7.png" in words


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = "diabetes/quick/evomal/seed-0"
    shutil.copytree(RESULTS / run, tmp_path / run)
    for name in "ab":
        write_report(tmp_path, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    assert main(["report", "--results-dir", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 2
    assert "holds no complete run, or only of the profile smoke; make some with" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_markdown_of_the_sentences():
    found = html_parts.markdown("Profile `a`, *so*.\n- **one**\n  goes on\n- two & three\n\nlast\nline")
    assert found == (
        "<p>Profile <code>a</code>, <i>so</i>.</p>\n<ul><li><b>one</b> goes on</li><li>two &amp; three</li></ul>\n"
        "<p>last line</p>"
    )


def test_tables_escape_what_they_hold_and_colour_verdicts():
    table = pd.DataFrame({"a<b": ["<i>", None, 0.123456], "v": ["reproduced", "x", "y"]})
    found = html_parts.table(table, {"reproduced": "good"})
    assert "<th>a&lt;b</th>" in found
    assert "<td>&lt;i&gt;</td>" in found
    assert '<td class="good">reproduced</td>' in found
    assert "<td></td>" in found
    assert "<td>0.1235</td>" in found


def test_a_formula_is_mathml_and_a_network_is_named():
    found = html_parts.formula(em.LearnedLoss("sub(square(sub(f, y)), 1)"))
    assert found.startswith("<math ")
    assert "<mo>−</mo>" in found
    assert ">-" not in found
    power = html_parts.formula(em.LearnedLoss("div(1, square(sub(f, y)))", phi=[1e-9, 1.0, 1.0, 1.0, 1.0]))
    assert "<msup>" in power
    assert "<mn>10</mn><mrow><mo>−</mo><mn>9</mn></mrow></msup>" in power.replace("\n", "")
    assert html_parts.formula(em.NeuralLoss()) == "a network of 2650 weights"
