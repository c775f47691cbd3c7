"""The training wing: pretrained weights, features, training runs and cells."""
