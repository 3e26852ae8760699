"""Clouds, and their trees by SciPy."""

import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

close = torch.testing.assert_close
METRICS = {"l2": "euclidean", "l1": "cityblock", "linf": "chebyshev", "sqeuclidean": "sqeuclidean"}


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
