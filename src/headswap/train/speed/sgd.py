"""Speed: `torch.optim.SGD` without copies of channels-last gradients (ResNet-18 in bfloat16).

On the CPU, torch's fused SGD makes a contiguous copy of every gradient that is not contiguous, and
does not use it. So it is given parameters and gradients as flat views of their memory.
"""

from typing import Any

import torch
from torch import nn

from headswap.params import Recipe
from headswap.train.speed.low_rank import (
    LowRankGradients,
    large_linear_layers,
    rows_until_negligible,
)


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum for a network [1]_, in the same steps as torch's.

    Parameters
    ----------
    network
        On its device and in its final memory format. All that requires gradients is trained; of
        its large linear layers `low_rank.LowRankGradients` takes the steps.
    recipe
        Of which ``lr``, ``momentum`` and ``batch_size`` are used.

    References
    ----------
    .. [1] `torch.optim.SGD`, with its arguments ``lr`` and ``momentum``.
    """

    def __init__(self, network: nn.Module, recipe: Recipe):
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.stride() != torch.empty_like(parameter, device="meta").stride():
                parameter.data = parameter.data.clone()  # it was a slice of a larger tensor
        self._flat = {parameter: nn.Parameter(_flat_view(parameter)) for parameter in trained}
        flat = list(self._flat.values())
        super().__init__(flat, lr=recipe.lr, momentum=recipe.momentum, fused=True)
        rows = rows_until_negligible(recipe.momentum, recipe.batch_size)
        self._low_rank = [
            LowRankGradients(layer, self._start_momentum, recipe.batch_size, rows)
            for layer in large_linear_layers(network, rows)
        ]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take a step with the gradients of the last backward pass."""
        (group,) = self.param_groups
        for parameter, flat in self._flat.items():
            flat.grad = None if parameter.grad is None else _flat_view(parameter.grad)
            if flat.grad is not None and group["momentum"] and not self.state[flat]:
                # Fused SGD takes only parameters that all have a momentum, or none.
                self._start_momentum(parameter, torch.zeros_like(flat))
        super().step()
        for gradients in self._low_rank:
            gradients.step(group["lr"], group["momentum"])

    def _start_momentum(self, parameter: nn.Parameter, momentum: torch.Tensor) -> None:
        self.state[self._flat[parameter]]["momentum_buffer"] = _flat_view(momentum)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        for parameter in self._flat:
            parameter.grad = None

    def flush(self) -> None:
        """Bring all weights up to date. To be called before anything else reads or saves them."""
        for gradients in self._low_rank:
            gradients.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on besides the network. Call `flush` before."""
        low_rank = [gradients.state() for gradients in self._low_rank]
        return {**super().state_dict(), "low_rank": low_rank}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`; the network is to be as it was then."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for gradients, state in zip(self._low_rank, state_dict["low_rank"], strict=True):
            gradients.load(state)


def _flat_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's numbers in the order of its memory, which is that of its gradient, too."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))
