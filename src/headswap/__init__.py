"""Swap the head of a pretrained network, train it three ways, and compare them."""
