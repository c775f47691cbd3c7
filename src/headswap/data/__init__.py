"""Fetches the photographs and verifies them. It does not import torch."""
