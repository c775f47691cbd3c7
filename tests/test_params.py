"""Every mistake in params.yaml is reported with its key and the allowed values."""

import copy
import shutil
import sys

import pytest
from conftest import ROOT, sh
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from torchvision import models as networks

from headswap import params
from headswap.errors import UserError
from headswap.train.factories import torchvision_names
from headswap.train.networks import check_models

TREE = YAML(typ="safe").load(ROOT / "params.yaml")
LEAVES = [(section,) for section in TREE] + [
    (section, key) for section, value in TREE.items() if isinstance(value, dict) for key in value
]


def changed(where, value):
    tree = copy.deepcopy(TREE)
    place = tree
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return tree


def load(tree, folder):
    path = folder / "params.yaml"
    YAML(typ="safe").dump(tree, path)
    return params.load(path)


def test_the_parameters_of_the_experiment_are_valid():
    loaded = params.load(ROOT / "params.yaml")
    assert [cell.name for cell in loaded.cells()] == [
        f"{model}-{mode}"
        for model in ("alexnet", "resnet18")
        for mode in ("finetune", "frozen", "probe")
    ]
    assert (loaded.seeds, loaded.weights) == ([0, 1, 2, 3, 4], "imagenet")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("train", "epochz"), 3, "train.epochz: no such key; did you mean 'epochs'?"),
        (("modles",), [], "modles: no such key; did you mean 'modes'?"),
        (("train", "lr"), -1, "train.lr: should be greater than 0, not -1"),
        (("train", "lr"), float("nan"), "train.lr: should be a finite number, not nan"),
        (("train", "lr_gamma"), 1.5, "train.lr_gamma: should be less than or equal to 1"),
        (("train",), 3, "train: should have its keys in lines below it, not 3"),
        (("train", 3), 3, "train.3: no such key; allowed are epochs"),
        (("train", "epochs"), "many", "train.epochs: should be a valid integer, not 'many'"),
        (("train", "epochs"), True, "train.epochs: should be a valid integer, not True"),
        (("train", "momentum"), 1, "train.momentum: should be less than 1"),
        (("seeds",), [0, 1, 0], "seeds: lists 0 more than once"),
        (("models",), ["alexnet", "alexnet"], "models: lists 'alexnet' more than once"),
        (("modes",), ["frozen", "frozen"], "modes: lists 'frozen' more than once"),
        (("train", "lr"), [0.1, -1], "train.lr, entry 2: should be greater than 0, not -1"),
        (("train", "lr"), [], "train.lr: must list at least one"),
        (("train", "lr"), [0.1, 0.1], "train.lr: lists 0.1 more than once"),
        (("train", "warmup_epochs"), 15, "train.warmup_epochs: should be less than epochs"),
        (("recipes",), {"a": {"lrs": 1}}, "recipes.a.lrs: no such key; did you mean 'lr'?"),
        (("recipes",), {"a": {"lr": 0}}, "recipes.a.lr: should be greater than 0, not 0"),
        (("recipes",), {"a": None}, "recipes.a: should have its keys in lines below it, not None"),
        (("modes",), ["frozen-b"], "modes: frozen-b needs b under recipes, which has none"),
        (("modes",), ["finetuned"], "modes, entry 1: must be written as finetune or frozen ("),
        (("modes",), ["probe"], "finetune or frozen (probe is always run), with a recipe"),
        (("models",), ["AlexNet"], "models, entry 1: must be written as lower-case letters"),
        (("models",), ["ResNet-18"], "digits and _, not 'ResNet-18'; did you mean resnet18?"),
        (("models",), [], "models: must list at least one"),
        (("seeds",), [-1], "seeds, entry 1: should be greater than or equal to 0, not -1"),
        (("factories",), {"mine": "module"}, "factories.mine: must be written as package.module:"),
        (("factories",), {"Mine": "module:make"}, "factories.Mine: must be written as lower-case"),
        (("models",), ["alexnet", "resnet18", "VGG"], "models, entry 3: must be written as"),
        (("train", "lr"), "0.001", "not '0.001'; write 0.001, without quotes"),
        (("train", "lr"), "0,001", "not '0,001'; write 0.001, without quotes"),
        (
            ("image",),
            {"size": 224, "resize": 200, "shrink": True},
            "resize (200) must be at least size (224)",
        ),
        (("image", "size"), 224, "image: size and resize must both be numbers, or both auto"),
        (("image", "size"), 4, "image.size: should be greater than or equal to 8, or auto, not 4"),
        (("image", "size"), "big", "image.size: should be a valid integer, or auto, not 'big'"),
        (("precision",), "float16", "precision: should be 'float32' or 'bfloat16'"),
        (("device",), "tpu", "device: should be 'auto', 'cpu', 'cuda' or 'mps'"),
        (("weights",), None, "weights: should be 'imagenet' or 'random'"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path, where, value, message):
    with pytest.raises(UserError) as error:
        load(changed(where, value), tmp_path)
    assert message in str(error.value)
    assert "headswap check" in str(error.value)


def test_a_recipe_changes_what_it_names_of_train_and_makes_cells(tmp_path):
    tree = changed(("recipes",), {"adamw": {"optimizer": "adamw", "lr": [0.001, 0.01]}})
    loaded = load(tree | {"modes": ["finetune", "finetune-adamw"], "models": ["alexnet"]}, tmp_path)
    first, second, _ = cells = loaded.cells()
    names = ["alexnet-finetune", "alexnet-finetune-adamw", "alexnet-probe"]
    assert [cell.name for cell in cells] == names
    changes = {"optimizer": "adamw", "lr": [0.001, 0.01]}
    assert loaded.recipe(first) == loaded.train
    assert loaded.recipe(second) == loaded.train.model_copy(update=changes)
    assert (second.mode, second.stage) == ("finetune", "train@alexnet-finetune-adamw")


@pytest.mark.parametrize("section", ["probe", "embed"])
def test_a_section_of_an_older_version_is_told_to_be_removed(tmp_path, section):
    with pytest.raises(UserError, match=rf"\n  {section}: no such key; .*; or remove it"):
        load({**changed(("train", "lr"), 0.1), section: {"epochs": 3}}, tmp_path)


def test_several_mistakes_are_named_at_once(tmp_path):
    tree = changed(("train", "lr"), 0)
    del tree["image"]
    with pytest.raises(UserError) as error:
        load(tree, tmp_path)
    assert "train.lr" in str(error.value) and "image: is missing" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1", r"line \d cannot be read"),
        ("factories: {mine: my_networks:mine}", "line 1 cannot be read"),  # nor by DVC
        ("device: cpu\ndevice: cuda\n", "line 2 cannot be read: found duplicate key"),
        ("train:\n\tepochs: 3", "line 2 cannot be read: a tab; use spaces"),
        ("models:\n  - a\n\t- b", "line 3 cannot be read: a tab; use spaces"),
        ("a: 1\nprecision float32\nb: 2", "line 2 cannot be read: there is no colon after prec"),
        ("train:\n  epochs 3\n  lr: 1", "line 2 cannot be read: there is no colon after epochs"),
        ("train:\n  epochs:3\n  lr: 1", "line 2 cannot be read: there is no blank after epochs:"),
        ("train\n  epochs: 3", "line 1 cannot be read: there is no colon after train"),
        ("a: 1\nseeds\n  - 0\n  - 1\nb: 2", "line 2 cannot be read: there is no colon after seeds"),
        ("a:\n  b: c: d", "line 2 cannot be read: a second colon; write the text"),
        ("a:\n   b: 1\n  c: 2", "line 3 cannot be read: it is indented otherwise"),
        ('a: 1\nb: "c\nd: 2', "line 2 cannot be read: a quote is opened and not closed"),
        ("device: 2024-13-45", "month must be in 1..12"),
        ("- a list", "has no keys"),
        ("", "has no keys"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        params.load(path)


def test_a_missing_file_is_named_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        params.load()


def test_an_exponent_is_read_as_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("lr: 0.001", "lr: 1e-3"))
    assert params.load(path).train.lr == 0.001


@settings(max_examples=300, deadline=None)
@given(
    where=st.sampled_from(LEAVES),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=5,
    ),
)
def test_any_value_anywhere_is_accepted_or_refused_with_a_message(where, value):
    try:
        params.parse(changed(where, value))
    except UserError as error:
        assert "params.yaml has mistakes" in str(error)


@pytest.mark.parametrize(
    ("models", "factories", "message"),
    [
        (["resnet81"], {}, "did you mean resnet18"),
        (["mine"], {"mine": "no_such_module:make"}, "factories.mine: no_such_module:make cannot"),
        (["mine"], {"mine": "math:nothing"}, "cannot be imported"),
        (["mine"], {"mine": "math:pi"}, "is not callable"),
    ],
)
def test_an_unknown_network_or_factory_is_refused(models, factories, message):
    with pytest.raises(UserError, match=message):
        check_models(models, factories)


def test_the_networks_of_torchvision_are_known_without_its_import(workspace):
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    code = "import sys; from headswap import cli; cli.check(); print('torch' in sys.modules)"
    output = sh(sys.executable, "-c", code)
    assert output.splitlines()[-1] == "False"
    assert torchvision_names() == {*networks.list_models(networks)}


def test_all_unknown_networks_and_factories_are_named_at_once():
    with pytest.raises(UserError) as error:
        check_models(["resnet18", "nonsense"], {"unused": "no_such_module:make"})
    assert "models: nonsense is not a network" in str(error.value)
    assert "factories.unused" in str(error.value)
    assert "resnet18 " not in str(error.value)


def test_the_lines_that_name_photographs_are_quoted_where_yaml_needs_it():
    lines = "  url: 'my: photos'\n  manifest: data/photos.csv"
    assert params.dataset_lines("my: photos", "data/photos.csv") == lines
