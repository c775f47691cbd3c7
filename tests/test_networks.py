"""Heads are found and replaced in any network, and complexities are as published."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import BIN, MODES, ROOT, TESTS, edit, headswap, sh
from torch import nn

from headswap import params
from headswap.errors import UserError
from headswap.train import networks as backbones
from headswap.train.complexity import measure_complexity
from headswap.train.seeds import generator
from headswap.train.weights import load_pretrained, write_weights

NAMED_DEPTHS = {"alexnet": 8, "vgg11": 11, "resnet18": 18, "resnet50": 50, "densenet121": 121}
OTHERS = ("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t")


def swap_head(network, classes):
    network, head = backbones.find_head(network, "mine")
    features = network.get_submodule(head).in_features
    network.set_submodule(head, backbones.new_head(features, classes, generator(0, "head")))
    return network, head


@pytest.mark.parametrize("name", [*NAMED_DEPTHS, *OTHERS])
def test_complexity_is_as_published_and_the_head_is_replaced(name):
    network = backbones.build(name, {})
    published = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta
    costs = measure_complexity(network, 224)
    assert costs["parameters"] == published["num_params"]
    assert costs["gmacs"] == pytest.approx(published["_ops"], rel=0.01)
    if name in NAMED_DEPTHS:
        assert costs["depth"] == NAMED_DEPTHS[name]
    network, head = swap_head(network.requires_grad_(False), 3)
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 3)
    trained = [path for path, value in network.named_parameters() if value.requires_grad]
    assert trained == [f"{head}.weight", f"{head}.bias"]


@pytest.mark.parametrize(
    ("name", "parameters", "trained"), [("alexnet", 57012034, 8194), ("resnet18", 11177538, 1026)]
)
def test_two_class_networks_have_the_parameters_of_the_write_up(name, parameters, trained):
    network = backbones.build(name, {})
    network, head = swap_head(network.requires_grad_(False), 2)
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == trained


def test_a_frozen_network_is_as_deep_as_before():
    network = backbones.build("resnet18", {})
    network.requires_grad_(False).fc.requires_grad_(True)
    assert measure_complexity(network, 224)["depth"] == 18
    trained = [path for path, value in network.named_parameters() if value.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]


class Demanding(nn.Sequential):
    def forward(self, images):
        assert images.shape[2:] == (64, 64)
        return super().forward(images.sub_(0.5))


def test_complexity_is_measured_at_the_image_size_of_the_network():
    network = Demanding(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    assert measure_complexity(network, 64)["gmacs"] == pytest.approx(
        3 * 64 * 64 * 10 / 1e9, abs=1e-6
    )


def after_pooling(*layers):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


def without_bias(features, classes):
    layer = nn.Linear(features, classes)
    nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize(
    ("network", "features"),
    [
        (backbones.build("squeezenet1_0", {}), 512),
        (after_pooling(nn.Linear(3, 7), nn.Softmax(1)), 7),
        (after_pooling(without_bias(3, 7), nn.Tanh()), 7),
        (after_pooling(nn.Identity()), 3),
    ],
    ids=["convolution last", "softmax last", "tanh last", "nothing linear"],
)
def test_a_network_that_does_not_end_in_a_linear_layer_gets_one(network, features):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = network.eval()(images)
        assert found.shape == (2, features)
        network, head = swap_head(network, 5)
        assert network(images).allclose(network.get_submodule(head)(found))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes the weights of one of the networks in untrainable.py."""
    (tmp_path / "networks").mkdir()
    shutil.copy(TESTS / "untrainable.py", tmp_path / "networks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def chosen(name):
        factories = {"mine": f"untrainable:{name}"}
        return params.load(ROOT / "params.yaml").model_copy(update={"factories": factories})

    def write(name):
        write_weights("mine", chosen(name), Path("mine.safetensors"))

    write.params = chosen

    return write


REFUSALS = {
    "AMap": r"returns a Tensor \(torch.Size\(\[1, 4, 220, 220\]\)\), not one vector for each image",
    "ADictionary": r"returns a dict \(no tensor\), not one vector",
    "Float64": r"has weights in torch\.float64.*add: network\.float\(\)",
    "Lazy": r"has lazy layers.*show it an image: network.eval\(\)\(torch.zeros\(1, 3, 224, 224\)\)",
    "data_parallel": r"is wrapped in DataParallel.*return network\.module",
    "AView": r"eval mode with Linear\(.* in place of fc: shape .*\(no view, reshape or index\)",
    "ASlice": r"eval mode with Linear\(.* in place of fc: calls of fc: 1, output: \(2, 10\)",
    "CalledTwice": r"fails in eval mode .* calls of fc: 2.*call fc, by that name, once",
    "AnotherName": r"fails in eval mode .* calls of fc: 0.*let its forward call fc, by that name",
    "ReadsTheWeight": r"eval mode with Identity\(\) .*: 'Identity' object.*use nothing else of fc",
    "FailsInTraining": r"fails in train mode .*: no labels.*in both modes",
    "WithoutGradients": r"fails in train mode .* does not require grad .*take torch\.no_grad\(\)",
    "ADetachedBody": r"no gradient reaches what is before fc.*\.detach\(\) out of",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_trained_is_refused_with_what_to_change(mine, name):
    with pytest.raises(UserError, match=f"(?s){REFUSALS[name]}"):
        mine(name)
    assert not Path("mine.safetensors").exists()


@pytest.mark.parametrize("name", ["ATuple", "AnObject", "ATupleInTraining"])
def test_the_logits_of_an_object_and_the_first_of_a_tuple_are_taken(mine, name):
    mine(name)
    network, head = load_pretrained("mine", mine.params(name), Path())
    assert head == "fc" and network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


def test_an_image_size_that_a_network_does_not_accept_is_refused():
    with pytest.raises(UserError, match="fails on an image of 16 x 16"):
        backbones.find_head(backbones.build("alexnet", {}), "alexnet", 16)


def test_a_new_head_depends_on_the_seed_and_has_pytorchs_bounds():
    state = torch.random.get_rng_state()
    first, same, other = (backbones.new_head(50, 2, generator(s, "head")) for s in (0, 0, 1))
    assert torch.random.get_rng_state().equal(state)
    assert first.weight.equal(same.weight) and first.bias.equal(same.bias)
    assert not first.weight.equal(other.weight)
    assert 0.9 / 50**0.5 < first.weight.abs().max() <= 1 / 50**0.5


def test_a_factory_that_fails_or_returns_no_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_networks.py").write_text(
        "def fails():\n    raise OSError('no weights')\n\n\ndef seven():\n    return 7\n"
    )
    with pytest.raises(UserError, match="OSError: no weights"):
        backbones.build("mine", {"mine": "broken_networks:fails"})
    with pytest.raises(UserError, match="returned <class 'int'>"):
        backbones.build("mine", {"mine": "broken_networks:seven"})


@pytest.mark.parametrize(("place", "named"), [("", "outermost"), ("0", "0")])
def test_a_layer_that_cannot_be_reset_is_named(place, named):
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    network.get_submodule(place).register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(UserError, match=f"for mine: its {named} layer, a Sequential, has no"):
        backbones.reset_weights(network, "mine")


@pytest.mark.slow
def test_the_weights_of_an_own_network_import_no_symbolic_algebra(workspace):
    plain = "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))\n"
    Path("networks/plain.py").write_text(f"from torch import nn\n\n\n{plain}")
    edit(models=["plain"], factories={"plain": "plain:net"})
    code = "import sys; from headswap.cli import app; app(sys.argv[1:], standalone_mode=False); "
    code += "print({'torch', 'sympy', 'torch._dynamo'} & sys.modules.keys())"
    assert "{'torch'}" in sh(BIN / "python", "-c", code, "weights", "plain")


FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("swin_t", "swin_v2_t", "vgg11", "wide_resnet50_2"),
)
AT_THEIR_OWN_SIZE = ("inception_v3", "vit_b_32")  # maxvit_t takes minutes
STAGES = (("weights",), ("embed",), ("probe",), ("train", "finetune"), ("train", "frozen"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *AT_THEIR_OWN_SIZE])
def test_one_of_each_family_passes_every_stage(prepared, name):
    edit(models=[name], factories={}, seeds=[0], train={"epochs": 1})
    if name in AT_THEIR_OWN_SIZE:
        edit(image={"size": "auto", "resize": "auto"})
    for stage, *mode in STAGES:
        headswap(stage, name, *mode)
    assert all(Path(f"models/{name}-{mode}/model.json").exists() for mode in MODES)
