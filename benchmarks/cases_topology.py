"""Death times, forward and backward: against the distances they rest on, and named libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import gudhi
import torch
from cases import Call, Comparison, normal
from ripser import ripser
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from relreps import TopologicalDensificationLoss, death_times


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    """The loss and its gradient."""
    x = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(loss(x), x)


def gudhi_loss(x: Tensor) -> Tensor:
    """GUDHI finds the pairs of points, torch measures them, as one writes it by hand."""
    tree = gudhi.RipsComplex(points=x.detach().numpy()).create_simplex_tree(max_dimension=1)
    tree.compute_persistence()
    edges = torch.from_numpy(tree.flag_persistence_generators()[0][:, 1:].copy()).long()
    return (x[edges[:, 0]] - x[edges[:, 1]]).square().sum(-1).sqrt().sum()


def libraries(x: Tensor) -> dict[str, Call]:
    """torch-topological, which takes many packages, only where it is installed."""
    calls: dict[str, Call] = {}
    if importlib.util.find_spec("torch_topological"):
        from torch_topological.nn import VietorisRipsComplex

        def loss(x: Tensor, rips: Callable[[Tensor], Any]) -> Tensor:
            found = rips(x)
            clouds = found if x.dim() == 3 else [found]
            return torch.stack([part.diagram[:, 1].sum() for cloud in clouds for part in cloud[:1]])

        # Only what the death times need, and as it comes: its default finds loops as well.
        for dim in (0, 1) if x.dim() == 3 else (0,):
            rips = VietorisRipsComplex(dim=dim, keep_infinite_features=False)
            calls[f"torch-topological VietorisRipsComplex(dim={dim})"] = gradient(
                lambda x, rips=rips: loss(x, rips).sum(), x
            )
    clouds = x if x.dim() == 3 else x[None]
    calls["gudhi RipsComplex"] = gradient(
        lambda x: sum(map(gudhi_loss, x), x.new_zeros(())), clouds
    )
    arrays = clouds.numpy()
    calls["scipy pdist + ripser, forward only"] = lambda: [
        ripser(squareform(pdist(points)), maxdim=0, distance_matrix=True) for points in arrays
    ]
    return calls


def cloud(n: int) -> Callable[[bool], dict[str, Call]]:
    def build(quick: bool) -> dict[str, Call]:
        x = normal(n, 128)
        return {
            "relreps": gradient(lambda x: death_times(x).sum(), x),
            "torch.cdist(x, x).sum()": gradient(lambda x: torch.cdist(x, x).sum(), x),
        }

    return build


def against_libraries(*shape: int) -> Callable[[bool], dict[str, Call]]:
    def build(quick: bool) -> dict[str, Call]:
        x = normal(*shape)
        return {"relreps": gradient(lambda x: death_times(x).sum(), x), **libraries(x)}

    return build


def labelled(quick: bool) -> dict[str, Call]:
    x, labels = normal(128, 128), torch.arange(128) % 8
    loss = TopologicalDensificationLoss(1.0)
    batched = x.view(16, 8, 128).transpose(0, 1).contiguous()
    return {
        "relreps": gradient(lambda x: loss(x, labels), x),
        "the same as a batch of clouds": gradient(loss, batched),
        "torch.cdist(x, x).sum()": gradient(lambda x: torch.cdist(x, x).sum(), x),
    }


TOPOLOGY = [
    Comparison("death times of 256 x 128, forward + backward", cloud(256), 1.5),
    Comparison("death times of 1024 x 128, forward + backward", cloud(1024), 0.85),
    Comparison("death times of 2048 x 128, forward + backward", cloud(2048), 0.85),
    Comparison("death times of 1024 x 128 by libraries", against_libraries(1024, 128), 0.2),
    Comparison("death times of 64 clouds of 16 x 128", against_libraries(64, 16, 128), 0.05),
    Comparison("densification loss, 8 classes of 16 x 128", labelled),
]
