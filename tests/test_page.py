"""The comparison as one HTML file."""

import os
import re
import shutil
import subprocess
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_cells import write_alexnet, write_cell

from headswap.compare.outputs import write_comparison
from headswap.compare.page import write_page
from headswap.errors import UserError
from headswap.params import Cell

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """What a page loads, and its text outside of scripts."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.text, self.script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.script = tag in ("script", "style")
        names = ("src", "href") if tag == "link" else ("src",)
        self.loaded += [value for name, value in attributes if name in names]

    def handle_endtag(self, tag):
        self.script = False

    def handle_data(self, data):
        if not self.script:
            self.text.append(data)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Return a folder with a comparison; alexnet-frozen has one image wrong."""
    folder, before = tmp_path_factory.mktemp("comparison"), Path.cwd()
    os.chdir(folder)
    params = write_alexnet(30)
    correct = np.ones((2, 30), dtype=bool)
    correct[:, 3] = False
    write_cell(Cell("alexnet", "frozen"), correct)
    write_comparison(params)
    os.chdir(before)
    return folder


@pytest.fixture
def compared(comparison, tmp_path, monkeypatch):
    """Let the test run in a copy of the comparison's folder."""
    monkeypatch.chdir(shutil.copytree(comparison, tmp_path / "copy"))


def test_the_page_needs_no_other_file_and_holds_the_report(compared):
    write_page(Path("report.html"))
    text = Path("report.html").read_text()
    page = Page(text)
    assert page.loaded and all(value.startswith("data:") for value in page.loaded)
    assert len(text) < 3e6
    table = pd.read_csv("metrics/comparison.csv")
    shown = "\n".join(page.text)
    for row in table.itertuples():
        assert f"{100 * row.last_val_accuracy_mean:.1f}" in shown and row.cell in shown
    report = Path("metrics/comparison.md").read_text()
    plots = [Path(path).stem for path in re.findall(r"!\[.*?\]\((.*?)\)", report)]
    assert len(plots) > 5 and set(plots) - {"gallery"} <= set(re.findall(r'id="(\w+)"', text))
    (part,) = re.findall(r"<summary>alexnet-frozen: (.*?)</details>", text, re.DOTALL)
    assert part.startswith("1 image<") and "<td>bees/003.jpg</td>" in part and "<td>2</td>" in part
    assert text.index("The photographs that were wrong") < text.index(part)
    assert text.index(part) < text.index("<h2>Cautions")


def test_names_are_no_markup(compared):
    path = Path("plots/predictions/alexnet-frozen.csv")
    path.write_text(path.read_text().replace("ants", "<script>alert(1)</script>"))
    report = Path("metrics/comparison.md")
    report.write_text(f"{report.read_text()}\n\n<script>alert(2)</script>\n")
    write_page(Path("report.html"))
    assert not re.search(r"<script>\s*alert", Path("report.html").read_text())


def test_the_title_is_the_projects_folder_and_the_date(compared):
    write_page(Path("report.html"))
    title = f"<h1>{Path.cwd().name}: comparison</h1>\n<p>{date.today().day} "
    assert title in Path("report.html").read_text()


@pytest.mark.parametrize(
    "name", ["metrics/comparison.md", "plots/comparison/costs.json", "plots/predictions"]
)
def test_what_is_missing_is_reported_with_the_command_that_makes_it(compared, name):
    shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    with pytest.raises(UserError, match=f"There is no {name}.*\n"):
        write_page(Path("report.html"))
    assert not Path("report.html").exists()


def test_cells_without_a_finished_run_have_no_list_of_wrong_images(compared):
    for mode in ("finetune", "frozen", "probe"):
        write_cell(Cell("alexnet", mode), np.empty((0, 30)), diverged=3)
    write_page(Path("report.html"))
    assert "<details>" not in Path("report.html").read_text()


def test_of_many_wrong_images_the_page_says_how_many_it_leaves_out(compared, monkeypatch):
    monkeypatch.setattr("headswap.compare.page.MOST_WRONG", 3)
    write_cell(Cell("alexnet", "frozen"), np.zeros((2, 30)))
    write_page(Path("report.html"))
    (part,) = re.findall(
        r"<summary>alexnet-frozen: (.*?)</details>", Path("report.html").read_text(), re.DOTALL
    )
    assert part.startswith("30 images<") and part.count("<td>2</td>") == 3
    assert "and 27 more rows: <code>plots/predictions/alexnet-frozen.csv<" in part


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_without_a_network_draws_all_plots_as_wide_as_the_window(
    compared, tmp_path, width
):
    write_page(Path("report.html"))
    measure = "document.title = document.documentElement.scrollWidth <= innerWidth"
    script = f"<script>setTimeout(() => {measure}, 9000)</script>"
    with Path("report.html").open("a") as page:
        page.write(script)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}/chromium"]
    command += [f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom"]
    command.append(str(Path("report.html").absolute()))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>true</title>" in done.stdout
    plots = done.stdout.split('<span class="plot"')[1:]
    sizes = [re.search(r'<svg.*?style="width: ([\d.]+)px', plot, re.DOTALL) for plot in plots]
    widths = [float(size[1]) for size in sizes]
    assert len(plots) > 5 and width * 0.4 < min(widths) and max(widths) <= width
    assert "On the validation images, at the last epoch of each run" in plots[0]
    assert not re.search(r':CONSOLE[^"]*"(?!WARN)', done.stderr)
