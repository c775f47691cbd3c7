"""With low-rank gradients SGD takes the same steps."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from headswap.params import Recipe
from headswap.train.speed.low_rank import LowRankUpdates

RECIPE = Recipe(epochs=1, batch_size=2, lr=0.002, momentum=0.8, lr_step=1, lr_gamma=0.5)
WIDE = 400  # 75 steps until momentum has forgotten a gradient: 150 rows a side, of 400


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


class Twice(nn.Module):
    """A network that uses a large layer twice from some step on."""

    def __init__(self):
        super().__init__()
        self.large, self.head = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 2)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, inputs):
        self.steps += 1
        once = self.large(inputs).relu()
        return self.head(self.large(once).relu() if self.steps > 5 else once)


class MoreAxes(nn.Module):
    """A network that applies a large layer to tensors with three axes."""

    def __init__(self):
        super().__init__()
        self.large, self.head = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, 2)

    def forward(self, inputs):
        return self.head(self.large(inputs[:, None, :]).relu().mean(1))


class Tied(nn.Module):
    """A network of which two layers share a weight."""

    def __init__(self):
        super().__init__()
        self.large, self.again = nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)
        self.again.weight = self.large.weight
        self.head = nn.Linear(WIDE, 2)

    def forward(self, inputs):
        return self.head(self.again(self.large(inputs).relu()).relu())


def sliced():
    """Return a network whose weights are slices of larger tensors."""
    network = plain()
    for layer in (network[0], network[5]):
        layer.weight = nn.Parameter(torch.cat([layer.weight.detach()] * 2, 1)[:, ::2])
    return network


def transposed():
    """Return a network whose large weights are stored by columns."""
    network = plain()
    for layer in (network[0], network[3]):
        layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    return network


def plain(bias=True):
    return nn.Sequential(
        *(nn.Linear(WIDE, WIDE, bias=bias), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.Linear(WIDE, WIDE, bias=bias), nn.ReLU(inplace=True), nn.Linear(WIDE, 2)),
    )


def batches(steps, rows=2):
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        labels = torch.randint(2, (rows,), generator=random)
        yield torch.randn(rows, WIDE, generator=random) + labels[:, None], labels


def train(network, optimizer, batches, precision="float32", between=lambda: None):
    torch.manual_seed(0)
    for number, (inputs, labels) in enumerate(batches):
        if number == 100:
            optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            outputs = network(inputs)
        cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
        between()
    return network.state_dict()


def sgd(network, recipe=RECIPE):
    return torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)


def low_rank_sgd(network, recipe=RECIPE):
    """Return an optimizer, and the low-rank updates that come with its steps."""
    optimizer = sgd(network, recipe)
    return optimizer, LowRankUpdates(network, optimizer, recipe.batch_size)


ODD = [sliced, transposed, Twice, MoreAxes, Tied]


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("make", [plain, lambda: plain(bias=False), *ODD])
def test_the_weights_are_those_of_plain_sgd(make, momentum):
    recipe = RECIPE.model_copy(update={"momentum": momentum})
    network = make()
    start, same = copy.deepcopy(network.state_dict()), copy.deepcopy(network)
    expected = train(same, sgd(same, recipe), batches(200))
    optimizer, updates = low_rank_sgd(network, recipe)
    train(network, optimizer, batches(200))
    updates.flush()
    for name, value in network.state_dict().items():
        assert not value.equal(start[name])
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_a_learning_rate_of_zero_changes_no_weight():
    network = plain()
    optimizer, updates = low_rank_sgd(network)
    before = copy.deepcopy(network.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    train(network, optimizer, batches(200))
    updates.flush()
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_large_layer_has_no_gradient_and_no_momentum_of_its_size():
    network = plain()
    optimizer, updates = low_rank_sgd(network)
    train(network, optimizer, batches(3))
    assert network[3].weight.grad is None and network[5].weight.grad is not None
    states = optimizer.state_dict()["state"].values()
    assert states and all(state["momentum_buffer"].numel() < 1000 for state in states)
    rows, grads, velocity = updates.state_dict()[1]
    assert not rows.requires_grad
    assert rows.shape == grads.shape == (6, WIDE)
    assert velocity.tolist() == pytest.approx([0.64, 0.64, 0.8, 0.8, 1, 1])


@pytest.mark.parametrize(
    "change", [{"batch_size": 16}, {"momentum": 0.99}], ids=["large batches", "long memory"]
)
def test_a_layer_smaller_than_its_factors_keeps_its_gradient(change):
    network = plain()
    optimizer, _ = low_rank_sgd(network, RECIPE.model_copy(update=change))
    train(network, optimizer, batches(1))
    assert network[0].weight.grad is not None


@pytest.mark.parametrize("make", [plain, transposed])
def test_a_batch_larger_than_the_batch_size_returns_the_layer_to_the_optimizer(make):
    network = make()
    same = copy.deepcopy(network)
    mixed = [*batches(2), *batches(2, rows=5), *batches(2)]
    expected = train(same, sgd(same), mixed)
    optimizer, updates = low_rank_sgd(network)
    train(network, optimizer, mixed)
    updates.flush()
    torch.testing.assert_close(dict(network.state_dict()), dict(expected), rtol=1e-4, atol=1e-6)
    assert updates.state_dict() == [None, None]


def test_evaluation_between_two_steps_uses_the_current_weights():
    network = plain()
    same = copy.deepcopy(network)
    seen, expected = [], []
    (probe, _), *_ = batches(1)

    def look(network, into):
        network.eval()
        with torch.no_grad():
            into.append(network(probe))
        network.train()

    train(same, sgd(same), batches(5), between=lambda: look(same, expected))
    train(network, low_rank_sgd(network)[0], batches(5), between=lambda: look(network, seen))
    torch.testing.assert_close(seen, expected)
    assert not seen[0].equal(seen[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [plain, Twice, MoreAxes])
def test_training_continues_from_a_saved_state_to_the_same_bits(make, precision):
    network = make()
    other = copy.deepcopy(network)
    optimizer, updates = low_rank_sgd(network)
    train(network, optimizer, batches(90), precision)
    updates.flush()
    states = (network.state_dict(), optimizer.state_dict(), updates.state_dict())
    saved = copy.deepcopy(states)
    expected = train(network, optimizer, batches(90), precision)
    updates.flush()
    resumed, resumed_updates = low_rank_sgd(other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    resumed_updates.load_state_dict(saved[2])
    train(other, resumed, batches(90), precision)
    resumed_updates.flush()
    assert all(value.equal(expected[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("forgetful", ["optimizer", "network"])
def test_a_layer_that_is_unused_in_some_steps_changes_only_in_the_others(forgetful):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps, self.head = 0, nn.Linear(WIDE, 2)
            self.large = nn.Linear(WIDE, WIDE)

        def forward(self, inputs):
            self.steps += 1
            return self.head(self.large(inputs).relu() if self.steps % 3 == 0 else inputs)

    network = Sometimes()
    same = copy.deepcopy(network)
    optimizer = sgd(same)
    expected = train(same, optimizer, batches(20))
    optimizer, updates = low_rank_sgd(network)
    if forgetful == "network":
        optimizer.zero_grad = network.zero_grad
    train(network, optimizer, batches(20))
    updates.flush()
    torch.testing.assert_close(dict(network.state_dict()), dict(expected), rtol=1e-4, atol=1e-6)


def test_in_bfloat16_it_is_as_close_to_float32_as_plain_sgd():
    start = plain()
    networks = [copy.deepcopy(start) for _ in range(3)]
    exact, theirs = networks[:2]
    train(exact, sgd(exact), batches(60))
    train(theirs, sgd(theirs), batches(60), "bfloat16")
    optimizer, updates = low_rank_sgd(networks[2])
    train(networks[2], optimizer, batches(60), "bfloat16")
    updates.flush()
    wanted, found, ours = (network[0].weight - start[0].weight for network in networks)
    assert 0 < (ours - wanted).norm() < 1.1 * (found - wanted).norm()
