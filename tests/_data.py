"""What the tests of several parts make and measure: spaces, streams, counters."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.size = max(self.size, *sizes, 0)
        return out


def sums(moments):
    """The numbers of a `RowMoments`, to compare."""
    return moments.total, moments.means, moments.scatters, moments.squares


def related(n=60, d=5, e=7, dtype=torch.float64):
    """Two spaces that share their first features, up to noise of as much again."""
    x, y = torch.randn(n, d), torch.randn(n, e)
    common = min(d, e)
    y[:, :common] += x[:, :common]
    return x.to(dtype), y.to(dtype)


def rotation(d, dtype=torch.float64):
    """An orthogonal matrix ``(d, d)``."""
    return torch.linalg.qr(torch.randn(d, d, dtype=dtype)).Q


def fed(stream, *sides, sizes):
    """The stream after batches of these sizes."""
    for batch in zip(*(side.split(sizes) for side in sides), strict=True):
        stream.update(*batch)
    return stream
