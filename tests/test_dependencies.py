"""Whatever can change an output is a dependency of its stage, or part of its runs' cache key."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_of, edit, enter, project
from ruamel.yaml import YAML

from headswap import params
from headswap.io import sha256
from headswap.runs.keys import cache_key, code_digest
from headswap.runs.provenance import machine

HARMLESS = {
    "headswap": "loads a trained network for users; no stage calls it",
    "headswap.__main__": "chooses the copy of the package",
    "headswap.cli": "reads arguments, calls one function of a wing, prints",
    "headswap.compare": "empty",
    "headswap.compare.versions": "a note on the terminal (and `compare` depends on its folder)",
    "headswap.download": "what it brings is verified by its digest",
    "headswap.errors": "the text of messages",
    "headswap.paths": "DVC looks for outputs at the same paths, and fails a stage without them",
    "headswap.progress": "the display",
    "headswap.snapshot": "it can only fail a stage",
}
"""Modules that no stage depends on, and why they cannot change an output."""

VERIFIED_LATER = {"fetch": ["io.py", "params.py"]}
"""What a stage uses besides, whose output the next stage verifies."""

STAGES = {
    "fetch": ("fetch",),
    "verify": ("verify",),
    "weights": ("weights", "tiny"),
    "embed": ("embed", "tiny"),
    "train": ("train", "tiny", "finetune"),
    "probe": ("probe", "tiny"),
    "compare": ("compare",),
}
"""For each stage the arguments of its command."""
WITH_A_CLOCK = ("timing", "comparison.", "claims", "costs", "time.")
"""Parts of the names of outputs that depend on measured times."""


def headswap(*arguments, source=ROOT / "src", **variables):
    """Run a command of a copy of the package; return its standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "headswap", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source), **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def run_all(source, **variables):
    """Run all stages; return for each what it printed on standard error."""
    printed = {}
    for stage, arguments in STAGES.items():
        printed[stage] = headswap(*arguments, source=source, **variables)
        if stage == "train":
            printed[stage] += headswap("train", "tiny", "frozen", source=source, **variables)
    return printed


def dependencies(stage):
    """Return the paths under src that a stage depends on."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    return [
        dependency.removeprefix("${code}/")
        for dependency in stages[stage]["deps"]
        if dependency.startswith("${code}/")
    ]


def outputs():
    """Return the digests of all files that a stage wrote and that have no clock in them."""
    folders = ("data/images", "data/weights", "data/embeddings", "metrics", "models", "plots")
    paths = [path for folder in folders for path in Path(folder).rglob("*.*") if path.is_file()]
    named = {path.as_posix(): path for path in [*paths, *Path("data").glob("*.zip")]}
    return {
        name: sha256(path)
        for name, path in sorted(named.items())
        if not any(word in name for word in WITH_A_CLOCK)
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Run all stages in a project of its own; return it, and what they printed."""
    folder = project(tmp_path_factory.mktemp("once") / "project")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        printed = run_all(ROOT / "src", PYTHONPROFILEIMPORTTIME="1", PYTHONHASHSEED="1")
    return folder, printed


@pytest.mark.slow
def test_every_module_that_a_stage_imports_is_a_dependency_or_harmless(once):
    missing = {}
    for stage, lines in once[1].items():
        modules = set(re.findall(r"\| +(headswap[\w.]*)$", lines, re.MULTILINE))
        assert {"headswap.cli", "headswap.io"} <= modules
        allowed = dependencies(stage) + VERIFIED_LATER.get(stage, [])
        for module in modules - HARMLESS.keys():
            path = module.removeprefix("headswap.").replace(".", "/")
            if not any(path == d.removesuffix(".py") or path.split("/")[0] == d for d in allowed):
                missing.setdefault(stage, []).append(module)
    assert missing == {}


@pytest.mark.slow
def test_neither_harmless_modules_nor_the_hash_seed_change_an_output(once, tmp_path, monkeypatch):
    monkeypatch.chdir(once[0])
    expected, order = outputs(), order_of_keys()
    assert len(expected) > 30 and len(order) > 5
    enter(project(tmp_path / "changed"), monkeypatch)
    change_harmless_modules(Path("src/headswap"))
    run_all(Path("src").absolute(), PYTHONHASHSEED="2")
    found = outputs()
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert order_of_keys() == order


def order_of_keys():
    """Return the keys of all files with a clock in them, in their order."""
    paths = [path for path in Path("metrics").rglob("*.json")] + [
        path for path in Path("plots/comparison").glob("*.json")
    ]
    return {
        path.as_posix(): re.findall(r'"(\w+)":', path.read_text())
        for path in sorted(paths)
        if any(word in path.as_posix() for word in WITH_A_CLOCK)
    } | {"table": Path("metrics/comparison.csv").read_text().splitlines()[0]}


def change_harmless_modules(package):
    """Let the harmless modules return other texts, and show nothing."""

    for name in ("cli.py", "errors.py"):
        (package / name).write_text(
            re.sub(r"(?<![.\w])print\(", "(lambda *_: 0)(", (package / name).read_text())
        )
    with (package / "errors.py").open("a") as file:
        file.write("\n\ndef bulleted(lines, limit=20):\n    return 'changed'\n")
    with (package / "progress.py").open("a") as file:
        file.write(
            "\n\n@contextlib.contextmanager\ndef progress(total, unit):\n"
            "    yield lambda name, message: None\n"
        )
    for name, text in {
        "download.py": "TIMEOUT, RETRIES = (1, 1), 0",
        "snapshot.py": "_compare = lambda before, after: None",
        "compare/versions.py": "def outdated(cells):\n    return {'changed': ['no cell']}",
    }.items():
        with (package / name).open("a") as file:
            file.write(f"\n\n{text}\n")


def test_comments_docstrings_and_format_do_not_change_the_code_digest(tmp_path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    for path in [*package.glob("train/**/*.py"), *package.glob("images/**/*.py")]:
        text = path.read_text().replace('"""', '"""Other words. ', 1)
        path.write_text(text.replace("\n\n\n", "\n\n\n\n# A comment.\n") + "\n# The end.\n")
    assert code_digest(package) == before


@pytest.mark.parametrize(
    "path",
    sorted(
        path.relative_to(ROOT / "src/headswap").as_posix()
        for wing in ("train", "images")
        for path in (ROOT / "src/headswap" / wing).rglob("*.py")
    ),
)
def test_a_statement_in_any_module_of_the_training_changes_the_code_digest(tmp_path, path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    (package / path).write_text((package / path).read_text() + "\nOTHER = 1\n")
    assert code_digest(package) != before


def test_a_new_module_changes_the_code_digest_and_one_of_the_comparison_does_not(tmp_path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    (package / "compare/new.py").write_text("NEW = 1\n")
    assert code_digest(package) == before
    (package / "train/new.py").write_text("NEW = 1\n")
    assert code_digest(package) != before


def copy_package(folder):
    return shutil.copytree(ROOT / "src/headswap", folder / "headswap")


@pytest.fixture
def ready(once, tmp_path, monkeypatch):
    """Return a project in which all stages ran."""
    return copy_of(once[0], tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_cache_key_is_computed_without_torch(ready):
    edit(device="cpu")
    script = (
        "import sys; from headswap import params; from headswap.runs.keys import cache_key;"
        "key = cache_key(params.Cell('tiny', 'frozen'), params.load());"
        "sys.exit('torch' in sys.modules or key['device'] != 'cpu')"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"image": params.Image(size=32, resize=40)},
        {"train": params.Recipe(epochs=1, batch_size=4, lr=1.0, momentum=0, lr_step=1, lr_gamma=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_parameters_of_a_cell_are_part_of_its_cache_key(ready, change):
    loaded, cell = params.load(), params.Cell("tiny", "frozen")
    key = cache_key(cell, loaded)
    assert cache_key(cell, loaded) == key
    assert cache_key(cell, loaded.model_copy(update=change)) != key
    assert cache_key(cell, loaded.model_copy(update={"seeds": [7]})) == key


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_what_a_benchmark_imports_exists(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("headswap"):
            for name in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def test_only_edited_code_marks_a_revision_as_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("src").mkdir()
    for name in ("src/code.py", "params.yaml"):
        Path(name).write_text("1\n")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "First"]):
        subprocess.run(["git", *words], check=True)
    Path("params.yaml").write_text("2\n")
    assert not machine()["dirty"]
    Path("src/code.py").write_text("2\n")
    assert machine()["dirty"]
