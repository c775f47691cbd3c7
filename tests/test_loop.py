"""The training loop follows the classic recipe, and an interrupted run continues."""

import copy
import itertools
import shutil

import my_networks
import pytest
import torch
from conftest import index_images
from torch import nn, optim
from torch.optim import lr_scheduler
from torchvision import datasets, transforms

from headswap import params
from headswap.data.verify import fetch_archive, verify_images
from headswap.errors import UserError
from headswap.images.index import read_index
from headswap.images.preprocessing import Preprocessing
from headswap.train import loop
from headswap.train import networks as backbones
from headswap.train.dataset import ImageCache, ImageDataset, decode
from headswap.train.seeds import derive, generator
from headswap.train.training import compute_features

RECIPE = params.Recipe(epochs=3, batch_size=4, lr=0.001, momentum=0.9, lr_step=1, lr_gamma=0.5)
IMAGE = Preprocessing(size=64, resize=72)


class Few:
    """The first batches of a data set, so that a large network is tested in seconds."""

    def __init__(self, data, most):
        self.data, self.most, self.labels = data, most, data.labels

    def train_batches(self, seed, epoch, batch_size):
        batches = list(self.data.train_batches(seed, epoch, batch_size))
        return batches[: self.most]

    def val_batches(self):
        return list(self.data.val_batches())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    chosen = params.Dataset(folds=0, url="generated", manifest="none")
    fetch_archive(chosen, folder / "archive.zip")
    verify_images(chosen, folder / "archive.zip", folder / "images")
    made = ImageDataset(IMAGE, read_index(folder / "images"))
    made.folder = folder / "images"
    return made


def two_class(name, mode, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = backbones.build(name, {})
    network, head = backbones.find_head(network, name, IMAGE.size)
    features = network.get_submodule(head).in_features
    network.requires_grad_(mode == "finetune")
    network.set_submodule(head, backbones.new_head(features, 2, generator(seed, "head")))
    return network


def tutorial(model):
    """Return criterion, optimizer and scheduler of the PyTorch transfer-learning tutorial."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optim.SGD(trained, lr=RECIPE.lr, momentum=RECIPE.momentum)
    scheduler = optim.lr_scheduler.StepLR(optimizer, RECIPE.lr_step, RECIPE.lr_gamma)
    return nn.CrossEntropyLoss(), optimizer, scheduler


def classic_script(model, data, seed, criterion, optimizer, scheduler):
    """Train as the tutorial does, written from its text."""
    curves = []
    for epoch in range(RECIPE.epochs):
        torch.manual_seed(derive(seed, "dropout", epoch))
        for phase in ("train", "val"):
            model.train(phase == "train")
            batches = (
                data.train_batches(seed, epoch, RECIPE.batch_size)
                if phase == "train"
                else data.val_batches()
            )
            running_loss, running_corrects, size = 0.0, 0, 0
            for inputs, labels in batches:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    _, predictions = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(predictions == labels.data).item()
                size += inputs.size(0)
            if phase == "train":
                scheduler.step()
            curves.append((epoch, phase, running_loss / size, running_corrects / size))
    return curves


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["finetune", "frozen"])
@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_training_agrees_epoch_by_epoch_with_the_classic_script(photographs, name, mode):
    data = Few(photographs, 4)
    network = two_class(name, mode)
    other = copy.deepcopy(network)
    expected = classic_script(other, data, 3, *tutorial(other))
    history = loop.train(network, data, RECIPE, seed=3)
    assert [point[:2] for point in history.curves] == [point[:2] for point in expected]
    for (*_, loss, accuracy), (*_, its_loss, its_accuracy) in zip(
        history.curves, expected, strict=True
    ):
        assert loss == pytest.approx(its_loss, rel=1e-4, abs=1e-6)
        assert accuracy == pytest.approx(its_accuracy)
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)


def adamw_with_cosine(model):
    optimizer = optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.3)
    return nn.CrossEntropyLoss(), optimizer, lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)


def sgd_with_decay_and_warmup(model):
    optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.5, weight_decay=0.3)
    rise = lr_scheduler.LinearLR(optimizer, start_factor=0.01, end_factor=1, total_iters=1)
    step = lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    scheduler = lr_scheduler.SequentialLR(optimizer, [rise, step], milestones=[1])
    return nn.CrossEntropyLoss(), optimizer, scheduler


def weighted_and_smoothed_loss(model):
    optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.5)
    weights = torch.tensor([8 / (2 * 6), 8 / (2 * 2)])
    criterion = nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    return criterion, optimizer, lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"optimizer": "adamw", "weight_decay": 0.3, "schedule": "cosine"}, adamw_with_cosine),
        ({"weight_decay": 0.3, "warmup_epochs": 1}, sgd_with_decay_and_warmup),
        ({"label_smoothing": 0.1, "class_weights": "balanced"}, weighted_and_smoothed_loss),
    ],
)
def test_each_field_of_a_recipe_is_torchs_own(changes, reference):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4000, 120), nn.ReLU(), nn.Linear(120, 2))
    other = copy.deepcopy(network)
    data, recipe = Vectors(), RECIPE.model_copy(update={"momentum": 0.5, **changes})
    expected = classic_script(other, data, 3, *reference(other))
    history = loop.train(network, data, recipe, seed=3)
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-6)
    losses = [
        [loss for _, split, loss, _ in curve if split == "train"]
        for curve in (history.curves, expected)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_in_frozen_only_the_head_and_the_buffers_of_batch_norm_change(photographs):
    network = two_class("resnet18", "frozen")
    before = copy.deepcopy(network.state_dict())
    loop.train(network, Few(photographs, 2), RECIPE, seed=0)
    moved = {key for key, value in network.state_dict().items() if not value.equal(before[key])}
    buffers = {key for key, _ in network.named_buffers()}
    assert moved == {"fc.weight", "fc.bias"} | buffers


@pytest.mark.parametrize(("name", "passes"), [("alexnet", 1), ("resnet18", RECIPE.epochs)])
def test_validation_of_a_frozen_network_is_cached_until_it_changes(photographs, name, passes):
    network = two_class(name, "frozen")
    seen = []
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, *_: seen.append(network.training))
    data = Few(photographs, 1)
    history = loop.train(network, data, RECIPE, seed=0)
    assert seen.count(False) == passes * len(data.val_batches())
    autocast = loop.make_autocast("float32", "cpu")
    _, _, expected = loop.evaluate(network, data.val_batches(), autocast)
    assert history.last["probabilities"].equal(expected)


def test_computing_features_changes_no_tensor_of_the_backbone(photographs):
    network = two_class("resnet18", "finetune").train()
    before = copy.deepcopy(network.state_dict())
    batches = [inputs for inputs, _ in photographs.val_batches()]
    once, twice = (compute_features(network, batches) for _ in range(2))
    assert once.equal(twice)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(after[key].equal(before[key]) for key in before)


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 2}]
)
def test_an_interrupted_run_continues_to_the_same_result(photographs, tmp_path, changes):
    recipe = RECIPE.model_copy(update={"epochs": 4, **changes})

    def run(on_progress=lambda *_, **message: None, **options):
        network = my_networks.tiny()
        history = loop.train(
            network, photographs, recipe, seed=5, on_progress=on_progress, **options
        )
        return history, network.state_dict()

    def interrupt(done, figures=None, note=""):
        if done == 2:
            raise KeyboardInterrupt

    whole, end = run()
    with pytest.raises(KeyboardInterrupt):
        run(interrupt, checkpoint=tmp_path / "checkpoint.pt")
    resumed, same_end = run(checkpoint=tmp_path / "checkpoint.pt")
    assert resumed.curves == whole.curves
    assert all(end[key].equal(same_end[key]) for key in end)
    assert resumed.best["probabilities"].equal(whole.best["probabilities"])


def test_no_more_epochs_are_shown_than_an_interruption_would_keep(photographs, tmp_path):
    checkpoint, shown = tmp_path / "checkpoint.pt", []

    def on_progress(done, figures=None, note=""):
        saved = len(torch.load(checkpoint)["seconds"]) if checkpoint.exists() else 0
        shown.append((int(done), saved))

    loop.train(
        my_networks.tiny(), photographs, RECIPE, 0, checkpoint=checkpoint, on_progress=on_progress
    )
    assert {done for done, _ in shown} == {0, 1, 2, 3}
    assert all(done == saved for done, saved in shown)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_interrupted_alexnet_continues_to_the_same_bits(photographs, tmp_path, precision):
    def run(recipe, checkpoint=None):
        network = two_class("alexnet", "finetune")
        data, how = Few(photographs, 2), {"precision": precision, "checkpoint": checkpoint}
        history = loop.train(network, data, recipe, seed=5, **how)
        return history, network.state_dict()

    whole, end = run(RECIPE)
    run(RECIPE.model_copy(update={"epochs": 2}), tmp_path / "checkpoint.pt")
    resumed, same_end = run(RECIPE, tmp_path / "checkpoint.pt")
    assert resumed.curves == whole.curves
    assert all(end[key].equal(same_end[key]) for key in end)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_message(photographs):
    messages = []
    hot = RECIPE.model_copy(update={"lr": 1e30})
    network = two_class("resnet18", "finetune")
    history = loop.train(
        network,
        Few(photographs, 3),
        hot,
        seed=0,
        on_progress=lambda done, figures=None, note="": messages.append(note),
    )
    assert history.diverged == 0
    assert "epoch 0 at learning rate 1e+30" in messages[-1]


def test_validation_images_agree_with_the_transforms_of_the_tutorial(photographs):
    transform = transforms.Compose(
        [
            transforms.Resize(IMAGE.resize),
            transforms.CenterCrop(IMAGE.size),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = datasets.ImageFolder(photographs.folder / "val", transform)
    inputs, labels = map(torch.cat, zip(*photographs.val_batches(), strict=True))
    assert labels.tolist() == expected.targets
    for ours, (theirs, _) in zip(inputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)  # a grey level is 0.017


def test_training_images_are_normalized_crops_of_all_sizes_and_some_are_flipped(
    photographs, tmp_path
):
    inputs, _ = next(photographs.train_batches(0, 0, len(photographs.labels["train"])))
    assert inputs.min() < -0.5 and 0.5 < inputs.max() < 2.7
    flat = torch.arange(256).expand(3, 200, 256).to(torch.uint8)
    for split, label in itertools.product(("train", "val"), "ab"):
        path = tmp_path / split / label / "ramp.png"
        path.parent.mkdir(parents=True)
        transforms.functional.to_pil_image(flat).save(path)
    index_images(tmp_path)
    ramps = ImageDataset(IMAGE, read_index(tmp_path))
    views = [ramps.augmented_view(0, 0, number).float() for number in range(40)]
    slopes = torch.tensor([float(view[0, 0, -1] - view[0, 0, 0]) for view in views])
    assert 8 < (slopes < 0).sum() < 32
    assert slopes.abs().min() < 150 < 210 < slopes.abs().max() <= flat.max()


def test_an_augmented_view_depends_on_its_image_seed_and_epoch_only(photographs, tmp_path):
    first = photographs.augmented_view(5, 0, 0)
    torch.rand(3)
    assert first.equal(photographs.augmented_view(5, 0, 0))
    assert not first.equal(photographs.augmented_view(5, 0, 1))
    assert not first.equal(photographs.augmented_view(5, 1, 0))
    shutil.copytree(photographs.folder, tmp_path / "images")
    names = photographs.names["train"]
    shutil.copy(tmp_path / "images" / names[5], tmp_path / "images" / names[6])
    index_images(tmp_path / "images")
    assert not first.equal(
        ImageDataset(IMAGE, read_index(tmp_path / "images")).augmented_view(6, 0, 0)
    )


def test_each_epoch_has_every_training_image_once_in_a_new_order(photographs):
    def labels(seed, epoch):
        return torch.cat([labels for _, labels in photographs.train_batches(seed, epoch, 4)])

    assert labels(0, 0).sort()[0].equal(photographs.labels["train"].sort()[0])
    assert not labels(0, 0).equal(labels(0, 1))
    assert not labels(0, 0).equal(labels(1, 0))


def test_images_beyond_the_capacity_of_the_cache_are_decoded_at_each_access(photographs):
    decoded = []

    def counting_decode(path):
        decoded.append(path)
        return decode(path)

    paths = [photographs.folder / name for name in photographs.names["train"]]
    fits = [decode(path) for path in paths]
    held = ImageCache(paths, counting_decode, capacity=sum(image.nbytes for image in fits[:3]))
    for _ in range(2):
        for index, image in enumerate(fits):
            assert held[index].equal(image)
    assert decoded == paths + paths[3:]


class Vectors:
    """Eight images in two batches, six of one class."""

    classes = ("a", "b")
    labels = dict.fromkeys(("train", "val"), torch.tensor([0, 0, 0, 1, 0, 1, 0, 0]))
    inputs = torch.randn(8, 4000, generator=torch.Generator().manual_seed(0))

    def train_batches(self, seed, epoch, batch_size):
        return self.val_batches()

    def val_batches(self):
        yield from zip(self.inputs.split(4), self.labels["val"].split(4), strict=True)


class Ones:
    """Two images of ones, in every epoch."""

    labels = dict.fromkeys(("train", "val"), torch.tensor([0, 1]))

    def train_batches(self, seed, epoch, batch_size):
        yield torch.ones(2, 1, 8, 8), self.labels["val"]

    def val_batches(self):
        yield torch.ones(2, 1, 8, 8), self.labels["val"]


def test_dropout_differs_between_epochs_and_seeds():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2))
    seen = []

    def look(dropout, _, kept):
        if dropout.training:
            seen.append(kept)

    network[1].register_forward_hook(look)
    for seed in (0, 0, 1):
        loop.train(network, Ones(), RECIPE, seed)
    assert all(seen[epoch].equal(seen[3 + epoch]) for epoch in range(3))
    assert len({tuple(kept.flatten().tolist()) for kept in seen}) == 6


def test_of_equally_accurate_epochs_the_first_is_the_best():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    history = loop.train(network, Ones(), RECIPE, seed=0)
    assert {accuracy for *_, split, _, accuracy in history.curves if split == "val"} == {0.5}
    assert (history.best["epoch"], history.last["epoch"]) == (0, 2)


def recipe(batch_size):
    return RECIPE.model_copy(update={"batch_size": batch_size, "epochs": 1})


@pytest.mark.parametrize("left", [1, None], ids=["last", "every"])
def test_a_batch_of_one_image_with_batch_norm_is_refused(photographs, left):
    images = len(photographs.labels["train"])
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 64**2), nn.Linear(3 * 64**2, 2))
    size = 1 if left is None else images - left
    with pytest.raises(UserError, match=f"single image.*\nbatch_size is {size}") as error:
        loop.train(network, photographs, recipe(size), seed=0)
    remedy = str(error.value).partition("Set it to ")[2]
    sizes = [int(text) for text in remedy.strip(".").split(" or ")]
    assert len(sizes) == 2
    for size in sizes:
        loop.train(network, photographs, recipe(size), seed=0)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_damaged_checkpoint_is_reported_and_the_run_starts_from_the_first_epoch(
    photographs, tmp_path, damage
):
    checkpoint, messages = tmp_path / "checkpoint.pt", []

    def run(report=lambda *_, **message: None):
        return loop.train(
            my_networks.tiny(),
            Few(photographs, 2),
            RECIPE,
            seed=0,
            checkpoint=checkpoint,
            on_progress=report,
        )

    whole = run()
    content = checkpoint.read_bytes()
    damaged = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"garbage" * 99}
    checkpoint.write_bytes(damaged[damage])
    history = run(lambda done, figures=None, note="": messages.append(note))
    assert "starts from the first epoch" in messages[0]
    assert history.curves == whole.curves


def test_cast_frozen_weights_give_the_results_of_autocast(photographs, monkeypatch):
    def run():
        network = two_class("resnet18", "frozen")
        history = loop.train(network, Few(photographs, 2), RECIPE, 0, precision="bfloat16")
        return history.curves, {parameter.dtype for parameter in network.parameters()}

    cast, dtypes = run()
    monkeypatch.setattr(loop, "cast_frozen_weights", lambda network: None)
    assert run() == (cast, {torch.float32})
    assert dtypes == {torch.float32, torch.bfloat16}


def test_with_bfloat16_the_trained_parameters_stay_float32(photographs):
    one = RECIPE.model_copy(update={"epochs": 1})
    losses = {}
    for precision in ("float32", "bfloat16"):
        network = two_class("resnet18", "finetune")
        history = loop.train(network, Few(photographs, 1), one, seed=0, precision=precision)
        losses[precision] = history.curves[0][2]
        assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
