"""What computes: networks, weights, features, the training loop, one run."""
