"""Speed: saves 25 to 29 % of an epoch of AlexNet's `finetune`; nothing without large linear layers.

In a step of few images the gradient of a weight is the product of two thin matrices, the layer's
inputs and the gradients of its outputs; the momentum and its changes of the weight are sums of such
products. SGD runs on one coefficient per row of them: it reads the weight twice, and plain SGD
moves eight times that size.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

NEGLIGIBLE = 2.0**-24  # momentum's factor for a gradient below which float32 rounds it away


class LowRankUpdates:
    """Lets each ``optimizer.step()``, of up to `batch_size` images, update large linear layers."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int):
        (group,) = optimizer.param_groups
        self._layers: list[_LowRankLayer] = []
        if not isinstance(optimizer, torch.optim.SGD) or group["weight_decay"]:
            return  # their updates of a weight are no sums of a few outer products
        momentum = group["momentum"]
        steps = math.ceil(math.log(NEGLIGIBLE) / math.log(momentum)) if momentum else 1
        rows = steps * batch_size
        owners = [id(owned) for _, owned in network.named_parameters(remove_duplicate=False)]
        self._layers = [
            _LowRankLayer(layer, optimizer, batch_size, rows)
            for layer in network.modules()
            if type(layer) is nn.Linear  # a subclass may use its weight in other ways
            and layer.weight.requires_grad
            and owners.count(id(layer.weight)) == 1
            and rows * sum(layer.weight.shape) < layer.weight.numel()
        ]

    def flush(self) -> None:
        """Bring all weights up to date, before anything else reads or saves them."""
        for layer in self._layers:
            layer.flush()

    def state_dict(self) -> list[list[torch.Tensor] | None]:
        """Return what the next steps depend on after `flush`."""
        return [layer.state() for layer in self._layers]

    def load_state_dict(self, states: list[list[torch.Tensor] | None]) -> None:
        """Continue from `state_dict`; network and optimizer are to be as they were then."""
        for layer, state in zip(self._layers, states, strict=True):
            layer.load(state)


class _LowRankLayer:
    """The inputs of a linear layer, and the gradients of its outputs: at most `rows` count.

    The weight lacks their outer products times ``pending``; times ``velocity`` they are its
    momentum. The optimizer gets a layer back that is used for more than a batch of vectors a step.
    """

    def __init__(self, layer: nn.Linear, optimizer: torch.optim.SGD, batch_size: int, rows: int):
        self._layer, self._optimizer = layer, optimizer
        self._batch_size, self._capacity = batch_size, 2 * rows
        self._velocity = self._pending = layer.weight.new_zeros(0)
        self._buffers: list[torch.Tensor] = []
        self.new_rows: list[torch.Tensor] = []
        self._weight: torch.Tensor | None = None  # as of the last flush, in autocast's precision
        self.active, self._used_in_step = True, False
        layer.forward = self._forward  # type: ignore[assignment, method-assign]
        optimizer.register_step_post_hook(self._step)

    @property
    def _rows(self) -> list[torch.Tensor]:
        return [buffer[: len(self._velocity)] for buffer in self._buffers]

    def state(self) -> list[torch.Tensor] | None:
        return [*map(torch.clone, self._rows), self._velocity] if self.active else None

    def load(self, state: list[torch.Tensor] | None) -> None:
        if state is None:
            return self._deactivate()
        *rows, self._velocity = (part.to(self._layer.weight.device) for part in state)
        self._pending, self._weight = torch.zeros_like(self._velocity), None
        self._write_rows(0, rows)

    def _write_rows(self, start: int, rows: list[torch.Tensor]) -> None:
        if not self._buffers:
            self._buffers = [new.new_empty(self._capacity, new.shape[1]) for new in rows]
        for buffer, new in zip(self._buffers, rows, strict=True):
            buffer[start : start + len(new)] = new

    @torch.no_grad()
    def _deactivate(self) -> None:
        self.flush()
        del self._layer.forward
        if len(self._velocity):
            weight = self._layer.weight
            momentum = torch.empty_like(weight).copy_(self._weighted_sum(self._velocity))
            self._optimizer.state[weight]["momentum_buffer"] = momentum
        self._velocity = self._pending = self._velocity[:0]
        self.active, self._buffers, self._weight = False, [], None

    def _weighted_sum(self, coefficients: torch.Tensor) -> torch.Tensor:
        inputs, grads = self._rows
        return (grads * coefficients[:, None].to(grads.dtype)).t() @ inputs

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight, bias, device = self._layer.weight, self._layer.bias, inputs.device.type
        if not torch.is_grad_enabled():
            self.flush()
        elif self._used_in_step or inputs.ndim != 2 or len(inputs) > self._batch_size:
            self._deactivate()
        else:
            self._used_in_step = True
            if torch.is_autocast_enabled(device):
                inputs = inputs.to(torch.get_autocast_dtype(device))
            output = _LowRankProduct.apply(inputs, weight, self)
            return output if bias is None else output + bias.to(output.dtype)
        return linear(inputs, weight, bias)

    def multiply(self, left: torch.Tensor, transposed: bool) -> torch.Tensor:
        if self._weight is None:
            self._weight = self._layer.weight.detach().to(left.dtype)
        product = linear(left, self._weight) if transposed else left @ self._weight
        if len(self._pending):
            read, written = self._rows if transposed else reversed(self._rows)
            product += (linear(left, read) * self._pending.to(left.dtype)) @ written
        return product

    def _step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._used_in_step = False
        if not self.new_rows:
            return
        (group,), new = optimizer.param_groups, len(self.new_rows[0])
        if len(self._velocity) + new > self._capacity:
            self.flush()
        self._write_rows(len(self._velocity), self.new_rows)
        self.new_rows, ones = [], self._velocity.new_ones(new)
        self._velocity = torch.cat([group["momentum"] * self._velocity, ones])
        self._pending = torch.cat([self._pending, 0 * ones]) - group["lr"] * self._velocity

    @torch.no_grad()
    def flush(self) -> None:
        """Add the pending changes to the layer's weight, and drop negligible rows."""
        if self._pending.any():
            self._layer.weight += self._weighted_sum(self._pending)
            self._pending, self._weight = torch.zeros_like(self._pending), None
        if old := int((self._velocity < NEGLIGIBLE).sum()):  # the first rows are the oldest
            self.load([*(rows[old:].clone() for rows in self._rows), self._velocity[old:]])


class _LowRankProduct(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Any, weight: Any, low_rank: _LowRankLayer) -> Any:
        context.save_for_backward(inputs)
        context.low_rank = low_rank
        return low_rank.multiply(inputs, transposed=True)

    @staticmethod
    def backward(context: Any, grads: Any) -> Any:
        (inputs,), low_rank = context.saved_tensors, context.low_rank
        of_inputs = low_rank.multiply(grads, transposed=False)
        if not low_rank.active:  # the optimizer has got the layer back since the forward pass
            return of_inputs, grads.t() @ inputs, None
        # Detached: otherwise the rows would keep the graph of every step alive.
        low_rank.new_rows = [inputs.detach(), grads]
        return of_inputs, None, None
