"""The strategies that are compared: how each makes its network, and what one pass costs.

FLOPs are those of convolutions and linear layers, two for a multiplication and its addition, per sequence:
``torch.utils.flop_counter`` counts the products that forward (inference), and forward and backward (training), ask
for. `half` counts tied layers, and the mixed layers of a mixed network, as half products: half of that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from strand_nets import ProfileNet, Scan, StrandMean, of_equirc, of_rcps, shape
from tasks import Task
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rcps_convert import convert_model, plan_conversion

Maker = Callable[[int], nn.Module]
"""A fresh network from a seed."""


@dataclass(frozen=True)
class Way:
    """A strategy.

    Attributes:
        make: from a data set and a width, the `Maker`.
        halved: the layers that half products compute: "all", "features", "mixed" or none.
        augmented: train on random reverse complements.
        each: the loss is the mean of the losses of both strands' readings.
        consistency: weight of the distance between the readings of both strands in the loss.
        doubled: it is also trained at twice each width.
        profiles: it can answer with profiles.
        captured: a training step can be captured as a CUDA graph; a mixed layer moves a table to the GPU in each pass.
    """

    make: Callable[[Task, int], Maker]
    halved: str = ""
    augmented: bool = False
    each: bool = False
    consistency: float = 0.0
    doubled: bool = False
    profiles: bool = True
    captured: bool = True


def network(task: Task, width: int) -> nn.Module:
    """The plain network for a data set."""
    return ProfileNet(width) if task.kind == "profile" else Scan(width, task.length)


def example(task: Task) -> Tensor:
    """Two sequences."""
    return torch.zeros(2, 4, task.length)


def plain(task: Task, width: int) -> Maker:
    """The network as it is."""

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return network(task, width)

    return make


def converted(strategy: str) -> Callable[[Task, int], Maker]:
    """The network, converted; analysed once and applied to each seed's."""

    def prepare(task: Task, width: int) -> Maker:
        fresh = plain(task, width)
        how = {"outputs": task.outputs, "strategy": strategy, "verify": False}
        plan = plan_conversion(fresh(0), example(task), **how)
        return lambda seed: plan.apply(fresh(seed), in_place=True)

    return prepare


def mean_before_head(task: Task, width: int) -> Maker:
    """Tied features, of which the mean over both strands goes into a plain head."""
    fresh, pairs, left = plain(task, width), width // 2, shape(task.length)[2]
    plan = plan_conversion(fresh(0).features, example(task), outputs="+" * pairs + "-" * pairs, verify=False)

    def make(seed: int) -> nn.Module:
        features = fresh(seed).features
        return StrandMean(plan.apply(features, in_place=True), pairs, left, width)

    return make


def layers(build: Callable[[int, int], nn.Module]) -> Callable[[Task, int], Maker]:
    """A network of another package's layers."""

    def prepare(task: Task, width: int) -> Maker:
        def make(seed: int) -> nn.Module:
            torch.manual_seed(seed)
            return build(width, task.length)

        make(0)  # tells at once that the package is missing
        return make

    return prepare


WAYS: dict[str, Way] = {
    "plain": Way(plain),
    "augmented": Way(plain, augmented=True),
    "tied": Way(converted("tied"), halved="all", doubled=True),
    "tied, mean before head": Way(mean_before_head, halved="features", doubled=True, profiles=False),
    "conjoined": Way(converted("conjoined")),
    "mixed": Way(converted("mixed"), halved="mixed", captured=False),
    "consistency": Way(plain, consistency=1.0),
    "each strand": Way(plain, each=True),
    "rcps-pytorch": Way(layers(of_rcps), profiles=False),
    "equirc": Way(layers(of_equirc), doubled=True, profiles=False),
}
"""The strategies that start from scratch, by name."""

AFTER = ("matched", "distilled")
"""What is made from the augmented networks once they are trained."""


def matched(trained: nn.Module, task: Task) -> nn.Module:
    """A trained network, tied with the pairs that it has learned, looking at 1,024 training sequences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tying changes a trained network is what is measured here
        how = {"outputs": task.outputs, "init": "match", "sequences": task.splits["train"][0][:1024].float()}
        return convert_model(trained, example(task), verify=False, **how)


# --- what it costs ------------------------------------------------------------------------------


def flops(model: nn.Module, x: Tensor, training: bool) -> float:
    """FLOPs per sequence, of a forward pass or of forward and backward."""
    with FlopCounterMode(display=False) as counted, torch.set_grad_enabled(training):
        y = model.train(training)(x)
        if training:
            y.square().mean().backward()
    return counted.get_total_flops() / len(x)


def share_halved(way: Way, model: nn.Module, x: Tensor, training: bool) -> float:
    """FLOPs per sequence in layers that half products compute."""
    if way.halved == "all":
        return flops(model, x, training)
    if way.halved == "features":
        return flops(model.features, x, training)
    mixed = [m for m in model.modules() if hasattr(m, "cross_weight")] if way.halved == "mixed" else []
    return sum(_layer_flops(model, m, x, training) for m in mixed)


def _layer_flops(model: nn.Module, layer: nn.Module, x: Tensor, training: bool) -> float:
    """FLOPs of one mixed layer, W and V on both strands: an inner layer's training costs three forward passes."""
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda module, args, y: seen.append(y[0, 0].numel() * y.shape[0]))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    return 2 * 2 * layer.weight.numel() * sum(seen) / len(x) * (3 if training else 1)


def cost(way: Way, model: nn.Module, task: Task) -> dict[str, float]:
    """Parameters, and FLOPs per sequence of a pass in inference and in training; `half` with half products."""
    model, x = copy.deepcopy(model), task.splits["train"][0][:4].float()
    found: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters())}
    for name, training in (("inference", False), ("training", True)):
        passes = 2 if training and (way.consistency or way.each) else 1
        whole = passes * flops(model, x, training)
        found[name] = whole
        found[f"{name}, half"] = whole - share_halved(way, model, x, training) / 2
    return found
