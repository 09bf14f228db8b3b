"""The report is one page that needs nothing else, and holds what the runs hold."""

import errno
import json
import re
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import evomal_core as em
from evomal_paper.cli import main
from evomal_paper.comparison import html_parts, report
from evomal_paper.comparison.evidence import gather
from evomal_paper.comparison.report import write_report
from evomal_paper.published import tables as paper

RESULTS = Path(__file__).resolve().parents[2] / "results"
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


def test_it_is_as_wide_as_the_screen(page):
    assert any("width=device-width" in meta.get("content", "") for meta in page.of("meta"))
    assert all(head["scope"] == "col" for head in page.of("th"))


def test_varied_profiles_stand_beside_the_unvaried_and_have_no_section(tmp_path):
    for profile in ("paper", "paper@generations=5"):
        for seed in (0, 1):
            run = f"sine/{profile}/evomal/seed-{seed}"
            shutil.copytree(RESULTS / run, tmp_path / run)
    assert write_report(tmp_path, tmp_path / "r.html") == 4
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    headings = {attributes["id"] for attributes in page.of("h2")}
    assert "sine-regression-profile-paper" in headings
    assert not [name for name in headings if "generations" in name]
    words = " ".join(page.words)
    assert "sine, in-sample, EvoMAL: with generations=5 the median error is" in " ".join(words.split())


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
    for rule in ("counted under the fairest of them", "The first row of a claim names these profiles"):
        assert rule in words


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


def test_a_page_that_cannot_be_written_is_one_line_before_it_is_made(folder, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".r.html.x"))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(report, "_comparison", lambda *_: pytest.fail("the page was made"))
    page = tmp_path / "r.html"
    assert main(["report", "--results-dir", str(folder), "--output", str(page)]) == 2
    assert f"error: {page} can't be written: Permission denied; name another place" in capsys.readouterr().err


def test_markdown_of_the_sentences():
    found = html_parts.markdown("Profile `a`, *so*.\n- **one**\n  goes on\n- two & three\n\nlast\nline")
    assert found == (
        "<p>Profile <code>a</code>, <i>so</i>.</p>\n<ul><li><b>one</b> goes on</li><li>two &amp; three</li></ul>\n"
        "<p>last line</p>"
    )


def test_tables_escape_what_they_hold_and_colour_verdicts():
    table = pd.DataFrame({"a<b": ["<i>", None, 0.123456], "v": ["reproduced", "x", "y"]})
    found = html_parts.table(table, {"reproduced": "good"})
    assert ">a&lt;b</th>" in found
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


def _rewrite(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


BAD = {
    "a record cut short": lambda run: (run / "run.json").write_text((run / "run.json").read_text()[:400]),
    "a record without versions": lambda run: _rewrite(
        run / "run.json", lambda record: {key: record[key] for key in record if key != "versions"}
    ),
    "seconds that are none": lambda run: _rewrite(run / "run.json", lambda record: record | {"seconds": None}),
    "a folder in a file's place": lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()),
    "a table of nothing": lambda run: (run / "test.csv").write_text(""),
    "a table cut within a row": lambda run: (run / "history.csv").write_text(
        "generation,best_fitness,mean_fitness\n0,3.5,4.5\n1"
    ),
    "a lost table": lambda run: (run / "front.csv").unlink(),
    "another program's loss": lambda run: (run / "loss.json").write_text("{}"),
    "the run of another seed": lambda run: run.rename(run.with_name("seed-7")),
    "a copy": lambda run: run.rename(run.with_name("seed-01")),
}


@pytest.mark.parametrize("damage", BAD.values(), ids=BAD)
def test_a_run_that_cannot_be_read_is_left_out_with_one_line(damage, folder, tmp_path, caplog):
    place = tmp_path / "results"
    shutil.copytree(folder, place)
    bad = place / "sine/quick/evomal/seed-1"
    shutil.copytree(RESULTS / "sine/quick/evomal/seed-1", bad)
    whole = gather(place).values
    damage(bad)
    found = gather(place).values
    assert found.to_dict("records") == whole[whole["seed"] == 0].to_dict("records")
    [line] = caplog.messages
    assert line.startswith("left out: ")
    assert f"{place}/sine/quick/evomal/seed-" in line
    assert re.search("delete|move it away", line)


def test_the_report_is_written_beside_a_bad_run_and_analysis(tmp_path, capsys):
    run = "diabetes/quick/evomal/seed-0"
    for target in (run, "diabetes/quick/evomal/seed-1"):
        shutil.copytree(RESULTS / run, tmp_path / target)
    transfer = tmp_path / "transfer/sine-to-sine/quick/evomal/seed-0"
    transfer.mkdir(parents=True)
    for name in ("test.csv", "test.json"):
        (transfer / name).write_text("")
    assert main(["report", "--results-dir", str(tmp_path), "--output", str(tmp_path / "r.html")]) == 0
    assert "r.html: 1 runs" in capsys.readouterr().out
