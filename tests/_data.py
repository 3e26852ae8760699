"""What the tests of several parts make and measure: spaces, streams, counters."""

import sys

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


def naive_soft(logits, k):
    """The soft graph of k neighbours, by its formula."""
    total = 0
    for _ in range(k):
        w = logits.softmax(-1)
        total = total + w
        logits = logits + torch.log(1 - w)
    return total


def sums(moments):
    """The numbers of a `RowMoments`, to compare."""
    return moments.total, moments.means, moments.scatters, moments.squares


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(rows, columns=None, dtype=torch.float64):
    """Orthonormal rows or columns, ``(rows, columns)``, drawn uniformly."""
    columns = rows if columns is None else columns
    size = max(rows, columns)
    return torch.linalg.qr(torch.randn(size, size, dtype=dtype)).Q[:rows, :columns]


def clustered_twins(n=120, clusters=8):
    """Rows in clusters, the same turned and shuffled, and the partner of each row."""
    x = torch.randn(clusters, 6)[torch.arange(n) % clusters] + 0.3 * torch.randn(n, 6)
    partner = torch.randperm(n)
    y = torch.empty_like(x)
    y[partner] = x @ orthogonal(6, dtype=torch.float32)
    return x, y, partner


def right(pairs, partner):
    """Which pairs are those of ``partner``, the row of the second space of each of the first."""
    return partner[pairs.indices_x] == pairs.indices_y


def dictionary(n=300, d=12, noise=0.1, extra=0):
    """Rows of two spaces in different orders, and for each row of y that of x, or -1."""
    x = normal(n, d) + 2
    y = x @ orthogonal(d) + noise * normal(n, d) - 1
    truth = torch.randperm(n)
    y = torch.cat((y[truth], normal(extra, d) + y.mean(0)))
    return x, y, torch.cat((truth, truth.new_full((extra,), -1)))


def seeds_of(truth, count):
    """The first ``count`` pairs of a dictionary."""
    found = (truth >= 0).nonzero().flatten()[:count]
    return truth[found], found


def blobs(size=10, number=12):
    """Well separated clusters on orthogonal axes, shuffled, and the cluster of each row."""
    members = torch.arange(number).repeat(size)[torch.randperm(number * size)]
    centers = 10 * torch.eye(number, dtype=torch.float64)[members]
    return centers + 0.1 * torch.randn_like(centers), members


def many_rows():
    """Rows at the size of real use, about 300 centres."""
    generator = seeded(1)
    centers = 2 * torch.randn(300, 128, generator=generator)
    members = torch.randint(0, 300, (20_000,), generator=generator)
    return centers[members] + torch.randn(20_000, 128, generator=generator)


def rotated(x):
    return x @ orthogonal(x.shape[1], dtype=x.dtype)


class LargestMade(TorchDispatchMode):
    """Entries of the largest tensor that is made, views of ``x`` aside."""

    def __init__(self, x):
        super().__init__()
        self.x, self.entries = x, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, torch.Tensor) and made.untyped_storage() is not None:
                new = made.untyped_storage().data_ptr() != self.x.untyped_storage().data_ptr()
                self.entries = max(self.entries, made.numel() * new)
        return out


def related(n=60, d=5, e=7, dtype=torch.float64):
    """Two spaces that share their first features, up to noise of as much again."""
    x, y = torch.randn(n, d), torch.randn(n, e)
    common = min(d, e)
    y[:, :common] += x[:, :common]
    return x.to(dtype), y.to(dtype)


def fed(stream, *sides, sizes):
    """The stream after batches of these sizes."""
    for batch in zip(*(side.split(sizes) for side in sides), strict=True):
        stream.update(*batch)
    return stream


class Interrupt(BaseException):
    """What `interrupted` raises, as Ctrl-C would."""


def interrupted(call, line):
    """Whether a call was interrupted at this line of the package, counted from 1 as they run."""
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if "relreps" not in frame.f_code.co_filename:
            return None
        if event == "line":
            passed += 1
            if passed == line:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
        torch.set_grad_enabled(True)  # an interrupt at the end of a `with` skips its exit
    return passed >= line
