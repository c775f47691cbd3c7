"""DVC runs the stages that a change affects and no others; end to end, on synthetic images."""

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import vl_convert
from conftest import BIN, ROOT, edit, enter, headswap, project, results, sh

pytestmark = pytest.mark.slow
MODES = ("frozen", "probe")


def repro(*arguments):
    """Run `dvc repro`; return the names of the stages whose commands ran."""
    output = sh("dvc", "repro", *arguments)
    return set(re.findall(r"Running stage '([^']+)'", output))


def commit(message):
    sh("git", "add", "--all")
    sh("git", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Return a repository in which everything ran once."""
    folder = project(tmp_path_factory.mktemp("pipeline") / "project")
    shutil.copy(ROOT / ".gitattributes", folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        edit(modes=["frozen"])
        sh("git", "init", "--quiet", "--initial-branch", "main")
        sh("git", "config", "user.email", "test@example.com")
        sh("git", "config", "user.name", "Test")
        assert repro() == {
            *("check", "fetch", "verify", "weights@tiny", "embed@tiny"),
            *("train@tiny-frozen", "probe@tiny", "compare"),
        }
        commit("First results")
        yield folder


@pytest.fixture(autouse=True)
def clean(reproduced):
    """Start every test from the committed state."""
    sh("git", "checkout", "--quiet", "--force", "main")
    sh("git", "clean", "--quiet", "-d", "--force")
    sh("dvc", "checkout", "--quiet", "--force")


def test_one_command_writes_the_weights_of_all_networks_and_dvc_finds_them():
    edit(models=["tiny", "other"], factories=dict.fromkeys(["tiny", "other"], "my_networks:tiny"))
    tiny, other = (f"data/weights/{name}.safetensors is written" for name in ("tiny", "other"))
    written = headswap("weights")[0]
    assert tiny in written and other in written
    assert repro("weights") == set()
    Path("data/weights/other.safetensors").unlink()
    written = headswap("weights")[0]
    assert tiny not in written and other in written
    assert repro("weights") == set()


def test_weights_are_not_recorded_if_their_parameters_were_edited_meanwhile(monkeypatch):
    def write_and_edit(*arguments):
        edit(image={"size": 48})
        return "head"

    edit(image={"size": 56})
    monkeypatch.setattr("headswap.train.weights.write_weights", write_and_edit)
    assert "image.size was 56, is 48" in headswap("weights", code=1)[1]
    assert "weights@tiny" in json.loads(sh("dvc", "status", "--json", "weights"))


def test_a_second_repro_runs_nothing_and_leaves_the_tree_clean():
    assert repro() == set()
    assert sh("git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"train": {"lr": 0.002}}, {"train@tiny-frozen", "compare"}),
        ({"seeds": [0]}, {"train@tiny-frozen", "compare"}),
        ({"image": {"resize": 73}}, {"embed@tiny", "train@tiny-frozen"}),
        ({"precision": "bfloat16"}, {"embed@tiny", "train@tiny-frozen", "probe@tiny"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_parameter_makes_those_stages_stale_that_depend_on_it(changes, stages):
    edit(**changes)
    assert repro("--dry") == {"check"} | stages


def test_an_edited_network_is_seen_by_dvc_and_trained_anew():
    module = Path("networks/my_networks.py")
    before = module.read_text()
    module.write_text(before + "\n# A comment.\n")
    assert "weights@tiny" in sh("dvc", "status")
    assert not repro() & {"embed@tiny", "train@tiny-frozen", "probe@tiny"}
    module.write_text(before.replace("nn.ReLU()", "nn.Sigmoid()"))
    assert {"embed@tiny", "train@tiny-frozen", "probe@tiny"} < repro()
    module.write_text(before)
    repro()


def test_an_edit_to_the_comparison_retrains_nothing():
    module = Path("src/headswap/compare/comparison.py")
    module.write_text(module.read_text() + "\n# A remark.\n")
    assert repro("--dry") == {"compare"}


def test_the_queue_trains_what_the_stages_then_collect_and_dvc_knows_what_was_before():
    Path("runs").rename("kept")  # as in a clone that pulled the results
    assert "0 runs" in sh("headswap", "runs")
    edit(train={"lr": 0.002})
    planned = sh("headswap", "runs", "--dry-run").splitlines()
    assert planned[:-1] == ["tiny-frozen seed 0", "tiny-frozen seed 1"]
    assert planned[-1].startswith("2 runs to train")
    assert not list(Path("runs").rglob("run.json"))
    output = sh("headswap", "runs", "tiny-frozen")
    assert "seed 1: epoch 3/3" in output and "(2/2 runs" in output
    assert "0 runs" in sh("headswap", "runs")
    collected = sh("dvc", "repro")
    assert not re.search(r"seed \d: epoch", collected) and "'train@tiny-frozen'" in collected
    by_queue = results()
    shutil.rmtree("runs")
    headswap("train", "tiny", "frozen")
    assert results() == by_queue
    edit(train={"lr": 0.01})
    assert "train@tiny-frozen" not in repro()
    assert sh("git", "status", "--porcelain", "metrics/summary.json", "plots") == ""
    shutil.rmtree("runs")
    Path("kept").rename("runs")


def test_the_queue_computes_features_and_says_which_stages_it_waits_for():
    edit(image={"size": 56, "resize": 73})
    message = sh("headswap", "runs", code=1)
    assert "Not up to date: weights@tiny." in message
    (command,) = re.findall("Run first: (.*)", message)
    sh(*command.split())
    planned = sh("headswap", "runs", "--dry-run")
    assert "tiny features 0" in planned and "2 runs to train" in planned
    assert "tiny features 0: part" in sh("headswap", "runs", "tiny-probe")
    assert "features" not in sh("dvc", "repro", "embed@tiny", "probe@tiny")


def test_probes_alone_are_a_pipeline():
    edit(modes=[])
    assert repro() == {"check", "compare"}
    assert "tiny-frozen" not in Path("metrics/comparison.csv").read_text()


def test_a_new_model_trains_its_own_cells_and_a_removed_one_leaves_no_trace(tmp_path):
    sh("git", "checkout", "--quiet", "-B", "other-models")
    factories = {"tiny": "my_networks:tiny", "second": "my_networks:tiny"}
    edit(models=["tiny", "second"], factories=factories)
    ran = repro()
    assert {name for name in ran if "second" in name} == {
        *("weights@second", "embed@second", "train@second-frozen", "probe@second")
    }
    assert not ran & {"embed@tiny", "train@tiny-frozen", "probe@tiny"}
    written = ("metrics/summary.json", "metrics/comparison.csv", "plots/comparison/curves.json")
    assert all("second-frozen" in Path(name).read_text() for name in written)
    edit(models=["second"])
    assert repro() == {"check", "compare"}
    outputs = [*Path("metrics").glob("*.*"), *Path("plots/comparison").glob("*.json")]
    assert not [path for path in outputs if "tiny-" in path.read_text()]
    assert repro() == set()
    commit("Without the other model")
    sh("dvc", "remote", "add", "--local", "--default", "remote", str(tmp_path / "remote"))
    sh("dvc", "push", "--quiet")
    sh("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    there = {"cwd": tmp_path / "clone"}
    sh("dvc", "remote", "add", "--local", "--default", "remote", str(tmp_path / "remote"), **there)
    sh("dvc", "pull", "--quiet", **there)
    assert "up to date" in sh("dvc", "status", **there)


def test_an_edited_comment_downloads_and_trains_nothing():
    archive = Path("data/archive.zip").read_bytes()
    edit(dataset={"url": "http://127.0.0.1:9/images.zip", "manifest": "mine.csv"})
    with zipfile.ZipFile("data/archive.zip") as file:
        Path("mine.csv").write_bytes(file.read("manifest.csv"))
    output = sh("dvc", "repro")
    assert "nothing to download" in output
    for wing in ("data/verify.py", "images/reading.py", "train/loop.py"):
        module = Path("src/headswap", wing)
        module.write_text(module.read_text() + "\n# A comment.\n")
    output = sh("dvc", "repro")
    assert {"fetch", "weights@tiny", "train@tiny-frozen"} <= set(
        re.findall(r"Running stage '([^']+)'", output)
    )
    assert "epoch 1/" not in output
    assert Path("data/archive.zip").read_bytes() == archive


PICTURES = (
    *("accuracy", "differences", "curves", "confusion"),
    *("time", "costs", "reliability", "frontier", "unsure"),
)
LEAST = dict.fromkeys(PICTURES, 3) | {"differences": 1, "time": 2, "unsure": 2}
"""Marks of data: of the one pair of cells an interval and its middle, of time a point a cell."""


def pictures_of(page):
    """Return the specification of each picture of a page that DVC wrote, by its name."""
    drawn = re.findall(r"var spec = (.*);\n\s*vegaEmbed\('#(\w+)'", page)
    return {name: json.loads(spec) for spec, name in drawn}


def marks(svg):
    """Count the marks of data, neither axes nor legends, in a drawing."""
    groups = re.split(r'class="mark-', svg)[1:]
    return sum(
        group.count("<path") + group.count("<text") for group in groups if "role-mark" in group
    )


@pytest.fixture(scope="module")
def page(reproduced):
    sh("dvc", "plots", "show")
    return Path("dvc_plots/index.html").absolute()


def test_plots_show_draws_every_plot_offline(page):
    text = page.read_text()
    assert not re.search(r"<script[^>]+src=|<link", text)
    pictures = pictures_of(text)
    assert set(pictures) == set(PICTURES)
    for name, spec in pictures.items():
        assert marks(vl_convert.vegalite_to_svg(spec)) >= LEAST[name], name
        for cell in ("tiny-frozen", "tiny-probe")[: 1 if name == "curves" else 2]:
            assert cell in json.dumps(spec)
    assert "gallery" in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_without_network_draws_every_plot(page):
    browser = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
    browser += ("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000")
    shown = sh(*browser, "--dump-dom", f"file://{page}")
    body = shown[shown.rindex("<body>") :]
    plots = dict(re.findall(r'<div id="(\w+)"(.*?)(?=<div id=|$)', body, re.DOTALL))
    assert all(marks(plots[name]) >= LEAST[name] for name in PICTURES)


def test_a_branch_with_another_recipe_is_compared_in_metrics_and_in_every_picture():
    sh("git", "checkout", "--quiet", "-B", "other-lr")
    edit(train={"lr": 1e-7})
    assert repro() == {"check", "train@tiny-frozen", "compare"}
    commit("Another learning rate")
    rows = json.loads(sh("dvc", "metrics", "diff", "main", "--json"))
    assert set(rows) == {"metrics/summary.json"}
    changed = set(rows["metrics/summary.json"])
    assert "tiny-frozen.last" in changed and "tiny-probe.last" not in changed
    sh("dvc", "plots", "show")
    alone = pictures_of(Path("dvc_plots/index.html").read_text())
    sh("dvc", "plots", "diff", "main")
    both = pictures_of(Path("dvc_plots/index.html").read_text())
    assert set(both) == set(PICTURES)
    for name, spec in both.items():
        assert len({row["rev"] for row in spec["data"]["values"]}) == 2, name
        ours, all_of_them = (marks(vl_convert.vegalite_to_svg(s)) for s in (alone[name], spec))
        assert all_of_them > 1.5 * ours, name


def test_an_experiment_with_a_further_seed_trains_one_run_per_cell_and_is_listed():
    changes = ("-S", "seeds=[0,1,2]", "-S", "train.lr=1e-2")  # the same as 0.01
    output = sh("dvc", "exp", "run", "--name", "more", *changes)
    trained = set(re.findall(r"^(tiny-\S+ seed \d)", output, re.MULTILINE))
    assert trained == {"tiny-frozen seed 2"}  # of a probe no seed changes anything
    listed = sh("dvc", "exp", "show", "--only-changed", "--drop", ".*/|params", "--csv")
    headings, *lines = listed.splitlines()
    assert any(line.startswith("more") for line in lines)
    figures = {f"tiny-{mode}.last" for mode in MODES}
    figures |= {"best", "expected", "expected_ci_low", "expected_ci_high"}
    columns = set(headings.split(",")) - {"Experiment", "rev", "typ", "Created"}
    assert {"seeds"} < columns <= figures | {"seeds"}


def test_a_mistake_in_the_parameters_stops_at_the_first_stage_with_one_message():
    edit(train={"lr": -1})
    output = sh("dvc", "repro", code=255)
    assert "train.lr: should be greater than 0, not -1" in output
    assert output.count("Running stage") == 1


def test_files_that_systems_leave_and_other_line_ends_make_no_stage_stale(tmp_path):
    for folder in ("data/images", "metrics/cells", "src/headswap/train", "data/published"):
        Path(folder, ".DS_Store").write_bytes(b"left by a Mac")
    assert repro() == set()
    sh("git", "clone", "--quiet", "--config", "core.autocrlf=true", ".", str(tmp_path / "clone"))
    text = (tmp_path / "clone/src/headswap/train/loop.py").read_bytes()
    assert text == Path("src/headswap/train/loop.py").read_bytes()


def test_a_temporary_experiment_runs_its_own_code_and_shares_the_runs(reproduced):
    before = len(list(Path("runs").glob("tiny-frozen/*/")))
    path = Path("src/headswap/train/loop.py")
    code = path.read_text()
    assert "loss.backward()" in code
    path.write_text(code.replace("loss.backward()", "(9 * loss).backward()"))
    sh("dvc", "exp", "run", "--temp", "--name", "faster")
    assert len(list(Path("runs").glob("tiny-frozen/*/"))) == before + 1
    assert "epoch" not in sh("headswap", "train", "tiny", "frozen")  # the edited code's runs
    assert len(list(Path("runs").glob("tiny-frozen/*/"))) == before + 1


def test_without_git_and_without_activation_stages_run(tmp_path):
    folder = project(tmp_path / "project")
    (folder / ".venv").symlink_to(BIN.parent)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    environment["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    for command in ("config --local core.no_scm true", "repro verify"):
        command = [".venv/bin/dvc", *command.split()]
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    assert (folder / "metrics/dataset.json").exists()
