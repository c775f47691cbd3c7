"""The data wing: fetches the photographs and verifies them. It does not import torch."""
