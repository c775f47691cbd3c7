"""Speed: saves 25 to 29 % of an epoch of AlexNet's `finetune`; nothing without large linear layers.

Momentum SGD on large linear layers runs without writing their gradients.

In a step of few images the gradient of a linear layer's weight is the product of two thin matrices:
the layer's inputs, and the gradients of its outputs. The momentum, and what it has changed in the
weight, are sums of such products. So the thin matrices are kept, and SGD runs on one coefficient
per row of them. A step then reads the weight twice and writes nothing of its size, where plain SGD
moves eight times that size. With batches of four images that was most of the time of AlexNet's two
large layers in `finetune`.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

NEGLIGIBLE = 2.0**-24
"""Momentum's factor for a gradient below which float32 rounds it away."""


class LowRankUpdates:
    """Takes the steps of SGD without weight decay on the large linear layers of a network.

    Each call of ``optimizer.step()`` updates them, too. They get no gradient and no momentum of
    their size. Taken are linear layers that are trained, larger than the factors of their
    gradients, and do not share their weight; subclasses, which may use it in other ways, are left
    to the optimizer. That has a single parameter group; `batch_size` is the maximum of a step.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int):
        (group,) = optimizer.param_groups
        self._layers: list[LowRankLayer] = []
        if not isinstance(optimizer, torch.optim.SGD) or group["weight_decay"]:
            return  # their updates of a weight are no sums of a few outer products
        momentum = group["momentum"]
        steps = math.ceil(math.log(NEGLIGIBLE) / math.log(momentum)) if momentum else 1
        rows = steps * batch_size
        owners = [id(owned) for _, owned in network.named_parameters(remove_duplicate=False)]
        self._layers = [
            LowRankLayer(layer, optimizer, batch_size, rows)
            for layer in network.modules()
            if type(layer) is nn.Linear
            and layer.weight.requires_grad
            and owners.count(id(layer.weight)) == 1
            and rows * sum(layer.weight.shape) < layer.weight.numel()
        ]
        optimizer.register_step_post_hook(self._step)

    def _step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        for layer in self._layers:
            layer.step(group["lr"], group["momentum"])

    def flush(self) -> None:
        """Bring all weights up to date. To be called before anything else reads or saves them."""
        for layer in self._layers:
            layer.flush()

    def state_dict(self) -> list[list[torch.Tensor] | None]:
        """Return what the next steps depend on. To be called after `flush`."""
        return [layer.state() for layer in self._layers]

    def load_state_dict(self, states: list[list[torch.Tensor] | None]) -> None:
        """Continue from `state_dict`; network and optimizer are to be as they were then."""
        for layer, state in zip(self._layers, states, strict=True):
            layer.load(state)


class LowRankLayer:
    """The gradients of a linear layer that momentum has not forgotten, as factors.

    A row of ``inputs`` and one of ``grads`` are the input of an image, and the gradient of its
    output. The weight is ``layer.weight + sum(pending[i] * outer(grads[i], inputs[i]))``, and its
    momentum ``sum(velocity[i] * outer(grads[i], inputs[i]))``.

    The layer's forward pass uses the factors from here on. If it turns out to be used more than
    once in a step, or for more than a batch of vectors, it is returned to the optimizer. `rows` is
    after how many rows momentum has forgotten a gradient.
    """

    def __init__(self, layer: nn.Linear, optimizer: torch.optim.SGD, batch_size: int, rows: int):
        self._layer, self._optimizer = layer, optimizer
        self._batch_size, self._capacity = batch_size, 2 * rows
        self._velocity = self._pending = layer.weight.new_zeros(0)
        self._buffers: list[torch.Tensor] | None = None
        self._weight: torch.Tensor | None = None
        self._new_rows: tuple[torch.Tensor, torch.Tensor] | None = None
        self._active, self._used_in_step = True, False
        layer.forward = self._forward  # type: ignore[assignment, method-assign]

    @property
    def _rows(self) -> list[torch.Tensor]:
        """The rows of ``inputs`` and of ``grads``, in the precision of autocast."""
        return [buffer[: len(self._velocity)] for buffer in self._buffers or ()]

    def state(self) -> list[torch.Tensor] | None:
        """Return the rows and velocity, None if inactive. To be called after `flush`."""
        if not self._active:
            return None
        return [*(rows.clone() for rows in self._rows), self._velocity]

    def load(self, state: list[torch.Tensor] | None) -> None:
        """Continue from what `state` returned."""
        if state is None:
            self._deactivate()
            return
        *rows, self._velocity = (part.to(self._layer.weight.device) for part in state)
        self._pending, self._weight = torch.zeros_like(self._velocity), None
        self._write_rows(0, rows)

    def _write_rows(self, start: int, rows: list[torch.Tensor]) -> None:
        if self._buffers is None and rows:
            self._buffers = [new.new_empty(self._capacity, new.shape[1]) for new in rows]
        for buffer, new in zip(self._buffers or (), rows, strict=True):
            buffer[start : start + len(new)] = new

    @torch.no_grad()
    def _deactivate(self) -> None:
        """Return the layer and its momentum to the optimizer."""
        self.flush()
        del self._layer.forward
        self._active = False
        if len(self._velocity):
            weight = self._layer.weight
            momentum = torch.empty_like(weight).copy_(self._weighted_sum(self._velocity))
            self._optimizer.state[weight]["momentum_buffer"] = momentum
            self._velocity, self._pending = self._velocity[:0], self._pending[:0]
        self._buffers = self._weight = None

    def _weighted_sum(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return the sum of the rows' outer products, shape (outputs, inputs)."""
        inputs, grads = self._rows
        return (grads * coefficients[:, None].to(grads.dtype)).t() @ inputs

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        layer, device = self._layer, inputs.device.type
        if not torch.is_grad_enabled():
            self.flush()
            return linear(inputs, layer.weight, layer.bias)
        if self._used_in_step or inputs.ndim != 2 or len(inputs) > self._batch_size:
            self._deactivate()
            return layer(inputs)
        self._used_in_step = True
        if torch.is_autocast_enabled(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        return _LowRankLinear.apply(inputs, layer.weight, layer.bias, self)

    def output(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the product of inputs and the weight's transpose, shape (images, outputs)."""
        output = linear(inputs, self._weight_as(inputs.dtype))
        if len(self._pending):
            old_inputs, old_grads = self._rows
            output += (linear(inputs, old_inputs) * self._pending.to(inputs.dtype)) @ old_grads
        return output

    def gradients(
        self, inputs: torch.Tensor, grads: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the gradients of the inputs and of the weight.

        Of the latter only the factors are kept, so it is None, unless the layer was returned to the
        optimizer since its forward pass.
        """
        of_inputs = grads @ self._weight_as(grads.dtype)
        if not self._active:
            return of_inputs, grads.t() @ inputs
        # Detached: otherwise the rows would keep the graph of every step alive.
        self._new_rows = inputs.detach(), grads
        if len(self._pending):
            old_inputs, old_grads = self._rows
            of_inputs += (linear(grads, old_grads) * self._pending.to(grads.dtype)) @ old_inputs
        return of_inputs, None

    def _weight_as(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the layer's weight, which does not change between two calls of `flush`."""
        if self._weight is None:
            self._weight = self._layer.weight.detach().to(dtype)
        return self._weight

    def step(self, lr: float, momentum: float) -> None:
        """Take a step of SGD, if there is a gradient."""
        self._used_in_step = False
        if self._new_rows is None:
            return
        new = len(self._new_rows[0])
        if len(self._velocity) + new > self._capacity:
            self.flush()
        self._write_rows(len(self._velocity), list(self._new_rows))
        self._new_rows = None
        ones = self._velocity.new_ones(new)
        self._velocity = torch.cat([momentum * self._velocity, ones])
        self._pending = torch.cat([self._pending, 0 * ones]) - lr * self._velocity

    @torch.no_grad()
    def flush(self) -> None:
        """Add the pending changes to the layer's weight, and drop negligible rows."""
        if self._pending.any():
            self._layer.weight += self._weighted_sum(self._pending)
            self._pending, self._weight = torch.zeros_like(self._pending), None
        negligible = int((self._velocity < NEGLIGIBLE).sum())  # the first rows are the oldest
        if negligible:
            rows = [rows[negligible:].clone() for rows in self._rows]
            self.load([*rows, self._velocity[negligible:]])


class _LowRankLinear(torch.autograd.Function):
    """A linear layer whose weight gets no gradient."""

    @staticmethod
    def forward(
        context: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        low_rank: LowRankLayer,
    ) -> torch.Tensor:
        context.save_for_backward(inputs)
        context.low_rank, context.has_bias = low_rank, bias is not None
        output = low_rank.output(inputs)
        return output if bias is None else output + bias.to(output.dtype)

    @staticmethod
    def backward(context: Any, grads: torch.Tensor) -> Any:  # type: ignore[override]
        (inputs,) = context.saved_tensors
        of_inputs, of_weight = context.low_rank.gradients(inputs, grads)
        return of_inputs, of_weight, grads.sum(0) if context.has_bias else None, None
