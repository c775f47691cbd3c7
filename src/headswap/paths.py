"""Where files are, relative to the project's folder."""

from pathlib import Path

ARCHIVE = Path("data/archive.zip")
IMAGES = Path("data/images")
TEST = Path("data/test")
WEIGHTS = Path("data/weights")
EMBEDDINGS = Path("data/embeddings")
SHIPPED_MANIFEST = Path("data/manifest.csv")
PUBLISHED = Path("data/published")
NETWORKS = Path("networks")
RUNS = Path("runs")
MODELS = Path("models")
METRICS = Path("metrics")
DATASET_METRICS = METRICS / "dataset.json"
CELL_METRICS = METRICS / "cells"
TIMING = METRICS / "timing"
CURVES = Path("plots/curves")
PREDICTIONS = Path("plots/predictions")
COMPARISON_PLOTS = Path("plots/comparison")

OUTPUTS = (
    *(ARCHIVE, IMAGES, TEST, WEIGHTS, EMBEDDINGS, RUNS, MODELS, METRICS),
    *(Path("plots"), Path("dvc_plots"), Path("demo")),
)
"""What stages and `make` write, replace and delete."""

SOURCES = (
    *(Path("src"), Path("scripts"), NETWORKS, SHIPPED_MANIFEST, PUBLISHED),
    *(Path("dvc.yaml"), Path("dvc.lock"), Path("params.yaml")),
)
"""What stages read, besides what others write and photographs."""
