"""Whatever can change an output is a dependency of its stage, or part of its runs' cache key."""

import ast
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import grimp
import pytest
from conftest import ROOT, edit, enter, headswap, project, sh, train_all
from ruamel.yaml import YAML

from headswap import cli, params
from headswap.io import sha256
from headswap.runs.provenance import cache_key, code_digest, machine

HARMLESS = {
    "headswap": "loads a trained network for users; no stage calls it",
    "headswap.__main__": "chooses the copy of the package",
    "headswap.cli": "reads arguments, calls one function of a subpackage, prints",
    "headswap.compare": "empty",
    "headswap.compare.versions": "a note on the terminal (and `compare` depends on its folder)",
    "headswap.download": "what it brings is verified by its digest",
    "headswap.dvc": "it asks which weights are to be written, and lets DVC record them",
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
ITEM = {"model": "tiny", "mode": "finetune"}
OTHER = {
    "dataset": {"url": "photos", "manifest": "data/other.csv"},
    "models": ["tiny", "alexnet"],
    "modes": ["frozen"],
    "seeds": [7],
    "weights": "imagenet",
    "train": {
        **{"epochs": 9, "batch_size": 4, "lr": 0.5, "momentum": 0.1, "lr_step": 1, "flip": False},
        **{"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup_epochs": 1},
        **{"label_smoothing": 0.1, "class_weights": "balanced", "head": "probe"},
    },
    "recipes": {"other": {"lr": 0.25}},
    "image": {"size": 48, "resize": 80, "fit": "pad", "shrink": False},
    "precision": "bfloat16",
}
"""Another value of each parameter that has one here; weights carry what depends on `factories`."""


def declared(stage):
    """Return what dvc.yaml declares for a stage of `ITEM`."""
    entry = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]

    def filled(path):
        path = next(iter(path)) if isinstance(path, dict) else path
        for name, value in ITEM.items():
            path = path.replace(f"${{item.{name}}}", value)
        return path.replace("${dataset.manifest}", "data/manifest.csv")

    paths = [filled(path) for path in entry["deps"]]
    paths = [path.removesuffix("/index.csv") for path in paths]  # it has the photographs' digests
    code = [path.removeprefix("${code}/") for path in paths if path.startswith("${code}/")]
    outs = [filled(path) for path in [*entry.get("outs", []), *entry.get("metrics", [])]]
    return SimpleNamespace(
        code=code,
        files=[path for path in paths if not path.startswith("${code}/")],
        outs=outs,
        params=entry.get("params", []),
    )


def digests(paths):
    """Return the digests of files, and of those in folders, that have no clock in them."""
    found = [
        f for path in map(Path, paths) for f in ([path] if path.is_file() else path.rglob("*.*"))
    ]
    return {
        file.as_posix(): sha256(file)
        for file in sorted(found)
        if file.is_file() and not any(word in file.as_posix() for word in WITH_A_CLOCK)
    }


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("headswap", exclude_type_checking_imports=True)


def reached(graph, stage):
    """Return the modules that the command of a stage uses, directly or not, early or late."""
    code = ast.parse(Path(cli.__file__).read_text())
    functions = {node.name: node for node in code.body if isinstance(node, ast.FunctionDef)}
    names, todo, modules = {stage, "_print_changes"}, [stage], set()  # that one prints a note
    while todo:
        for node in ast.walk(functions[todo.pop()]):
            if isinstance(node, ast.Name) and node.id in functions.keys() - names:
                names.add(node.id)
                todo.append(node.id)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in graph.modules:
                modules.add(ast.unparse(node))
    while True:
        found = modules.union(*(graph.find_upstream_modules(module) for module in modules))
        for module in found:  # those that are named by strings
            text = Path(importlib.util.find_spec(module).origin).read_text()
            found = found | set(re.findall(r'"(headswap[\w.]+):\w+"', text))
        if found == modules:
            return modules
        modules = found


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_imports_is_a_dependency_or_harmless(imports, stage):
    allowed = declared(stage).code + VERIFIED_LATER.get(stage, [])
    modules = reached(imports, stage) - HARMLESS.keys()
    assert modules
    paths = {module.removeprefix("headswap.").replace(".", "/") for module in modules}
    assert not [
        path for path in paths if path.split("/")[0] not in allowed and f"{path}.py" not in allowed
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_the_files_and_parameters_that_it_declares_and_no_others(
    own_trained, no_pictures, tmp_path, monkeypatch, stage
):
    if stage == "compare":
        headswap("compare")
    needs = declared(stage)
    expected = digests(needs.outs)
    assert expected
    parameters = YAML(typ="safe").load(Path("params.yaml"))
    for path in map(Path, {*needs.files, "dvc.yaml", "networks"}):
        target = tmp_path / "alone" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    monkeypatch.chdir(tmp_path / "alone")
    for name, value in OTHER.items():
        if name in needs.params:
            continue
        if isinstance(value, dict):
            kept = {key for key in value if f"{name}.{key}" in needs.params}
            parameters[name] |= {key: value[key] for key in value.keys() - kept}
        elif stage != "check":
            parameters[name] = value
    if "modes" not in needs.params and stage == "train":
        parameters["modes"] = ["finetune"]
    YAML().dump(parameters, Path("params.yaml"))
    headswap(*STAGES[stage])
    assert digests(needs.outs) == expected


def outputs():
    return digests(["data", "metrics", "models", "plots"])


@pytest.mark.slow
def test_neither_harmless_modules_nor_the_hash_seed_change_an_output(
    workspace, tmp_path, monkeypatch
):
    train_all()
    headswap("compare")
    expected, order = outputs(), order_of_keys()
    assert len(expected) > 30 and len(order) > 5
    enter(project(tmp_path / "changed"), monkeypatch)
    change_harmless_modules(Path("src/headswap"))
    *before, compare = STAGES.values()
    for arguments in (*before, ("train", "tiny", "frozen"), compare):
        sh("python", "-m", "headswap", *arguments, PYTHONHASHSEED="2")
    assert "changed" in Path("metrics/comparison.md").read_text()
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
    for module, name, value in (
        ("errors", "bulleted", "lambda lines, limit=20: 'changed'"),
        ("progress", "progress", "lambda *_: contextlib.nullcontext(lambda *_: None)"),
        ("download", "RETRIES", "0"),
        ("snapshot", "unchanged", "lambda *_, **__: contextlib.nullcontext()"),
        ("compare.versions", "outdated_cells", "lambda cells: {'changed': ['no cell']}"),
    ):
        assert hasattr(importlib.import_module(f"headswap.{module}"), name)
        with (package / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(f"\n\n{name} = {value}\n")


def test_comments_docstrings_and_format_do_not_change_the_code_digest(tmp_path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    for path in [*package.glob("train/**/*.py"), *package.glob("images/**/*.py")]:
        text = path.read_text().replace('"""', '"""Other words. ', 1)
        path.write_text(text.replace("\n\n\n", "\n\n\n\n# A comment.\n") + "\n# The end.\n")
    assert code_digest(package) == before


def test_a_statement_in_any_module_of_the_training_changes_the_code_digest(tmp_path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    paths = [*package.glob("train/**/*.py"), *package.glob("images/**/*.py")]
    assert len(paths) > 10
    for path in paths:
        text = path.read_text()
        path.write_text(text + "\nOTHER = 1\n")
        assert code_digest(package) != before, path
        path.write_text(text)
    assert code_digest(package) == before


def test_a_new_module_changes_the_code_digest_and_one_of_the_comparison_does_not(tmp_path):
    package = copy_package(tmp_path)
    before = code_digest(package)
    (package / "compare/new.py").write_text("NEW = 1\n")
    assert code_digest(package) == before
    (package / "train/new.py").write_text("NEW = 1\n")
    assert code_digest(package) != before


def copy_package(folder):
    return shutil.copytree(ROOT / "src/headswap", folder / "headswap")


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"device": "cuda"},
        {"image": {"size": 32}},
        {"image": {"resize": 80}},
        *({"train": {name: value}} for name, value in OTHER["train"].items()),
        "an image",
        "data/weights/tiny.safetensors",
    ],
    ids=str,
)
def test_what_a_run_depends_on_is_part_of_its_cache_key(prepared, change):
    cell = params.Cell("tiny", "frozen")
    key = cache_key(cell, params.load())
    edit(seeds=[7])
    assert cache_key(cell, params.load()) == key
    if isinstance(change, dict):
        edit(**change)
    elif change == "an image":
        index = Path("data/images/index.csv")
        sha256 = index.read_text().splitlines()[1].split(",")[-1]
        index.write_text(index.read_text().replace(sha256, "0" * 64))
    else:
        replace_last_byte(change)
    assert cache_key(cell, params.load()) != key


def test_the_features_are_part_of_the_cache_key_of_a_probe(prepared):
    cell = params.Cell("tiny", "probe")
    key = cache_key(cell, params.load())
    edit(train={"lr": 0.5}, seeds=[7])
    assert cache_key(cell, params.load()) == key
    replace_last_byte("data/embeddings/tiny.safetensors")
    assert cache_key(cell, params.load()) != key


def replace_last_byte(path):
    """Let a file have another last character."""
    content = Path(path).read_bytes()
    end = len(content.rstrip()) - 1
    Path(path).write_bytes(content[:end] + bytes([content[end] ^ 1]) + content[end + 1 :])


def test_what_a_benchmark_imports_exists():
    for path in (ROOT / "benchmarks").glob("*.py"):
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
