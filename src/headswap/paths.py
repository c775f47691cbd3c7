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
LOOKS = METRICS / "test/looks.csv"  # a line each time that a test set is evaluated, for Git
DATASET_METRICS = METRICS / "dataset.json"
CELL_METRICS = METRICS / "cells"
TIMING = METRICS / "timing"
CURVES = Path("plots/curves")
PREDICTIONS = Path("plots/predictions")
COMPARISON_PLOTS = Path("plots/comparison")

# What stages and `make` write, replace and delete; and what else stages read, beside photographs.
OUTPUTS = (
    *(ARCHIVE, IMAGES, TEST, WEIGHTS, EMBEDDINGS, RUNS, MODELS, METRICS),
    *("plots", "dvc_plots", "demo"),
)
SOURCES = (NETWORKS, PUBLISHED, "src", "scripts", "dvc.yaml", "dvc.lock", "params.yaml")
