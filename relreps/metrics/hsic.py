"""Estimators of the Hilbert-Schmidt independence criterion, which all forms of CKA share."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core.linalg import as_float64, at_least_float32
from relreps.metrics.paired import centred, noise, power_of_two, rounding, varying
from relreps.moments import outer, row_moments

_CHUNK = 2048


def gram_hsic(x: Tensor, y: Tensor, debiased: bool, eps: float) -> list[Tensor]:
    """HSIC of two Gram matrices whose entries are rounded by ``eps``; see `centred_hsic`."""
    x, y = as_float64(x), as_float64(y)
    if debiased:
        x, y = x - x.diagonal().diag(), y - y.diagonal().diag()
    return centred_hsic(_products(x, y), x.sum(-1), y.sum(-1), debiased, eps)


def centred_hsic(
    products: list[Tensor], x: Tensor, y: Tensor, debiased: bool, eps: float
) -> list[Tensor]:
    """HSIC from the `_products` of two Gram matrices and the sums of their rows.

    It comes up to a common factor, in float64, and with the noise of the last two; see `cosine`.
    For the debiased one the diagonals must be zero.
    """
    n = x.shape[0]
    totals = (x.sum() * y.sum(), x.sum().square(), y.sum().square())
    once, twice = (2 / (n - 2), (n - 1) * (n - 2)) if debiased else (2 / n, n * n)
    parts = zip(products, _products(x, y), totals, strict=True)
    hsic = [whole - rows * once + total / twice for whole, rows, total in parts]
    return [*hsic, *(noise(whole, eps) for whole in products[1:])]


def first_row(x: Tensor) -> Tensor:
    """Mean of a first batch and the size of its entries, ``(1, D + 1)``, in float64."""
    x = as_float64(x)
    return torch.cat((x.mean(0), x.abs().max()[None]))[None]


def in_units(x: Tensor, first: Tensor, debiased: bool) -> Tensor:
    """Rows by the size of the first batch.

    Debiased, also without its mean, and with their squared length as one more feature.
    """
    unit = power_of_two(first[-1])
    wide = at_least_float32(x)
    if not debiased:
        return wide / unit.to(wide)
    rows = (as_float64(x) - first[:-1]) / unit
    longer = torch.cat((rows, rows.square().sum(-1, keepdim=True)), 1)
    narrow = longer.to(wide.dtype)
    return narrow if bool(narrow.isfinite().all()) else longer


def squared_rounding(x: Tensor, y: Tensor) -> Tensor:
    """Squared relative rounding of either side, ``(1, 2)``: the mean is that of mixed types."""
    return torch.tensor([[rounding(x) ** 2, rounding(y) ** 2]], dtype=torch.float64)


def by_unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by the power of two next to their size; and its square, in float64."""
    unit = power_of_two(x.abs().max())
    square = as_float64(unit).square()
    if not bool((square.square() > 0) & square.square().isfinite()):
        raise ValueError(
            "`x` and `y` must be of a size whose fourth power is a number, got entries up to "
            f"{float(unit):.1g}. Divide all batches by one constant first."
        )
    return x / unit, square


def unbiased_gram(x: Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    r"""Gram matrix of which unbiased HSIC is the inner product, as a row; and the noise in it.

    .. math:: \hat K_{ij} = K_{ij} - \frac{r_i + r_j}{n - 2} + \frac{\sum_l r_l}{(n - 1)(n - 2)}

    off the diagonal and 0 on it, with the sums :math:`r` of rows without the diagonal (Székely and
    Rizzo 2014). In float64; zero where all rows are the same.
    """
    n = x.shape[0]
    if not bool(varying(x).any()):
        return as_float64(x.new_zeros(n * n)), as_float64(x.new_zeros(()))
    x, square = by_unit(x)
    gram = as_float64(rbf(x, 1.0)) if kernel == "rbf" else as_float64(_linear(x)) * square
    gram.fill_diagonal_(0)
    floor = noise(gram.square().sum(), rounding(x))
    sums = gram.sum(1)
    gram = gram - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0).flatten(), floor


def _products(a: Tensor, b: Tensor) -> list[Tensor]:
    """Sum of the products of two sides, and of each with itself."""
    return [(a * b).sum(), (a * a).sum(), (b * b).sum()]


def linear_hsic(x: Tensor, y: Tensor, debiased: bool) -> list[Tensor]:
    """The same for linear kernels, by products of features or of rows, whichever are fewer."""
    n, d, e, eps = x.shape[0], x.shape[1], y.shape[1], rounding(x)
    if n * (d + e) < d * d + d * e + e * e:
        return gram_hsic(_linear(x), _linear(y), debiased, eps)
    moments = row_moments(x, y, pairs=((0, 1), (0, 0), (1, 1)), product=outer)
    products = [scatter.square().sum() for scatter in moments.scatters]
    floors = [noise(whole, eps, exact=False) for whole in products[1:]]
    if not debiased:
        return products + floors
    r, s = (_squared_lengths(*side) for side in zip((x, y), moments.means, strict=True))
    traces = (r.sum() * s.sum(), r.sum().square(), s.sum().square())
    parts = zip(products, _products(r, s), traces, strict=True)
    return [debias(whole, diagonal, trace, n) for whole, diagonal, trace in parts] + floors


def debias(total: Tensor, diagonal: Tensor, traces: Tensor | float, n: int) -> Tensor:
    """Unbiased HSIC of centred rows, times n(n - 3); see `linear_cka`."""
    return total - diagonal * (n / (n - 2)) + traces / ((n - 1) * (n - 2))


def _squared_lengths(x: Tensor, mean: Tensor) -> Tensor:
    """Of rows without their mean, chunk by chunk, in float64."""
    centre = mean.to(x)
    rest = (mean - as_float64(centre)).to(x)  # what rounding a large mean leaves
    chunks = (chunk - centre - rest for chunk in x.split(_CHUNK))
    return torch.cat([as_float64(chunk.square().sum(-1)) for chunk in chunks])


def batch_hsic(x: Tensor, y: Tensor, kernel: str) -> list[Tensor]:
    """Unbiased HSIC of one batch, with its factor, as batches may differ in size."""
    n = x.shape[0]
    if kernel == "linear":
        hsic = linear_hsic(x, y, debiased=True)
    else:
        hsic = gram_hsic(rbf(x, 1.0), rbf(y, 1.0), True, rounding(x))
    return [h / (n * (n - 3)) for h in hsic]


def _linear(x: Tensor) -> Tensor:
    """Products of centred rows."""
    x = centred(x)
    return x @ x.mT


def rbf(x: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel with the median distance; 1 everywhere if that is zero."""
    n = x.shape[0]
    # About a median, which single rows far away do not move: what is near keeps its digits.
    x = x - x.detach().sort(0).values[(n - 1) // 2]
    squares = x.square().sum(-1)
    sizes = squares[:, None] + squares
    distances = sizes - 2 * x @ x.mT
    # What rounding leaves of a distance of zero does not count as one.
    apart = distances.detach() > sizes.detach() * (8 * torch.finfo(x.dtype).eps)
    distances = torch.where(apart, distances, 0)
    # Without its first entry and in rows of n + 1, the matrix has its diagonal in the last column.
    others = distances.detach().flatten()[1:].view(n - 1, n + 1)[:, :-1]
    median = others.median()
    scale = torch.where(median > 0, median, 1) * (2 * bandwidth**2)
    return torch.where(median > 0, torch.exp(-distances / scale), 1)


def need(debiased: bool) -> tuple[int, str]:
    """Fewest rows, and what for."""
    return (4, "the debiased estimator") if debiased else (2, "a comparison")


def to_length(mean: Tensor) -> Tensor:
    """Weights that make the squared length about the mean, up to a constant, of a longer row."""
    return torch.cat((-2 * mean[:-1], mean.new_ones(1)))


def change(factor: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix and offset that multiply longer rows, and move their shift by ``step`` after that."""
    matrix = torch.eye(len(step) + 1, dtype=step.dtype, device=step.device) * factor
    matrix[:-1, -1], matrix[-1, -1] = -2 * factor * step, factor * factor
    return matrix, torch.cat((-step, step.square().sum()[None]))
