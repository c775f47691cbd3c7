"""SGD with momentum that never writes out the gradients of large linear layers.

In a step with few images the gradient of a weight is the product of two thin matrices: what came
in, and the gradient of what went out. Momentum, and what it has moved the weight by, are sums of
such products. So the thin matrices are kept, and SGD runs on one number for each of their rows. A
step then reads the weight twice and writes nothing of its size, where it moved as much as that
eight times: in batches of four, that was most of the time of AlexNet's two large layers.
"""

import math

import torch
from torch import nn
from torch.nn.functional import linear

FORGOTTEN = 2.0**-24
"""The share that momentum has left of a gradient when float32 rounds it away."""


class SGD(torch.optim.SGD):
    """SGD [1]_ over all of a network that requires gradients.

    Parameters
    ----------
    network : torch.nn.Module
        On its device, and in the memory format that it keeps. Its large linear layers compute with
        `Factors` from here on, where these are smaller than the weight, and the weight is the
        layer's own.
    recipe : params.Recipe
        Of which ``lr``, ``momentum`` and ``batch_size`` matter.

    References
    ----------
    .. [1] `torch.optim.SGD`, which trains all else, and whose steps these are too.
    """

    def __init__(self, network, recipe):
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.stride() != torch.empty_like(parameter, device="meta").stride():
                parameter.data = parameter.data.clone()  # a slice of something; now it lies alone
        self._flat = {parameter: nn.Parameter(_flat(parameter)) for parameter in trained}
        of_flat = list(self._flat.values())
        super().__init__(of_flat, lr=recipe.lr, momentum=recipe.momentum, fused=True)
        steps = 1
        if recipe.momentum:
            steps = math.ceil(math.log(FORGOTTEN) / math.log(recipe.momentum))
        rows = steps * recipe.batch_size
        owners = [id(owned) for _, owned in network.named_parameters(remove_duplicate=False)]
        self._factors = [
            Factors(layer, self, recipe.batch_size, rows)
            for layer in network.modules()
            if type(layer) is nn.Linear  # a class derived from it may use its weight in other ways
            and layer.weight.requires_grad
            and owners.count(id(layer.weight)) == 1
            and rows * sum(layer.weight.shape) < layer.weight.numel()
        ]

    @torch.no_grad()
    def step(self):
        """Take a step with the gradients that the backward pass has left."""
        (group,) = self.param_groups
        for parameter, flat in self._flat.items():
            flat.grad = None if parameter.grad is None else _flat(parameter.grad)
            if flat.grad is not None and group["momentum"] and not self.state[flat]:
                self.start(parameter, torch.zeros_like(flat))  # fused, all must start together
        super().step()
        for factors in self._factors:
            factors.step(group["lr"], group["momentum"])

    def start(self, parameter, momentum):
        """Let a parameter go on with a momentum, which lies in memory as it does."""
        self.state[self._flat[parameter]]["momentum_buffer"] = _flat(momentum)

    def zero_grad(self):
        """Forget all gradients."""
        super().zero_grad()
        for parameter in self._flat:
            parameter.grad = None

    def settle(self):
        """Bring all weights up to date: before anything but training reads them."""
        for factors in self._factors:
            factors.settle()

    def state_dict(self):
        """Return all that the next step depends on besides the network, once it is settled."""
        return {**super().state_dict(), "factors": [factors.state() for factors in self._factors]}

    def load_state_dict(self, state):
        """Go on from where `state_dict` was taken, the network being as it was then."""
        super().load_state_dict({key: state[key] for key in state if key != "factors"})
        for factors, kept in zip(self._factors, state["factors"], strict=True):
            factors.load(kept)


def _flat(tensor):
    """Return a parameter's or a gradient's numbers in the order in which they lie in memory.

    It is the same of both. As they are, with channels last, `torch.optim.SGD` would copy every
    gradient on the CPU: fused, it asks for contiguous ones, and then has no use for them.
    """
    return tensor.detach().as_strided((tensor.numel(),), (1,))


class Factors:
    """The gradients that a linear layer's momentum has not forgotten, as factors.

    A row of ``inputs`` and one of ``grads`` are what came in for an image, and the gradient of what
    went out. The weight is ``layer.weight + sum(moved[i] * outer(grads[i], inputs[i]))``, and its
    momentum ``sum(velocity[i] * outer(grads[i], inputs[i]))``.

    Parameters
    ----------
    layer : torch.nn.Linear
        It computes with its factors from here on. If it turns out to be used more than once in a
        step, or for more than a batch of vectors, it is left to the optimizer.
    optimizer : SGD
    batch_size : int
        Rows in a step, at the most.
    rows : int
        After how many momentum has forgotten a gradient.
    """

    def __init__(self, layer, optimizer, batch_size, rows):
        self._layer, self._optimizer = layer, optimizer
        self._batch_size, self._room = batch_size, 2 * rows
        self._velocity = self._moved = layer.weight.new_zeros(0)
        self._buffers = self._base = self._seen = None
        self._on, self._in_use = True, False
        layer.forward = self._forward

    @property
    def _rows(self):
        """The rows of ``inputs`` and of ``grads``, in the precision of the products."""
        return [buffer[: len(self._velocity)] for buffer in self._buffers or ()]

    def state(self):
        """Return rows and velocity (None if given up); once settled, nothing else counts."""
        return [*(rows.clone() for rows in self._rows), self._velocity] if self._on else None

    def load(self, state):
        """Take what `state` returned."""
        if state is None:
            self._give_up()
            return
        *rows, self._velocity = (part.to(self._layer.weight.device) for part in state)
        self._moved, self._base = torch.zeros_like(self._velocity), None
        self._write(0, rows)

    def _write(self, start, rows):
        if self._buffers is None and rows:
            self._buffers = [new.new_empty(self._room, new.shape[1]) for new in rows]
        for buffer, new in zip(self._buffers or (), rows, strict=True):
            buffer[start : start + len(new)] = new

    @torch.no_grad()
    def _give_up(self):
        """Leave the layer to the optimizer, momentum and all."""
        self.settle()
        del self._layer.forward
        self._on = False
        if len(self._velocity):
            weight = self._layer.weight
            momentum = torch.empty_like(weight).copy_(self._product_of_rows(self._velocity))
            self._optimizer.start(weight, momentum)
            self._velocity, self._moved = self._velocity[:0], self._moved[:0]
        self._buffers = self._base = None

    def _product_of_rows(self, shares):
        inputs, grads = self._rows
        return (grads * shares[:, None].to(grads.dtype)).t() @ inputs

    def _forward(self, inputs):
        layer, device = self._layer, inputs.device.type
        if not torch.is_grad_enabled():
            self.settle()
            return linear(inputs, layer.weight, layer.bias)
        if self._in_use or inputs.ndim != 2 or len(inputs) > self._batch_size:
            self._give_up()
            return layer(inputs)
        self._in_use = True
        if torch.is_autocast_enabled(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        return _Product.apply(inputs, layer.weight, layer.bias, self)

    def product(self, inputs):
        """Return the product of inputs and the weight's transpose, shape (images, outputs)."""
        output = linear(inputs, self._base_in(inputs.dtype))
        if len(self._moved):
            ours, theirs = self._rows
            output += (linear(inputs, ours) * self._moved.to(inputs.dtype)) @ theirs
        return output

    def product_back(self, inputs, grads):
        """Return the gradients of inputs and of the weight, of which only the factors are kept.

        So the second is None, unless the layer was given up since its forward pass.
        """
        output = grads @ self._base_in(grads.dtype)
        if not self._on:
            return output, grads.t() @ inputs
        self._seen = inputs.detach(), grads  # or every step's graph would live on in the rows
        if len(self._moved):
            theirs, ours = self._rows
            output += (linear(grads, ours) * self._moved.to(grads.dtype)) @ theirs
        return output, None

    def _base_in(self, dtype):
        """Return the layer's own weight, which stays the same until all is settled."""
        if self._base is None:
            self._base = self._layer.weight.detach().to(dtype)
        return self._base

    def step(self, lr, momentum):
        """Take a step of SGD, if there is a gradient."""
        self._in_use = False
        if self._seen is None:
            return
        new = len(self._seen[0])
        if len(self._velocity) + new > self._room:
            self.settle()
        self._write(len(self._velocity), self._seen)
        self._seen = None
        ones = self._velocity.new_ones(new)
        self._velocity = torch.cat([momentum * self._velocity, ones])
        self._moved = torch.cat([self._moved, 0 * ones]) - lr * self._velocity

    @torch.no_grad()
    def settle(self):
        """Move the layer's weight, and drop the rows that momentum has forgotten."""
        if self._moved.any():
            self._layer.weight += self._product_of_rows(self._moved)
            self._moved, self._base = torch.zeros_like(self._moved), None
        forgotten = int((self._velocity < FORGOTTEN).sum())  # the first rows, being the oldest
        if forgotten:
            kept = [rows[forgotten:].clone() for rows in self._rows]
            self.load([*kept, self._velocity[forgotten:]])


class _Product(torch.autograd.Function):
    """What the layer puts out; its weight gets no gradient of its own."""

    @staticmethod
    def forward(context, inputs, weight, bias, factors):
        context.save_for_backward(inputs)
        context.factors, context.has_bias = factors, bias is not None
        output = factors.product(inputs)
        return output if bias is None else output + bias.to(output.dtype)

    @staticmethod
    def backward(context, grads):
        (inputs,) = context.saved_tensors
        back, of_weight = context.factors.product_back(inputs, grads)
        return back, of_weight, grads.sum(0) if context.has_bias else None, None
