"""A network starts from exactly the published weights, a factory's, or random ones."""

import dataclasses
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import my_networks
import pytest
import torch
import torchvision
from conftest import ROOT, TESTS, edit, enter, headswap
from safetensors.torch import save_file
from torch import nn

from headswap import params
from headswap.errors import UserError
from headswap.io import read_json, read_tensors, sha256
from headswap.train import weights as pretrained
from headswap.train.factories import check_code, factory_origin
from headswap.train.weights import save_tensors

SMALL = "shufflenet_v2_x0_5"
NOWHERE = "http://127.0.0.1:9"
TINY = {"factories": {"tiny": "my_networks:tiny"}}


@pytest.fixture(autouse=True)
def a_folder_without_weights(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "networks").mkdir()
    shutil.copy(TESTS / "my_networks.py", tmp_path / "networks")
    enter(tmp_path, monkeypatch)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Return a function that writes a stand-in for torchvision's file, its digest in its name."""

    def write(name, content, address=NOWHERE, weights="IMAGENET1K_V1"):
        file = tmp_path / "published" / "file"
        file.parent.mkdir(exist_ok=True)
        torch.save(content, file)
        file = file.rename(file.with_name(f"{name}-{sha256(file)[:8]}.pth"))
        entry = torchvision.models.get_model_weights(name)[weights]
        moved = dataclasses.replace(entry.value, url=f"{address}/{file.name}")
        monkeypatch.setattr(entry, "_value_", moved)
        return file

    return write


@pytest.fixture
def address(tmp_path):
    """Serve the folder that `publish` writes to."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "published")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def put_into_hub_cache(file):
    cache = Path(torch.hub.get_dir(), "checkpoints")
    cache.mkdir(parents=True)
    return file.rename(cache / file.name)


def write_and_load(name, folder, **changes):
    """Write the weights of a network, and return the network with them."""
    chosen = params.load(ROOT / "params.yaml").model_copy(update=changes)
    pretrained.write_weights(name, chosen, folder / f"{name}.safetensors")
    return pretrained.load_pretrained(name, chosen, folder)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize("place", ["mirror", "hub cache", "address"])
def test_torchvisions_weights_are_found_in_every_place(
    publish, address, tmp_path, monkeypatch, place
):
    original = torchvision.models.get_model(SMALL)
    url = address if place == "address" else NOWHERE
    file = publish(SMALL, original.state_dict(), url)
    if place == "mirror":
        monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    if place == "hub cache":
        put_into_hub_cache(file)
    network, head = write_and_load(SMALL, tmp_path)
    assert head == "fc" and same(network, original)
    _, metadata = read_tensors(tmp_path / f"{SMALL}.safetensors")
    assert metadata["source"] == f"{url}/{file.name}"


def as_of_2017(state):
    """Rename the state of a DenseNet as in torchvision's file, which is from 2017."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    ("name", "published"),
    [
        (SMALL, dict),
        ("densenet121", as_of_2017),
        ("googlenet", dict),
        ("mnasnet0_5", lambda state: state),
    ],
    ids=["as it is", "old names", "auxiliary heads", "version in the file"],
)
def test_a_network_starts_with_the_weights_of_torchvisions_loader(
    publish, tmp_path, name, published
):
    options = {"init_weights": False} if name == "googlenet" else {}
    original = torchvision.models.get_model(name, **options)
    put_into_hub_cache(publish(name, published(original.state_dict())))
    expected = torchvision.models.get_model(name, weights="IMAGENET1K_V1").eval()
    network, _ = write_and_load(name, tmp_path)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert network.eval()(image).equal(expected(image))


def test_a_network_without_the_classic_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="vit_h_14"):
        write_and_load("vit_h_14", tmp_path)


def test_a_damaged_file_is_refused_and_nothing_is_written(publish, tmp_path, monkeypatch):
    file = publish(SMALL, torchvision.models.get_model(SMALL).state_dict())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    with pytest.raises(UserError, match="has SHA-256 .* not the original file"):
        write_and_load(SMALL, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_are_not_fetched_again_where_they_are_already(publish, tmp_path, monkeypatch):
    file = publish(SMALL, torchvision.models.get_model(SMALL).state_dict())
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    first, _ = write_and_load(SMALL, tmp_path)
    before = (tmp_path / f"{SMALL}.safetensors").read_bytes()
    file.unlink()
    second, _ = write_and_load(SMALL, tmp_path)
    assert same(first, second) and (tmp_path / f"{SMALL}.safetensors").read_bytes() == before
    damaged = bytearray(before)
    damaged[-5] ^= 1
    (tmp_path / f"{SMALL}.safetensors").write_bytes(damaged)
    with pytest.raises(UserError, match=file.name):
        write_and_load(SMALL, tmp_path)


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_code_in_a_weights_file_is_not_executed(publish, tmp_path, monkeypatch):
    trace = tmp_path / "code was run"
    file = publish(SMALL, {"fc.weight": Evil(trace)})
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    with pytest.raises(UserError, match=f"does not contain {SMALL}'s weights"):
        write_and_load(SMALL, tmp_path)
    assert not trace.exists()


def test_another_networks_file_is_refused(publish, tmp_path, monkeypatch):
    file = publish(SMALL, nn.Linear(2, 2).state_dict())
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    with pytest.raises(UserError, match=f"does not contain {SMALL}'s weights"):
        write_and_load(SMALL, tmp_path)


def test_the_weights_of_a_factory_are_used(tmp_path):
    network, head = write_and_load("tiny", tmp_path, **TINY)
    assert head == "6" and same(network, my_networks.tiny())
    assert read_tensors(tmp_path / "tiny.safetensors")[1]["source"] == "my_networks:tiny"


def add(path, text):
    """Append to a file in networks/, which is imported anew."""
    path = Path("networks", path)
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)
    for name in [*sys.modules]:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{Path.cwd()}/networks"):
            del sys.modules[name]


def test_an_edit_to_what_a_factory_imports_changes_its_digest_and_a_comment_does_not():
    def code():
        return factory_origin("tiny", "layers.nets:make")["code"]

    add("layers/nets.py", "from .parts import make\n")  # a package without __init__.py
    add("layers/parts.py", "from my_networks import tiny\n\n\ndef make():\n    return tiny()\n")
    digests = [code()]
    add("layers/another.py", "OF_NO = 'matter'\n")
    add("layers/parts.py", "# A comment.\n")
    assert code() == digests[0]
    for path in ("layers/parts.py", "my_networks.py", "layers/__init__.py"):
        add(path, "EDITED = True\n")
        digests.append(code())
    assert len({*digests}) == 4


def test_a_package_is_known_by_its_version():
    package = "efficientnet_lite_pytorch:EfficientNet"
    add("my_networks.py", f"MINE = {package!r}\n")
    assert factory_origin("mine", package)["code"] is None
    assert "efficientnet-lite-pytorch" in factory_origin("mine", package)["packages"]
    check_code("mine", package, None)


@pytest.mark.parametrize("imported", ["", "import helper\n"])
def test_code_outside_networks_is_refused_with_the_line_that_moves_it(workspace, imported):
    source = Path("networks/my_networks.py")
    source.write_text(imported + source.read_text())
    moved = Path("helper.py" if imported else "my_networks.py")
    moved.touch() if imported else source.rename(moved)
    for command in (["check"], ["weights", "tiny"]):
        _, messages = headswap(*command, code=1)
        (line,) = re.findall(r"mv .*", messages)
        assert line == f"mv {moved} networks/"
    subprocess.run(line.split(), check=True)
    assert "params.yaml is correct" in headswap("check")[0]


def test_a_module_that_dvc_cannot_see_is_refused(workspace, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("from my_networks import tiny\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(factories={"tiny": "elsewhere:tiny"})
    for command in (["check"], ["weights", "tiny"]):
        assert "Copy its module into networks/" in headswap(*command, code=1)[1]


@pytest.mark.slow
def test_an_edited_network_answers_and_trains_only_after_its_weights_are_written(prepared):
    headswap("train", "tiny", "finetune")
    predict = ("predict", "tiny-finetune", "data/images/val")
    add("my_networks.py", "# A comment.\n")
    before = headswap(*predict)[0]
    module = Path("networks/my_networks.py")
    module.write_text(module.read_text().replace("nn.ReLU()", "nn.Sigmoid()"))
    add("my_networks.py", "")
    edit(seeds=[0, 1, 2])
    for command in (
        predict,
        ("export", "tiny-finetune", "exported"),
        ("train", "tiny", "finetune"),
        ("embed", "tiny"),
    ):
        assert "is other code than when" in headswap(*command, code=1)[1]
    assert not Path("exported").exists()
    headswap("weights", "tiny")
    headswap("train", "tiny", "finetune")
    assert len({path.parent for path in Path("runs/tiny-finetune").glob("*/seed-2")}) == 1
    assert headswap(*predict)[0] != before
    record = read_json("models/tiny-finetune/model.json")
    assert len(record["runs"]) == 3


@pytest.mark.slow
def test_finetune_trains_a_network_that_its_factory_froze(prepared):
    add("my_networks.py", "\n\ndef frozen():\n    return tiny().requires_grad_(False)\n")
    edit(factories={"tiny": "my_networks:frozen"})
    headswap("weights", "tiny")
    for mode, trained in (("finetune", 2530), ("frozen", 130)):
        headswap("train", "tiny", mode)
        assert read_json(f"metrics/cells/tiny-{mode}.json")["trainable_parameters"] == trained
        assert (
            "of 40 validation images" in headswap("predict", f"tiny-{mode}", "data/images/val")[1]
        )


def test_the_example_in_networks_can_be_trained(workspace):
    shutil.copytree(ROOT / "networks", "networks", dirs_exist_ok=True)
    edit(models=["mine"], factories={"mine": "mine:net"})
    headswap("check")
    headswap("weights", "mine")


@pytest.mark.parametrize("name", [SMALL, "tiny"])
def test_random_weights_are_the_same_bytes_each_time(tmp_path, name):
    first, second = tmp_path / "first", tmp_path / "second"
    network, _ = write_and_load(name, first, weights="random", **TINY)
    torch.manual_seed(99)
    write_and_load(name, second, weights="random", **TINY)
    assert (first / f"{name}.safetensors").read_bytes() == (
        second / f"{name}.safetensors"
    ).read_bytes()
    if name == "tiny":
        assert not same(network, my_networks.tiny())


def write(path, turn):
    tensors = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor(7), "c": torch.ones(0)}
    metadata = {"source": "s", "head": "h", "classes": ["ä", "b"], "n": 0.1, "names": {"val": []}}
    save_tensors(path, dict([*tensors.items()][::turn]), **dict([*metadata.items()][::turn]))


def test_saved_tensors_are_read_back_and_their_bytes_depend_on_the_content_only(tmp_path):
    write(tmp_path / "first", 1)
    with ProcessPoolExecutor(1, get_context("spawn")) as another_process:
        another_process.submit(write, tmp_path / "second", -1).result()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    tensors, metadata = read_tensors(tmp_path / "first")
    assert tensors["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors["a"].item() == 7 and tensors["c"].shape == (0,)
    assert metadata["classes"] == ["ä", "b"] and metadata["n"] == 0.1 and len(metadata) == 5


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_named_with_what_to_type(tmp_path, length):
    path = tmp_path / "tiny.safetensors"
    save_tensors(path, {"a": torch.ones(50)}, head="a")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="tiny.safetensors cannot be read.*\n.*dvc repro"):
        read_tensors(path)


@pytest.mark.parametrize("metadata", [{"headswap": "{"}, {}, None])
def test_a_safetensors_file_without_our_metadata_is_refused(tmp_path, metadata):
    save_file({"a": torch.ones(1)}, tmp_path / "other", metadata=metadata)
    with pytest.raises(UserError, match="other cannot be read"):
        read_tensors(tmp_path / "other")


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_tensors(tmp_path / f"{SMALL}.safetensors", nn.Linear(2, 2).state_dict(), head="fc")
    with pytest.raises(UserError, match=f"does not fit {SMALL}"):
        pretrained.load_pretrained(SMALL, params.load(ROOT / "params.yaml"), tmp_path)


def test_other_weights_of_torchvisions_are_used_with_their_own_preprocessing(
    publish, tmp_path, monkeypatch
):
    original = torchvision.models.get_model("mobilenet_v3_large")
    file = publish("mobilenet_v3_large", original.state_dict(), weights="IMAGENET1K_V2")
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    better = {"better": "torchvision:mobilenet_v3_large:IMAGENET1K_V2"}
    network, head = write_and_load("better", tmp_path, factories=better)
    assert head == "classifier.3" and same(network, original)
    _, metadata = read_tensors(tmp_path / "better.safetensors")
    assert metadata["preprocessing"]["resize"] == 232 and metadata["factory"] == better["better"]
    with pytest.raises(UserError, match="no IMAGENET1K_V29 .*\n.*IMAGENET1K_V1 or .*V2"):
        write_and_load("better", tmp_path, factories={"better": better["better"] + "9"})


DINO = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function that writes a file of timm's into a cache of Hugging Face's layout."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def write(name, state):
        folder = tmp_path / f"hub/models--timm--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("0")
        (folder / "snapshots/0").mkdir(parents=True)
        file = folder / "snapshots/0/model.safetensors"
        save_file(state, file)
        return file

    return write


@pytest.mark.slow
@pytest.mark.parametrize("place", ["mirror", "hub"])
@pytest.mark.parametrize(
    ("name", "head", "size"),
    [
        ("resnet18.a1_in1k", "fc", 224),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "head", 224),
        (DINO, "appended_head", 518),
    ],
)
def test_timms_weights_are_found_with_and_without_a_head(
    hub, tmp_path, monkeypatch, place, name, head, size
):
    import timm

    original = timm.create_model(name)
    file = hub(name, original.state_dict())
    if place == "mirror":
        monkeypatch.setenv("HEADSWAP_MIRROR", str(tmp_path))
        file.rename(tmp_path / f"{name}.safetensors")
    factories = {"mine": f"timm:{name}"}
    network, found = write_and_load("mine", tmp_path, factories=factories)
    body = network.body if head == "appended_head" else network
    assert found == head and same(body, original)
    _, metadata = read_tensors(tmp_path / "mine.safetensors")
    assert metadata["preprocessing"]["size"] == size
    assert metadata["packages"].keys() == {"timm", "torch", "torchvision"}


def test_a_network_of_timms_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="did you mean resnet18 .*headswap networks"):
        write_and_load("mine", tmp_path, factories={"mine": "timm:resnet_18"})


def test_networks_lists_what_they_cost_and_where_their_weights_are(publish, monkeypatch):
    file = publish(SMALL, torchvision.models.get_model(SMALL).state_dict())
    monkeypatch.setenv("HEADSWAP_MIRROR", str(file.parent))
    lines = headswap("networks", "shufflenet_v2")[0].splitlines()
    assert lines[1].split() == ["1.4", "M", "0.04", "224", "mirror", SMALL]
    assert lines[2].split() == ["2.3", "M", "0.14", "224", "shufflenet_v2_x1_0"]
    lines = headswap("networks", "vit_tiny_patch16_224.augreg_in21k_ft")[0].splitlines()
    assert lines[1].split()[:4] == ["5.7", "M", "1.25", "224"]
    assert "No network has 'nothing'" in headswap("networks", "nothing", code=1)[1]


@pytest.mark.slow
def test_all_weights_that_are_not_here_are_named_at_once(publish, workspace):
    names = ["squeezenet1_0", SMALL]
    files = [publish(name, {}, weights="IMAGENET1K_V1") for name in names]
    edit(models=names, factories={}, weights="imagenet")
    shutil.rmtree(".dvc")  # which would be asked what has changed
    message = headswap("weights", code=1)[1]
    assert all(f"{file.name} could not be downloaded" in message for file in files)
