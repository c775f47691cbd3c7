"""Time the probe, and compare it with scikit-learn's solver and with a head trained by SGD.

Synthetic features have the spectrum of real ones; the real ones are of EfficientNet-Lite0, with its
ImageNet weights of the test extra. Run it, after `dvc repro verify` has laid out the images:

    python benchmarks/probe.py > benchmarks/PROBE.md
"""

import contextlib
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from headswap.images.index import read_index
from headswap.images.preprocessing import Preprocessing
from headswap.runs import provenance
from headswap.train import probe
from headswap.train.dataset import evaluation_batch
from headswap.train.features import compute_features
from headswap.train.networks import replace_layer
from headswap.train.probe import fit_probe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from my_networks import efficientnet_lite0  # noqa: E402

BATCH = 32
SEEDS = range(5)


def synthetic(images, features, classes, distance):
    """Return features whose variances fall as those of EfficientNet-Lite0 do, and labels."""
    random = np.random.default_rng(0)
    deviations = np.arange(1, features + 1) ** -0.45
    labels = random.integers(classes, size=images)
    centers = random.normal(size=(classes, features)) * deviations * distance
    drawn = centers[labels] + random.normal(size=(images, features)) * deviations
    drawn = drawn @ np.linalg.qr(random.normal(size=(features, features)))[0]
    return np.maximum(drawn / drawn.std(), 0).astype(np.float32), labels


def real():
    """Return features and labels of the training and of the validation images."""
    index = read_index(ROOT / "data/images")
    backbone = efficientnet_lite0()
    replace_layer(backbone, "_fc", torch.nn.Identity())
    for split, names in index.names.items():
        paths = [index.folder / name for name in names]
        starts = range(0, len(paths), BATCH)
        batches = (evaluation_batch(paths[n : n + BATCH], Preprocessing()) for n in starts)
        features = compute_features(backbone, batches, contextlib.nullcontext(), "cpu").numpy()
        yield features, np.array(index.labels(split))


def train_sgd(features, labels, seed):
    """Return weight and bias after 15 epochs with the learning rate of the tutorial."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = torch.nn.Linear(features.shape[1], 2)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    features, labels = torch.from_numpy(features), torch.from_numpy(labels)
    for _ in range(15):
        for batch in torch.randperm(len(labels), generator=random).split(4):
            optimizer.zero_grad()
            outputs = head(features[batch])
            torch.nn.functional.cross_entropy(outputs, labels[batch]).backward()
            optimizer.step()
        scheduler.step()
    return head.weight.detach().numpy(), head.bias.detach().numpy()


def judge(weight, bias, features, labels):
    """Return accuracy and log loss."""
    log_proba = special.log_softmax(features @ weight.T + bias, axis=1)
    accuracy = (log_proba.argmax(axis=1) == labels).mean()
    return accuracy, -log_proba[np.arange(len(labels)), labels].mean()


def timed(function, *arguments):
    """Return what a function returns, and the seconds of the one core that it used."""
    start = time.process_time()
    with threadpool_limits(1):
        return function(*arguments), time.process_time() - start


def time_fits(problems):
    """Print how long the whole search and the last fit take."""
    print("## Time\n")
    print("| images | features | classes | seconds | C | values of C tried | held-out accuracy |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for features, labels in problems:
        classes = labels.max() + 1
        fit, seconds = timed(fit_probe, features, labels, classes, 0)
        accuracy = next(step.accuracy for step in fit.path if step.C == fit.C)
        shape = " | ".join(map(str, (*features.shape, classes)))
        print(f"| {shape} | {seconds:.1f} | {fit.C:.3g} | {len(fit.path)} | {accuracy:.1%} |")
        sys.stdout.flush()


def solve(features, labels, C, tolerance):
    """Return weight and bias for features, as the last fit of the probe finds them."""
    scores, mean, basis = probe._principal_components(features)
    start = np.zeros((labels.max() + 1, scores.shape[1] + 1))
    head = probe._minimize(scores, labels, C, start, tolerance)
    weight = head[:, :-1] @ basis.T
    return weight, head[:, -1] - weight @ mean


def solve_with_sklearn(features, labels, C, tolerance):
    """Return weight and bias of scikit-learn."""
    fit = LogisticRegression(C=C, tol=tolerance, max_iter=10_000).fit(features, labels)
    return fit.coef_, fit.intercept_


def compare_solvers(features, labels, C=100):
    """Print how far from the minimum our solver and scikit-learn's end, at one C."""
    centred = features - features.mean(axis=0, dtype=float)
    centred /= np.linalg.norm(centred) / np.sqrt(len(centred))
    rows = []
    for name, solver in (("probe", solve), ("scikit-learn", solve_with_sklearn)):
        for tolerance in (1e-4, 1e-5, 1e-6, 1e-8):
            (weight, bias), seconds = timed(solver, centred, labels, C, tolerance)
            loss = judge(weight, bias, centred, labels)[1]
            penalty = np.square(weight).sum() / (2 * C * len(labels))
            rows.append((name, tolerance, seconds, loss + penalty))
    least = min(row[-1] for row in rows)
    shape = " × ".join(map(str, (*features.shape, labels.max() + 1)))
    print(f"\n## Solvers\n\nOne fit, {shape}, C = {C}: penalised log loss above the least.\n")
    print("| solver | tolerance | seconds | excess |\n|---|---:|---:|---:|")
    for name, tolerance, seconds, loss in rows:
        print(f"| {name} | {tolerance:.0e} | {seconds:.1f} | {loss - least:.1e} |")
    sys.stdout.flush()


def compare_heads(train, train_labels, val, val_labels):
    """Print how good the probe and heads trained by SGD are, on features of three scales."""
    print(
        "\n## EfficientNet-Lite0\n\nOn the validation images, with all features multiplied: the "
        f"probe, and heads trained by SGD (mean and standard deviation of {len(SEEDS)}).\n"
    )
    print("| factor | head | C | accuracy | log loss |\n|---:|---|---:|---:|---:|")
    for factor in map(np.float32, (0.1, 1, 10)):
        fit = fit_probe(factor * train, train_labels, 2, 0)
        accuracy, loss = judge(fit.weight, fit.bias, factor * val, val_labels)
        print(f"| {factor:g} | probe | {fit.C:.3g} | {accuracy:.1%} | {loss:.3f} |")
        heads = [train_sgd(factor * train, train_labels, seed) for seed in SEEDS]
        judged = np.array([judge(*head, factor * val, val_labels) for head in heads])
        (accuracy, loss), (of_accuracy, of_loss) = judged.mean(axis=0), judged.std(axis=0, ddof=1)
        accuracy = f"{accuracy:.1%} ± {of_accuracy:.1%}"
        print(f"| {factor:g} | SGD | – | {accuracy} | {loss:.3f} ± {of_loss:.3f} |")


def main():
    """Print all three tables."""
    torch.set_num_threads(1)
    (train, train_labels), (val, val_labels) = real()
    middle = synthetic(10_000, 1_280, 20, 0.12)
    made_by = ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "scipy", "numpy"))
    print(
        "# The probe\n\nMade by `python benchmarks/probe.py` on "
        f"{provenance.machine()['processor']}, {made_by}. Seconds are of one core.\n"
    )
    time_fits([(train, train_labels), middle, synthetic(10_000, 2_048, 100, 0.15)])
    compare_solvers(*middle)
    compare_heads(train, train_labels, val, val_labels)


if __name__ == "__main__":
    main()
