"""Compare faster explanations, which only convolutional networks have, with occlusion.

One of them could replace occlusion if, over the photographs, the median of the rank correlation of
the 14 x 14 squares were 0.7 or more, and if 90 % of the photographs had their strongest quarter in
the same place. Run it in the folder of a project, with a cell and some of its photographs:

    python benchmarks/explain.py resnet18-probe data/images/val/*/*[15].jpg > EXPLAIN.md
"""

import statistics
import sys
import time
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from headswap.paths import MODELS
from headswap.predict.explain import SQUARES, heat_map
from headswap.predict.model import load_model
from headswap.runs import provenance

STEPS = 20
"""Of integrated gradients."""


def log_odds(network, images, target):
    """Return the sum of a class's log-odds, as `heat_map` takes them."""
    logits = network.network(images)
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return (logits[:, target] - others.logsumexp(1)).sum()


def occlusion(network, image, target):
    """Return the map that `headswap predict --explain` draws."""
    return torch.from_numpy(heat_map([network], image, target))[None, None]


def class_activation(network, image, target, pooled):
    """Return Grad-CAM or, with gradients that are not pooled, HiResCAM, of the last feature map."""
    maps = []
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output: (
                maps.append(output) if output.ndim == 4 and output.shape[-1] > 1 else None
            )
        )
        for module in network.network.modules()
    ]
    value = log_odds(network, image.clone().requires_grad_(), target)
    for hook in hooks:
        hook.remove()
    (gradient,) = torch.autograd.grad(value, maps[-1])
    gradient = gradient.mean((2, 3), keepdim=True) if pooled else gradient
    return (gradient * maps[-1]).sum(1, keepdim=True).clamp(min=0).detach()


def input_gradient(network, image, target, steps):
    """Return input x gradient, of more than one step integrated gradients from the mean colour."""
    shares = torch.linspace(1, 1 / steps, steps)[:, None, None, None]
    images = (shares * image).requires_grad_()
    (gradients,) = torch.autograd.grad(log_odds(network, images, target), images)
    return (image * gradients.mean(0, keepdim=True)).sum(1, keepdim=True)


METHODS = {
    "occlusion": occlusion,
    "Grad-CAM": lambda *arguments: class_activation(*arguments, pooled=True),
    "HiResCAM": lambda *arguments: class_activation(*arguments, pooled=False),
    "input x gradient": lambda *arguments: input_gradient(*arguments, steps=1),
    "integrated gradients": lambda *arguments: input_gradient(*arguments, steps=STEPS),
}


def squares(values):
    """Return a map's mean in each of the squares, 0 where it is negative."""
    if values.shape[-1] < SQUARES:
        values = interpolate(values, (SQUARES, SQUARES), mode="bilinear")
    return adaptive_avg_pool2d(values.double(), SQUARES)[0, 0].clamp(min=0)


def compare(network, path):
    """Return for each method its agreement with occlusion on a photograph, and its seconds."""
    image = network.preprocess(path)
    with torch.no_grad():
        target = int(network(image).argmax())
    found, rows = {}, {}
    for name, method in METHODS.items():
        start = time.perf_counter()
        found[name] = squares(method(network, image, target))
        seconds = time.perf_counter() - start
        quarters = [adaptive_avg_pool2d(found[n][None], 2).argmax() for n in ("occlusion", name)]
        count = SQUARES**2 // 10
        top = [set(found[n].flatten().topk(count).indices.tolist()) for n in ("occlusion", name)]
        rows[name] = {
            "rank correlation": spearmanr(found["occlusion"].flatten(), found[name].flatten())[0],
            "same quarter": float(quarters[0] == quarters[1]),
            "of the strongest tenth": len(top[0] & top[1]) / count,
            "seconds": seconds,
        }
    return rows


def main():
    """Print the table."""
    cell, paths = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    network = load_model(MODELS / cell)
    results = [compare(network, Path(path)) for path in paths]
    machine = provenance.machine()
    print("# Faster explanations and occlusion\n")
    print(
        f"`python benchmarks/explain.py {cell} …` on {len(paths)} validation photographs, "
        f"{date.today()}, on {machine['processor']}, one thread. Medians; of the quarters and the "
        "strongest tenth of the squares, means.\n"
    )
    table = pd.DataFrame(
        {
            name: {
                "rank correlation": statistics.median(r[name]["rank correlation"] for r in results),
                "same quarter": statistics.fmean(r[name]["same quarter"] for r in results),
                "strongest tenth": statistics.fmean(
                    r[name]["of the strongest tenth"] for r in results
                ),
                "seconds": statistics.median(r[name]["seconds"] for r in results),
            }
            for name in METHODS
        }
    ).T
    print(table.to_markdown(floatfmt=".2f"))


if __name__ == "__main__":
    main()
