"""Clouds, and their trees by SciPy."""

import itertools

import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

close = torch.testing.assert_close
METRICS = {"l2": "euclidean", "l1": "cityblock", "linf": "chebyshev", "sqeuclidean": "sqeuclidean"}
METHODS = ("closure", "prim", "boruvka", "single_linkage")
DEVICE_METHODS = METHODS[:3]
NAMES = (
    "l1",
    "l2",
    "sqeuclidean",
    "linf",
    "cosine",
    "f0",
    ("lp", 3.0),
    ("lp", 0.5),
    ("fp", 0.5),
    ("fp", 2),
)
CLOUDS = ("random", "lattice", "duplicated", "near-duplicates")


def cloud(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def matrix(x, metric="l2"):
    return squareform(pdist(x.detach().numpy(), METRICS[metric]))


def tree(d):
    """Edges of the minimum spanning tree, and their total length, by SciPy."""
    found = minimum_spanning_tree(d)
    return found.nonzero(), found.sum()


def grad(f, *points):
    points = [p.detach().clone().requires_grad_() for p in points]
    return torch.autograd.grad(f(*points).sum(), points)


def cloud_of(kind, n=40, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n + width)
    x = torch.randn(n, width, dtype=torch.float64, generator=generator)
    if kind == "lattice":
        x = torch.randint(0, 3, (n, width), generator=generator).double()
    elif kind == "duplicated":
        x = x[: n // 4].repeat(4, 1)
    elif kind == "near-duplicates":
        # Around zero, where float32 holds such differences as well.
        x = x[: n // 2].round().repeat(2, 1) * (torch.arange(n) >= n // 2)[:, None] + 1e-10 * x
    return x.to(dtype)


def kruskal(d):
    """The tree by definition: pairs in the order of (length, i, j), kept if they join two parts."""
    n = len(d)
    part, edges = list(range(n)), []
    for _, i, j in sorted((d[i, j].item(), i, j) for i, j in itertools.combinations(range(n), 2)):
        if part[i] != part[j]:
            edges.append([i, j])
            part = [part[i] if p == part[j] else p for p in part]
    return torch.tensor(edges)
