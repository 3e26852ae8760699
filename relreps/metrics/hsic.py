r"""Estimators of the Hilbert-Schmidt independence criterion (HSIC), which all forms of CKA share.

For Gram matrices :math:`K, L` it is the inner product of the two after both are centred. Nothing
here is centred by a matrix of its own: with the sums of rows :math:`r = K 1, s = L 1`,

.. math:: h(K, L) = \langle K, L \rangle - \frac2n \langle r, s \rangle
          + \frac{\sum r \sum s}{n^2}

is :math:`\operatorname{tr}(K H L H)`, and with zero diagonals and :math:`n - 2` for the first n,
:math:`(n - 1)(n - 2)` for its square, it is n(n - 3) times the unbiased estimate (Song et al. 2012,
equation 5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import blocks
from relreps._core.linalg import as_float64, full_precision
from relreps._core.rounding import unit_of
from relreps._core.warnings import warn
from relreps.metrics.kernels import Kernel
from relreps.metrics.paired import Pair, undefined, varies
from relreps.moments import outer, row_moments

#: Fewest rows for either estimate, and what needs them.
FEWEST = {False: (2, "a comparison"), True: (4, "the debiased estimator")}

_PAIRS = ((0, 1), (0, 0), (1, 1))

#: Roundings by which similarities may differ, on average, that are meant to be equal. More than the
#: two of `is_constant`, as each is a sum over features, and not a number that was given.
_ROUNDINGS = 16


class InnerProducts(NamedTuple):
    """Inner products of two sides, up to a common factor, in float64.

    Attributes:
        xy: Of ``x`` and ``y``.
        xx: Of ``x`` with itself.
        yy: Of ``y`` with itself.
        noise_x: How large ``xx`` may be by rounding alone: one not larger is none.
        noise_y: The same for ``yy``.
    """

    xy: Tensor
    xx: Tensor
    yy: Tensor
    noise_x: Tensor
    noise_y: Tensor

    def cosine(self, why: str | None) -> Tensor:
        """The first over the root of the others; NaN if one is none.

        Args:
            why: What to say of such a side; None to say nothing.
        """
        live = self.xx > self.noise_x, self.yy > self.noise_y
        if why is not None:
            for name, alive in zip("xy", live, strict=True):
                if not bool(alive):
                    undefined(f"of `{name}`, {why}, up to rounding")
        # A root of each, as their product may overflow.
        lengths = [
            torch.where(some, square, 1).sqrt()
            for some, square in zip(live, (self.xx, self.yy), strict=True)
        ]
        return torch.where(live[0] & live[1], self.xy / lengths[0] / lengths[1], torch.nan)


def similarity_noise(squares: Tensor, eps: float) -> Tensor:
    """How large HSIC may come out of equal similarities.

    Args:
        squares: The sum of the squares of the similarities, before they are centred.
        eps: Relative rounding of the rows.
    """
    # Two things are left: the rounding of the similarities, squared; and, as they are centred by
    # sums which cancel, that of float64 as it is.
    left = (_ROUNDINGS * eps) ** 2 + _ROUNDINGS * torch.finfo(torch.float64).eps
    return squares.detach() * left


def feature_noise(eps: float) -> float:
    """Share of a sum of products of features that may be rounding, after `debias`.

    It carries the rounding of the rows itself, not its square, and `debias` takes away what may be
    as large as the sum.
    """
    return _ROUNDINGS * eps


#: How many times the median a squared length may be for float32 products to be debiased.
OUTWEIGHS = 256

#: What biased CKA may be by chance without a word: four rows for each direction.
MOST_CHANCE = 0.25


def hsic(pair: Pair, kernel: Kernel, debiased: bool) -> InnerProducts:
    """HSIC of two spaces with a kernel: by their features, or by their Gram matrices."""
    n, d, e = len(pair.x), pair.x.shape[1], pair.y.shape[1]
    with full_precision(pair.x):
        if kernel.linear and n * (d + e) >= d * d + d * e + e * e:
            return _of_features(pair, debiased)
        k, l = as_float64(kernel.gram(pair.x)), as_float64(kernel.gram(pair.y))  # noqa: E741
        if debiased:
            k, l = k - k.diagonal().diag(), l - l.diagonal().diag()  # noqa: E741
        found = from_sums(products(k, l), k.sum(-1), l.sum(-1), pair.eps, debiased)
        if not debiased and pair.speaks:
            of_x, of_y = (gram.trace() - gram.sum() / n for gram in (k.detach(), l.detach()))
            warn_of_bias(n, of_x, of_y, found)
        return found


def from_sums(
    sums: tuple[Tensor, ...], r: Tensor, s: Tensor, eps: tuple[float, float], debiased: bool
) -> InnerProducts:
    """HSIC from the `products` of two Gram matrices and the sums of their rows; see above.

    For the debiased one the diagonals must be zero.
    """
    n = len(r)
    first, square = (n - 2, (n - 1) * (n - 2)) if debiased else (n, n * n)
    totals = r.sum() * s.sum(), r.sum().square(), s.sum().square()
    xy, xx, yy = (
        whole - rows * (2 / first) + total / square
        for whole, rows, total in zip(sums, products(r, s), totals, strict=True)
    )
    return InnerProducts(
        xy, xx, yy, similarity_noise(sums[1], eps[0]), similarity_noise(sums[2], eps[1])
    )


def products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the products of two sides, and of each with itself."""
    return (a * b).sum(), (a * a).sum(), (b * b).sum()


def _of_features(pair: Pair, debiased: bool) -> InnerProducts:
    """HSIC of linear kernels by products of features, which are fewer than those of rows."""
    moments = row_moments(pair.x, pair.y, pairs=_PAIRS, product=outer)
    if debiased and pair.speaks and any(map(_outweighed, pair[:2], moments.means)):
        pair = pair._replace(x=as_float64(pair.x), y=as_float64(pair.y))
        moments = row_moments(pair.x, pair.y, pairs=_PAIRS, product=outer)
    xy, xx, yy = (scatter.square().sum() for scatter in moments.scatters)
    noise = xx.detach() * feature_noise(pair.eps[0]), yy.detach() * feature_noise(pair.eps[1])
    if debiased:
        r, s = (_squared_lengths(*side) for side in zip(pair[:2], moments.means, strict=True))
        rs, rr, ss = products(r, s)
        xy = debias(xy, rs, r.sum() * s.sum(), len(r))
        xx = debias(xx, rr, r.sum().square(), len(r))
        yy = debias(yy, ss, s.sum().square(), len(r))
    found = InnerProducts(xy, xx, yy, *noise)
    if not debiased and pair.speaks:
        warn_of_bias(len(pair.x), moments.scatters[1].trace(), moments.scatters[2].trace(), found)
    return found


def warn_of_bias(n: int, trace_x: Tensor, trace_y: Tensor, found: InnerProducts) -> None:
    """Warn if spaces that have nothing in common would be alike by the biased estimate.

    Args:
        n: Number of rows.
        trace_x: Trace of the centred Gram matrix of ``x``, in the unit of ``found``.
        trace_y: That of ``y``.
        found: The inner products.
    """
    # Over all pairings of the rows, <K, L> of centred matrices is tr K tr L / (n - 1) on average.
    chance = (trace_x / found.xx.sqrt()) * (trace_y / found.yy.sqrt()) / (n - 1)
    if bool(chance > MOST_CHANCE):
        warn(
            f"Biased CKA of so few rows, {n}, is above {MOST_CHANCE} for spaces of this kind that "
            "have nothing in common: rows should be at least four times the directions that "
            "matter. Take the debiased one, `debiased=True`, or give more rows."
        )


def debias(total: Tensor, lengths: Tensor, traces: Tensor | float, n: int) -> Tensor:
    r"""Unbiased HSIC of linear kernels of centred rows, times n(n - 3).

    Args:
        total: :math:`\lVert X_c^\top Y_c \rVert_F^2`.
        lengths: :math:`\sum_i r_i s_i` of the squared lengths of the centred rows.
        traces: :math:`\sum_i r_i \sum_i s_i`.
        n: Number of rows.
    """
    # K = X X' of centred rows has row sums 0 and diagonal r. Without its diagonal it has
    #   row sums             -r                (and L: -s)
    #   <K, L>               |X'Y|^2 - sum r s
    # and the formula at the top of this file is
    #   |X'Y|^2 - sum r s - 2/(n-2) sum r s + sum r sum s / ((n-1)(n-2)),
    # where the terms in sum r s add up to n/(n-2). The estimate does not see that rows were
    # centered: it is 0 for matrices a_i + b_j.
    return total - lengths * (n / (n - 2)) + traces / ((n - 1) * (n - 2))


def _outweighed(x: Tensor, mean: Tensor) -> bool:
    """Whether one row is so long that, of products in float32, little is left of the others."""
    lengths = _squared_lengths(x.detach(), mean.detach())
    return bool(lengths.amax() > OUTWEIGHS * lengths.median())


def _squared_lengths(x: Tensor, mean: Tensor) -> Tensor:
    """Of rows without their mean, block by block, in float64."""
    center = mean.to(x)
    rest = (mean - as_float64(center)).to(x)  # what rounding a large mean leaves
    parts = x.split(blocks.rows_at_once(x.shape[1], x.dtype))
    return torch.cat([as_float64((part - center - rest).square().sum(-1)) for part in parts])


def batch_hsic(pair: Pair, kernel: Kernel) -> Tensor:
    """Unbiased HSIC of one batch, ``(5,)``, with its factor, as batches may differ in size."""
    n = len(pair.x)
    return torch.stack(hsic(pair, kernel, debiased=True)) / (n * (n - 3))


def in_unit(x: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Rows of a batch in a unit of their own; and what the unit makes of similarities, float64."""
    if kernel.degree is None:
        return x, as_float64(x.new_ones(()))
    unit = unit_of(x.abs().max())
    factor = as_float64(unit) ** kernel.degree
    if not bool((factor.square() > 0) & factor.square().isfinite()):
        raise ValueError(
            "`x` and `y` must be of a size whose fourth power is a number, got entries up to "
            f"{float(unit):.1g}. Divide all batches by one constant first."
        )
    return x / unit, factor


def unbiased_gram(x: Tensor, kernel: Kernel, eps: float) -> tuple[Tensor, Tensor]:
    r"""Gram matrix of which unbiased HSIC is the inner product, as a row; and the noise in it.

    .. math:: \hat K_{ij} = K_{ij} - \frac{r_i + r_j}{n - 2} + \frac{\sum_l r_l}{(n - 1)(n - 2)}

    off the diagonal and 0 on it, with the sums :math:`r` of rows without the diagonal (Székely and
    Rizzo 2014). In float64; zero where all rows are the same.
    """
    n = x.shape[0]
    if not bool(varies(x, eps)):
        return as_float64(x.new_zeros(n * n)), as_float64(x.new_zeros(()))
    x, factor = in_unit(x, kernel)
    gram = as_float64(kernel.gram(x)) * factor
    gram.fill_diagonal_(0)
    noise = similarity_noise(gram.square().sum(), eps)
    sums = gram.sum(1)
    gram = gram - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0).flatten(), noise
