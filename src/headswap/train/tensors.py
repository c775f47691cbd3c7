"""Tensors in safetensors files whose bytes depend on their content alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from headswap.io import atomic_write


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> None:
    """Write tensors and JSON-like metadata; `io.read_tensors` reads them.

    All metadata go into one entry, because safetensors writes several in random order.
    """
    contiguous = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
    }
    text = json.dumps(metadata, sort_keys=True)
    with atomic_write(path, SafetensorError) as temporary:
        save_file(contiguous, temporary, metadata={"headswap": text})
