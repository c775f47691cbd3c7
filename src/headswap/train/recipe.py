"""A recipe of ``params.yaml`` as torch's own loss, optimizer and schedule."""

from torch import nn, optim
from torch.optim import lr_scheduler

from headswap.params import Recipe
from headswap.train.dataset import ImageDataset


def make_loss(recipe: Recipe, dataset: ImageDataset) -> nn.Module:
    """Return cross-entropy; balanced weights are n / (classes * images of the class)."""
    weights = None
    if recipe.class_weights == "balanced":
        counts = dataset.labels["train"].bincount(minlength=len(dataset.classes))
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
    return nn.CrossEntropyLoss(weights, label_smoothing=recipe.label_smoothing)


def make_optimizer(recipe: Recipe, network: nn.Module) -> optim.Optimizer:
    """Return the optimizer of all parameters that require gradients."""
    assert isinstance(recipe.lr, float)  # a list has been tuned
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if recipe.optimizer == "adamw":
        return optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay)
    return optim.SGD(trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, to be stepped after each epoch."""
    warmup = recipe.warmup_epochs
    schedule: lr_scheduler.LRScheduler
    if recipe.schedule == "cosine":
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs - warmup)
    else:
        schedule = lr_scheduler.StepLR(optimizer, recipe.lr_step, recipe.lr_gamma)
    if not warmup:
        return schedule
    rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup)  # as torchvision's references
    return lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warmup])
