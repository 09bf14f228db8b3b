"""A notebook in JupyterLab in a browser: its cells run, formulas are typeset, and a slider changes its picture."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from test_notebooks import SMOKE, in_seconds

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    pytest.mark.filterwarnings("ignore"),  # of Jupyter's and Playwright's own packages
]
MINUTES = 12 * 60_000
RUN_ALL = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget
    await panel.context.ready
    await panel.sessionContext.ready
    const late = new Promise((_, refuse) => setTimeout(() => refuse(Error('the cells did not end')), MINUTES))
    await Promise.race([app.commands.execute('notebook:run-all-cells'), late])
    return panel.content.model.toJSON().cells.flatMap(cell => cell.outputs ?? [])
        .filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue)
}""".replace("MINUTES", str(MINUTES))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab in an empty folder: its address, and the folder."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    whole = folder / ".s" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"windowingMode": "none"}')  # cells out of sight are there, too
    settings.append(f"--LabApp.user_settings_dir={folder / '.s'}")
    app = ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly", "--LabApp.news_url="]
    with subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *settings, *app, f"--ServerApp.root_dir={folder}"],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "EVOMAL_KERNELS": "0", "JUPYTER_CONFIG_DIR": str(folder / ".j")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(3000):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            time.sleep(0.2)
        yield address, folder
        server.terminate()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(lab, browser, name: str):
    """A page with a copy of a notebook, all of whose cells were run."""
    address, folder = lab
    given = {"results_dir": str(folder / "results"), **SMOKE[name]}
    nbformat.write(parameterize_notebook(load_notebook_node(in_seconds(name)), given), folder / f"{name}.ipynb")
    page = browser.new_page()
    page.set_default_timeout(MINUTES)
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    assert page.evaluate(RUN_ALL) == []
    return page


def test_the_quickstart_runs_and_shows_its_tables_pictures_and_formulas(lab, browser):
    page = opened(lab, browser, "01_quickstart")
    pictures = page.locator(".jp-OutputArea-output img")
    assert pictures.count() == 4
    assert all(picture.evaluate("image => image.naturalWidth") > 200 for picture in pictures.all())
    assert page.locator(".jp-OutputArea-output table").count() >= 2
    typeset(page)
    page.close()


def typeset(page) -> None:
    """Wait until formulas are typeset; none may be wrong."""
    page.wait_for_selector("mjx-container", state="attached")
    assert page.locator("mjx-merror").count() == 0


def test_the_explorers_slider_changes_its_picture(lab, browser):
    page = opened(lab, browser, "11_learned_losses")
    handle = page.locator("[role=slider]").last
    handle.scroll_into_view_if_needed()
    picture = page.locator("img.widget-image")
    before = picture.get_attribute("src")
    handle.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('img.widget-image').src !== before",
        arg=before,
    )
    typeset(page)
    page.close()
