"""Death times, forward and backward: against the distances they rest on, and named libraries."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import gudhi
import torch
from cases import Build, Call, Comparison, calls, normal
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


RIPS = find_spec("torch_topological") is not None


def rips_names(clouds: bool) -> tuple[str, ...]:
    """torch-topological, which takes many packages, only where it is installed.

    Only what the death times need, and as it comes: its default finds loops as well.
    """
    dims = (0, 1) if clouds else (0,)
    return tuple(f"torch-topological VietorisRipsComplex(dim={dim})" for dim in dims * RIPS)


def rips_loss(x: Tensor, dim: int) -> Call:
    from torch_topological.nn import VietorisRipsComplex

    rips = VietorisRipsComplex(dim=dim, keep_infinite_features=False)

    def loss(x: Tensor) -> Tensor:
        found = rips(x)
        clouds = found if x.dim() == 3 else [found]
        return torch.stack([part.diagram[:, 1].sum() for cloud in clouds for part in cloud[:1]])

    return gradient(lambda x: loss(x).sum(), x)


def cloud(n: int) -> Build:
    @calls("relreps", "torch.cdist(x, x).sum()")
    def build(quick: bool) -> tuple[Call, ...]:
        x = normal(n, 128)
        return (
            gradient(lambda x: death_times(x).sum(), x),
            gradient(lambda x: torch.cdist(x, x).sum(), x),
        )

    return build


def against_libraries(*shape: int) -> Build:
    rips = rips_names(clouds=len(shape) == 3)

    @calls("relreps", *rips, "gudhi RipsComplex", "scipy pdist + ripser, forward only")
    def build(quick: bool) -> tuple[Call, ...]:
        x = normal(*shape)
        clouds = x if x.dim() == 3 else x[None]
        arrays = clouds.numpy()
        return (
            gradient(lambda x: death_times(x).sum(), x),
            *(rips_loss(x, dim) for dim in range(len(rips))),
            gradient(lambda x: sum(map(gudhi_loss, x), x.new_zeros(())), clouds),
            lambda: [
                ripser(squareform(pdist(points)), maxdim=0, distance_matrix=True)
                for points in arrays
            ],
        )

    return build


@calls("relreps", "the same as a batch of clouds", "torch.cdist(x, x).sum()")
def labelled(quick: bool) -> tuple[Call, ...]:
    x, labels = normal(128, 128), torch.arange(128) % 8
    loss = TopologicalDensificationLoss(1.0)
    batched = x.view(16, 8, 128).transpose(0, 1).contiguous()
    return (
        gradient(lambda x: loss(x, labels), x),
        gradient(loss, batched),
        gradient(lambda x: torch.cdist(x, x).sum(), x),
    )


TOPOLOGY = [
    Comparison("death times of 256 x 128, forward + backward", cloud(256), 1.5),
    Comparison("death times of 1024 x 128, forward + backward", cloud(1024), 0.85),
    Comparison("death times of 2048 x 128, forward + backward", cloud(2048), 0.85),
    Comparison("death times of 1024 x 128 by libraries", against_libraries(1024, 128), 0.2),
    Comparison("death times of 64 clouds of 16 x 128", against_libraries(64, 16, 128), 0.05),
    Comparison("densification loss, 8 classes of 16 x 128", labelled),
]
