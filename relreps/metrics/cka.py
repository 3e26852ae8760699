"""Centred kernel alignment: do two spaces agree on which items are alike?

The Hilbert-Schmidt independence criterion (HSIC) is the inner product of two centred matrices of
similarities, CKA its cosine. Here nothing is centred by a matrix of its own, products are summed in
float64, and the estimators come biased and debiased.
"""

from __future__ import annotations

import copy
import math
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from relreps import _checks
from relreps._linalg import as_float64, at_least_float32, full_precision
from relreps.metrics._pairs import centred, paired_rows, undefined
from relreps.moments import FeatureMoments, Moments, RowMoments, outer, row_moments

_CHUNK = 2048


def linear_cka(x: Tensor, y: Tensor, debiased: bool = False) -> Tensor:
    r"""Linear CKA.

    .. math:: \mathrm{CKA} = \frac{h(X, Y)}{\sqrt{h(X, X)\, h(Y, Y)}}, \qquad
              h(X, Y) = \lVert X_c^\top Y_c \rVert_F^2

    where :math:`X_c` is without its mean row. This form grows with the widths: independent Gaussian
    spaces of 64 rows score 0.09 at 8 features and 0.89 at 512. The debiased one puts, with
    :math:`r_i = \lVert x_{c,i} \rVert^2` and :math:`s_i = \lVert y_{c,i} \rVert^2`,

    .. math:: h(X, Y) = \lVert X_c^\top Y_c \rVert_F^2 - \frac{n}{n-2} \sum_i r_i s_i
              + \frac{\sum_i r_i \sum_i s_i}{(n-1)(n-2)}

    which is 0 on average for independent spaces. Differentiable. :math:`O(N (D + E)^2)` time and
    :math:`O((D + E)^2)` memory, or :math:`O(N^2 (D + E))` and :math:`O(N^2)` if that is less.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        debiased: Take the unbiased estimate of each inner product; needs 4 rows.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]; debiased, in [-1, 1]. NaN
          with a `NumericalWarning` if all rows of a side are the same.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> linear_cka(x, 5 - 3 * x)
        tensor(1.)

    References:
        Kornblith et al., arXiv:1905.00414; the unbiased HSIC: Song et al. 2012, JMLR 13.
    """
    pair = paired_rows(x, y, *_need(debiased))
    with full_precision(pair.x):
        return pair.ratio(*_linear_hsic(pair.x, pair.y, debiased))


def kernel_cka(
    x: Tensor,
    y: Tensor,
    kernel: str = "rbf",
    bandwidth: float = 1.0,
    debiased: bool = False,
) -> Tensor:
    r"""CKA with a kernel.

    .. math:: K_{ij} = \exp\Bigl(-\frac{\lVert x_i - x_j \rVert^2}{2 \sigma^2}\Bigr), \qquad
              \sigma = b \cdot \operatorname{median}_{i < j} \lVert x_i - x_j \rVert

    on each side, then as `linear_cka` with :math:`h = \operatorname{tr}(K H L H)`, or its unbiased
    estimate. The median (the lower one of an even number) makes it independent of the scale of a
    side and takes no part in the gradient. :math:`O(N^2 (D + E))` time, :math:`O(N^2)` memory; for
    more rows than that allows see `minibatch_cka`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        kernel: ``"rbf"``, or ``"linear"``, which is `linear_cka`.
        bandwidth: Width of the kernel :math:`b` as a multiple of the median distance; "rbf" only.
        debiased: Take the unbiased estimate of each inner product; needs 4 rows.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [0, 1]; debiased, in [-1, 1]. NaN
          with a `NumericalWarning` if at least half of the distances of a side are zero.

    Example:
        >>> x = torch.eye(3)
        >>> kernel_cka(x, 2 * x.roll(1, 1))
        tensor(1.)

    References:
        Kornblith et al., arXiv:1905.00414.
    """
    _checks.check_choice("kernel", kernel, ("rbf", "linear"))
    _checks.check_positive("bandwidth", bandwidth)
    if kernel == "linear":
        return linear_cka(x, y, debiased)
    pair = paired_rows(x, y, *_need(debiased))
    with full_precision(pair.x):
        hsic = gram_hsic(_rbf(pair.x, bandwidth), _rbf(pair.y, bandwidth), debiased)
        return pair.ratio(*hsic)


def minibatch_cka(x: Tensor, y: Tensor, batch_size: int = 256, kernel: str = "linear") -> Tensor:
    r"""CKA from batches: the average unbiased HSIC of each kind, then their ratio.

    .. math:: \frac{\sum_b h_b(X, Y)}{\sqrt{\sum_b h_b(X, X) \sum_b h_b(Y, Y)}}

    As each :math:`h_b` is unbiased, the size of the batches hardly matters, which it does for an
    average of biased ones. Rows are taken in the order given: shuffle sorted data. They are cut
    into batches of nearly equal size, and none is left over. :math:`O(N b (D + E))` time,
    :math:`O(b^2)` memory. To feed batches one by one see `MinibatchCKA`.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        batch_size: Rows of a batch, about; at least 4.
        kernel: ``"linear"`` or ``"rbf"`` with the median distance of the batch.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar in [-1, 1].

    Example:
        >>> x = torch.randn(100, 3)
        >>> minibatch_cka(x, 2 * x, batch_size=20)
        tensor(1.)

    References:
        Nguyen, Raghu and Kornblith, arXiv:2010.15327.
    """
    _checks.check_choice("kernel", kernel, ("linear", "rbf"))
    _checks.check_size("batch_size", batch_size, _need(True)[0])
    pair = paired_rows(x, y, *_need(True))
    batches = max(1, round(x.shape[0] / batch_size))
    parts = zip(pair.x.tensor_split(batches), pair.y.tensor_split(batches), strict=True)
    with full_precision(pair.x):
        hsic = torch.stack([torch.stack(_batch_hsic(a, b, kernel)) for a, b in parts])
        return pair.ratio(*hsic.mean(0))


class CKA(nn.Module):
    r"""Linear CKA of rows that arrive in batches; equal to `linear_cka` of all of them.

    It keeps means and products of features, never rows: :math:`O((D + E)^2)` memory. For the
    debiased form each row carries its squared length about a fixed shift, the mean of the first
    batch, as one more feature: what its formula needs to know about the final means is linear in
    the products of these longer rows.

    Args:
        in_features: Width D of ``x``.
        out_features: Width E of ``y``.
        debiased: As in `linear_cka`.

    Example:
        >>> cka = CKA(3, 3)
        >>> for batch in torch.randn(5, 10, 3):
        ...     _ = cka.update(batch, 2 * batch)
        >>> cka.compute()
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, in_features: int, out_features: int, debiased: bool = False) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        _checks.check_size("out_features", out_features)
        self.in_features, self.out_features = in_features, out_features
        self.debiased = debiased
        self.moments = Moments(in_features + debiased, out_features + debiased)
        self.first_x = FeatureMoments(in_features)  # its mean is the shift; zero unless debiased
        self.first_y = FeatureMoments(out_features)

    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add paired rows ``(N, D)`` and ``(N, E)``. :math:`O(N (D + E)^2)`."""
        _checks.check_rows("x", x, self.in_features, minimum=0)
        _checks.check_rows("y", y, self.out_features, minimum=0)
        _checks.check_paired(x, y)
        if not self.debiased:
            self.moments.update(x, y)
        elif x.shape[0]:
            _checks.check_finite("x", x)
            _checks.check_finite("y", y)
            if not bool(self.first_x.count):
                self.first_x.update(x)
                self.first_y.update(y)
            longer = _with_length(x, self.first_x.mean), _with_length(y, self.first_y.mean)
            self.moments.update(*longer)
        return self

    def compute(self) -> Tensor:
        """CKA of all rows so far, a float64 scalar; NaN with a warning if a side is constant."""
        n = int(self.moments.count)
        fewest, what = _need(self.debiased)
        if n < fewest:
            raise ValueError(f"CKA must have seen at least {fewest} rows for {what}, got {n}.")
        moments = self.moments
        for name, mean, scatter, first in (
            ("x", moments.mean_x, moments.scatter_xx, self.first_x.mean),
            ("y", moments.mean_y, moments.scatter_yy, self.first_y.mean),
        ):
            if not _varies(mean[: len(first)] + first, scatter / n):
                undefined(f"all rows of `{name}` are the same")
                return scatter.new_tensor(math.nan)
        d, e = self.in_features, self.out_features
        c_xx, c_xy, c_yy = moments.scatter_xx, moments.scatter_xy, moments.scatter_yy
        xy, xx, yy = (c.square().sum() for c in (c_xy[:d, :e], c_xx[:d, :d], c_yy[:e, :e]))
        if self.debiased:
            r, s = c_xx[:d, :d].trace(), c_yy[:e, :e].trace()
            to_r, to_s = _to_length(moments.mean_x), _to_length(moments.mean_y)
            xy = _debias(xy, to_r @ c_xy @ to_s + r * s / n, r * s, n)
            xx = _debias(xx, to_r @ c_xx @ to_r + r * r / n, r * r, n)
            yy = _debias(yy, to_s @ c_yy @ to_s + s * s / n, s * s, n)
        return xy / (xx * yy).sqrt()

    def reset(self) -> Self:
        """Forget everything."""
        for part in (self.moments, self.first_x, self.first_y):
            part.reset()
        return self

    def merge(self, other: Self) -> Self:
        """Add what another one of the same kind and sizes has seen."""
        if type(other) is not type(self) or other.extra_repr() != self.extra_repr():
            raise ValueError(
                f"`other` must be a CKA({self.extra_repr()}), got {other}. Merge equal sizes."
            )
        if not self.debiased:
            self.moments.merge(other.moments)
        elif bool(other.moments.count):
            if not bool(self.first_x.count):
                self.first_x.merge(other.first_x)
                self.first_y.merge(other.first_y)
            self.moments._add(other._shifted_to(self.first_x.mean, self.first_y.mean))
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Put together what all processes have seen; every process then holds the whole."""
        if self.debiased:
            before = copy.deepcopy(self)
            self.first_x.all_reduce(group)
            self.first_y.all_reduce(group)
            shifted = before._shifted_to(self.first_x.mean, self.first_y.mean)
            self.moments.reset()._add(shifted)
        self.moments.all_reduce(group)
        return self

    def _shifted_to(self, first_x: Tensor, first_y: Tensor) -> RowMoments:
        """The moments of the longer rows, had the shift been another one."""
        total, means, (xx, xy, yy) = self.moments.state()
        steps = first_x - self.first_x.mean, first_y - self.first_y.mean
        (to_x, by_x), (to_y, by_y) = (_change_of_shift(step) for step in steps)
        return RowMoments(
            total,
            (means[0] @ to_x + by_x, means[1] @ to_y + by_y),
            (to_x.mT @ xx @ to_x, to_x.mT @ xy @ to_y, to_y.mT @ yy @ to_y),
        )

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"debiased={self.debiased}"
        )


class MinibatchCKA(nn.Module):
    """`minibatch_cka` of batches that arrive one by one; three numbers are all it keeps.

    Every batch counts alike, so give it batches of one size. Use `CKA` for the exact linear
    measure; this one is for kernels, and for spaces so wide that products of features do not fit.

    Args:
        kernel: ``"linear"`` or ``"rbf"``, with the median distance of each batch.

    Example:
        >>> cka = MinibatchCKA()
        >>> for batch in torch.randn(5, 10, 3):
        ...     _ = cka.update(batch, 2 * batch)
        >>> cka.compute()
        tensor(1., dtype=torch.float64)

    References:
        Nguyen, Raghu and Kornblith, arXiv:2010.15327.
    """

    def __init__(self, kernel: str = "linear") -> None:
        super().__init__()
        _checks.check_choice("kernel", kernel, ("linear", "rbf"))
        self.kernel = kernel
        self.stream = FeatureMoments(3)  # HSIC of x and y, of x, of y

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add one batch of at least 4 paired rows ``(N, D)`` and ``(N, E)``."""
        pair = paired_rows(x, y, *_need(True), streamed=True)
        with full_precision(pair.x):
            hsic = torch.stack(_batch_hsic(pair.x, pair.y, self.kernel))
        self.stream.update(hsic[None])
        return self

    def compute(self) -> Tensor:
        """CKA of the batches so far, a float64 scalar; NaN with a warning if a side is constant."""
        if not bool(self.stream.count):
            raise ValueError("MinibatchCKA must have seen at least one batch, got none.")
        xy, xx, yy = self.stream.mean
        if not bool(xx * yy > 0):
            undefined("all rows of a side were the same in every batch")
        value: Tensor = torch.where(xx * yy > 0, xy / (xx * yy).sqrt(), math.nan)
        return value

    def reset(self) -> Self:
        """Forget everything."""
        self.stream.reset()
        return self

    def merge(self, other: Self) -> Self:
        """Add what another one with the same kernel has seen."""
        if type(other) is not type(self) or other.kernel != self.kernel:
            raise ValueError(f"`other` must be a MinibatchCKA({self.kernel!r}), got {other}.")
        self.stream.merge(other.stream)
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Put together what all processes have seen; every process then holds the whole."""
        self.stream.all_reduce(group)
        return self

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"kernel={self.kernel!r}"


def gram_hsic(x: Tensor, y: Tensor, debiased: bool) -> list[Tensor]:
    """HSIC of two Gram matrices and of each with itself, up to a common factor, in float64."""
    x, y = as_float64(x), as_float64(y)
    if debiased:
        x, y = x - x.diagonal().diag(), y - y.diagonal().diag()
    return centred_hsic(_products(x, y), x.sum(-1), y.sum(-1), debiased)


def centred_hsic(products: list[Tensor], x: Tensor, y: Tensor, debiased: bool) -> list[Tensor]:
    """HSIC from the `_products` of two Gram matrices and the sums of their rows.

    For the debiased one the diagonals must be zero.
    """
    n = x.shape[0]
    totals = (x.sum() * y.sum(), x.sum().square(), y.sum().square())
    once, twice = (2 / (n - 2), (n - 1) * (n - 2)) if debiased else (2 / n, n * n)
    parts = zip(products, _products(x, y), totals, strict=True)
    return [whole - rows * once + total / twice for whole, rows, total in parts]


def _products(a: Tensor, b: Tensor) -> list[Tensor]:
    """Sum of the products of two sides, and of each with itself."""
    return [(a * b).sum(), (a * a).sum(), (b * b).sum()]


def _linear_hsic(x: Tensor, y: Tensor, debiased: bool) -> list[Tensor]:
    """The same for linear kernels, by products of features or of rows, whichever are fewer."""
    n, d, e = x.shape[0], x.shape[1], y.shape[1]
    if n * (d + e) < d * d + d * e + e * e:
        rows = centred(x), centred(y)
        first, second = (as_float64(side @ side.mT) for side in rows)
        products = _products(first, second)
        r, s = first.diagonal(), second.diagonal()
    else:
        moments = row_moments(x, y, pairs=((0, 1), (0, 0), (1, 1)), product=outer)
        products = [scatter.square().sum() for scatter in moments.scatters]
        if debiased:
            r, s = (_squared_lengths(*side) for side in zip((x, y), moments.means, strict=True))
    if not debiased:
        return products
    traces = (r.sum() * s.sum(), r.sum().square(), s.sum().square())
    parts = zip(products, _products(r, s), traces, strict=True)
    return [_debias(whole, diagonal, trace, n) for whole, diagonal, trace in parts]


def _debias(total: Tensor, diagonal: Tensor, traces: Tensor, n: int) -> Tensor:
    """Unbiased HSIC of centred rows, times n(n - 3); see `linear_cka`."""
    return total - diagonal * (n / (n - 2)) + traces / ((n - 1) * (n - 2))


def _squared_lengths(x: Tensor, mean: Tensor) -> Tensor:
    """Of rows without their mean, chunk by chunk, in float64."""
    centre = mean.to(x)
    rest = (mean - as_float64(centre)).to(x)  # what rounding a large mean leaves
    chunks = (chunk - centre - rest for chunk in x.split(_CHUNK))
    return torch.cat([as_float64(chunk.square().sum(-1)) for chunk in chunks])


def _batch_hsic(x: Tensor, y: Tensor, kernel: str) -> list[Tensor]:
    """Unbiased HSIC of one batch, with its factor, as batches may differ in size."""
    n = x.shape[0]
    if kernel == "linear":
        hsic = _linear_hsic(x, y, debiased=True)
    else:
        hsic = gram_hsic(_rbf(x, 1.0), _rbf(y, 1.0), debiased=True)
    return [h / (n * (n - 3)) for h in hsic]


def _rbf(x: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel with the median distance; all NaN if that is zero."""
    x = centred(x)
    squares = x.square().sum(-1)
    distances = (squares[:, None] + squares - 2 * x @ x.mT).clamp(min=0)
    n = x.shape[0]
    # Without its first entry and in rows of n + 1, the matrix has its diagonal in the last column.
    others = distances.detach().flatten()[1:].view(n - 1, n + 1)[:, :-1]
    median = others.median()
    # What rounding leaves of a distance of zero does not count as one.
    noise = squares.detach().max() * (8 * torch.finfo(x.dtype).eps)
    scale = torch.where(median > noise, median, math.nan) * (2 * bandwidth**2)
    return torch.exp(-distances / scale)


def _need(debiased: bool) -> tuple[int, str]:
    """Fewest rows, and what for."""
    return (4, "the debiased estimator") if debiased else (2, "a comparison")


def _varies(mean: Tensor, covariance: Tensor) -> bool:
    """Whether any feature does more than round."""
    spread = covariance.diagonal()[: len(mean)].clamp(min=0).sqrt()
    return bool((spread > 4 * torch.finfo(torch.float32).eps * mean.abs()).any())


def _with_length(x: Tensor, shift: Tensor) -> Tensor:
    """Rows without the shift, and their squared length as one more feature."""
    rows = as_float64(x) - shift
    longer = torch.cat((rows, rows.square().sum(-1, keepdim=True)), 1)
    return longer.to(at_least_float32(x[:0]).dtype)


def _to_length(mean: Tensor) -> Tensor:
    """Weights that make the squared length about the mean, up to a constant, of a longer row."""
    return torch.cat((-2 * mean[:-1], mean.new_ones(1)))


def _change_of_shift(step: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix and offset that make of longer rows those for a shift that is larger by ``step``."""
    matrix = torch.eye(len(step) + 1, dtype=step.dtype, device=step.device)
    matrix[:-1, -1] = -2 * step
    return matrix, torch.cat((-step, step.square().sum()[None]))
