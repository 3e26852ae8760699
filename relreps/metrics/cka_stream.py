r"""CKA of rows that arrive in batches, or in several processes.

**Units.** Each side is measured from an origin :math:`a`, the mean of its first batch, in a unit
:math:`u`, the power of two next to the size of that batch: :math:`z = (x - a) / u`. CKA does not
depend on either, and in these the sums keep their digits. (The biased form needs no origin, as its
moments are centred anyway: there :math:`a = 0`.)

**Debiased.** With the mean :math:`m` of the z of all rows, the squared length of a centred row is

.. math:: r_i = \lVert z_i - m \rVert^2 = \lVert z_i \rVert^2 - 2 \langle m, z_i \rangle
          + \lVert m \rVert^2 = \langle q, w_i \rangle + \text{const}, \qquad
          w_i = (z_i, \lVert z_i \rVert^2), \quad q = (-2 m, 1),

linear in a longer row :math:`w` that does not depend on :math:`m`, which is known at the end only.
So the moments of longer rows are all that is kept. With :math:`S_{ww'}` their centred products on
both sides, :math:`n \bar r = \sum_i r_i = \operatorname{tr} S_{zz}` and

.. math:: \sum_i r_i s_i = \sum_i (r_i - \bar r)(s_i - \bar s) + n \bar r \bar s
          = q^\top S_{ww'} q' + \tfrac1n \operatorname{tr} S_{zz} \operatorname{tr} S_{z'z'} .

**Another origin and unit** :math:`b, v`, those of a stream that this one is merged into: with
:math:`f = u / v` and :math:`t = (a - b) / v`

.. math:: \frac{x - b}{v} = f z + t, \qquad
          \lVert f z + t \rVert^2 = f^2 \lVert z \rVert^2 + 2 f \langle t, z \rangle
          + \lVert t \rVert^2

so that a longer row becomes :math:`w M + c` with

.. math:: M = \begin{pmatrix} f I & 2 f t \\ 0 & f^2 \end{pmatrix}, \qquad
          c = (t, \lVert t \rVert^2) .
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks
from relreps._core.description import description
from relreps._core.distributed import check_agreement
from relreps._core.linalg import as_float64, at_least_float32
from relreps._core.rounding import is_constant, rounding_of, unit_of
from relreps._core.state import Stateful, write_all
from relreps.metrics.cka import NO_BATCH
from relreps.metrics.hsic import (
    FEWEST,
    OUTWEIGHS,
    InnerProducts,
    batch_hsic,
    debias,
    feature_noise,
    in_unit,
    warn_of_bias,
)
from relreps.metrics.kernels import ALL_EQUAL, KernelLike, resolve_kernel
from relreps.metrics.paired import paired_rows, undefined
from relreps.moments import FeatureMoments, Moments, RowMoments, elementwise, outer, row_moments
from relreps.moments.rows import finite_moments
from relreps.moments.value import BOTH

_SQUARES = ((0, 0),)


class Frame(NamedTuple):
    """What the rows of one side are measured from, and in, in float64.

    Attributes:
        origin: Mean of the first batch, ``(D,)``; for the biased form it counts as zero.
        unit: The power of two next to the size of its entries.
        debiased: Whether rows are made longer, as the debiased form needs them.
    """

    origin: Tensor
    unit: Tensor
    debiased: bool

    @classmethod
    def of(cls, x: Tensor, debiased: bool) -> Frame:
        """That of a first batch."""
        x = as_float64(x)
        return cls(x.mean(0), unit_of(x.abs().max()), debiased)

    def rows(self, x: Tensor) -> Tensor:
        """Rows in this frame, ``(N, D)``, or the longer ones ``(N, D + 1)``."""
        wide = at_least_float32(x)
        if not self.debiased:
            return wide / self.unit.to(wide)
        z = (as_float64(x) - self.origin) / self.unit
        longer = torch.cat((z, z.square().sum(-1, keepdim=True)), 1)
        narrow = longer.to(wide.dtype)
        # Products with a row that outweighs all others keep what is left of them in float64 only.
        lengths = longer[:, -1]
        keeps = narrow.isfinite().all() & (lengths.amax() <= OUTWEIGHS * lengths.median())
        return narrow if bool(keeps) else longer

    def into(self, other: Frame) -> tuple[Tensor, Tensor]:
        """What rows in this frame are multiplied with to be in another one, and then moved by."""
        f = self.unit / other.unit
        if not self.debiased:
            return f, torch.zeros_like(f)
        t = (self.origin - other.origin) / other.unit
        matrix = torch.eye(len(t) + 1, dtype=t.dtype, device=t.device) * f
        matrix[:-1, -1], matrix[-1, -1] = 2 * f * t, f * f
        return matrix, torch.cat((t, t.square().sum()[None]))

    def parts(self, mean: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean about zero, in this unit; products of features; and q, what gives r of a row."""
        if not self.debiased:
            return mean, scatter, mean
        q = torch.cat((-2 * mean[:-1], mean.new_ones(1)))
        return mean[:-1] + self.origin / self.unit, scatter[:-1, :-1], q


def rounding_squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared relative rounding of either side, ``(1, 2)``: their mean is that of mixed types."""
    eps = rounding_of(x.dtype), rounding_of(y.dtype)
    return torch.tensor([[eps[0] ** 2, eps[1] ** 2]], dtype=torch.float64, device="cpu")


def cka_of_moments(moments: RowMoments, frames: Sequence[Frame], squared_eps: Tensor) -> Tensor:
    """CKA of rows in the `Frame` of either side; NaN with a warning if a side is constant.

    Args:
        moments: Of both sides, with all products of features.
        frames: Of both sides.
        squared_eps: Squared relative rounding of either side, ``(2,)``.
    """
    n, debiased = int(moments.total), frames[0].debiased
    fewest, what = FEWEST[debiased]
    if n < fewest:
        raise ValueError(f"CKA must have seen at least {fewest} rows for {what}, got {n}.")
    xx, xy, yy = moments.scatters
    sides, own = [], []
    for name, frame, mean, scatter, eps in zip(
        "xy", frames, moments.means, (xx, yy), squared_eps.sqrt().tolist(), strict=True
    ):
        about_zero, own_products, q = frame.parts(mean, scatter)
        spread = own_products.diagonal() / n
        if bool(is_constant(spread, about_zero.square() + spread, eps).all()):
            undefined(f"all rows of `{name}` are the same")
            return mean.new_tensor(torch.nan)
        # In units of the total variances, whose squares can be squared, and whose traces are 1.
        size = own_products.trace().sqrt()
        own.append(own_products / size / size)
        sides.append((size, q / size / size, eps))
    (size_x, q, eps_x), (size_y, p, eps_y) = sides
    cross = xy[:-1, :-1] if debiased else xy
    h_xy, h_xx, h_yy = (s.square().sum() for s in (cross / size_x / size_y, *own))
    noise = h_xx * feature_noise(eps_x), h_yy * feature_noise(eps_y)
    if debiased:
        h_xy = debias(h_xy, q @ xy @ p + 1 / n, 1, n)
        h_xx = debias(h_xx, q @ xx @ q + 1 / n, 1, n)
        h_yy = debias(h_yy, p @ yy @ p + 1 / n, 1, n)
    found = InnerProducts(h_xy, h_xx, h_yy, *noise)
    if not debiased:
        one = h_xx.new_ones(())  # the trace, in these units
        warn_of_bias(n, one, one, found)
    return found.cosine(ALL_EQUAL)


class CKA(Stateful):
    r"""Linear CKA of rows that arrive in batches; equal to `linear_cka` of all of them.

    It keeps means and products of features, never rows: :math:`O((D + E)^2)` memory. The size of
    the first batch is the unit of all. For the debiased form each row carries its squared length
    about a fixed shift, the mean of the first batch, as one more feature: what its formula needs to
    know about the final means is linear in the products of these longer rows.

    Args:
        in_features: Width D of ``x``.
        out_features: Width E of ``y``.
        debiased: As in `linear_cka`.

    Example:
        >>> cka = CKA(3, 3)
        >>> for batch in torch.randn(5, 10, 3):
        ...     _ = cka.update(batch, 2 * batch)
        >>> round(float(cka.compute()), 6)
        1.0
    """

    def __init__(self, in_features: int, out_features: int, debiased: bool = False) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        out_features = checks.check_size("out_features", out_features)
        self.in_features, self.out_features = in_features, out_features
        self.debiased = debiased
        self.moments = Moments(in_features + debiased, out_features + debiased)
        # The frame of each side, in the mean of one row: its origin, and its unit.
        self.frame_x = FeatureMoments(in_features + 1)
        self.frame_y = FeatureMoments(out_features + 1)
        self.rounding_squared = FeatureMoments(2)  # of a number of x and of y

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add paired rows ``(N, D)`` and ``(N, E)``. :math:`O(N (D + E)^2)`."""
        checks.check_rows("x", x, self.in_features, minimum=0)
        checks.check_rows("y", y, self.out_features, minimum=0)
        checks.check_paired(x, y)
        checks.check_finite("x", x)
        checks.check_finite("y", y)
        if not x.shape[0]:
            return self
        # Computed first, and written in one step: an interrupt finds all of it, or nothing.
        new: list[tuple[Tensor, Tensor]] = []
        if bool(self.frame_x.count):
            of_x, of_y = self._frames()
        else:
            of_x, of_y = Frame.of(x, self.debiased), Frame.of(y, self.debiased)
            for stream, frame in ((self.frame_x, of_x), (self.frame_y, of_y)):
                row = torch.cat((frame.origin, frame.unit[None]))[None]
                new += stream.plus(row_moments(row, pairs=_SQUARES, product=elementwise))
        rows = finite_moments(
            partial(row_moments, pairs=BOTH, product=outer), of_x.rows(x), of_y.rows(y)
        )
        eps = rounding_squared(x, y).to(self.moments.count.device).expand(x.shape[0], 2)
        rounding = row_moments(eps, pairs=_SQUARES, product=elementwise)
        write_all([*new, *self.moments.plus(rows), *self.rounding_squared.plus(rounding)])
        return self

    def compute(self) -> Tensor:
        """CKA of all rows so far, a float64 scalar; NaN with a warning if a side is constant."""
        return cka_of_moments(self.moments.state(), self._frames(), self.rounding_squared.mean)

    def reset(self) -> Self:
        """Forget everything."""
        write_all((buffer, torch.zeros_like(buffer)) for buffer in self.buffers())
        return self

    def merge(self, other: Self) -> Self:
        """Add what another one of the same kind and sizes has seen."""
        if type(other) is not type(self) or other.extra_repr() != self.extra_repr():
            raise ValueError(
                f"`other` must be a CKA({self.extra_repr()}), got {other}. Merge equal sizes."
            )
        if bool(other.moments.count):
            whole = copy.deepcopy(self)
            if not bool(whole.frame_x.count):
                whole.frame_x.merge(other.frame_x)
                whole.frame_y.merge(other.frame_y)
            whole.moments.add(other._moments_in(whole._frames()))
            whole.rounding_squared.merge(other.rounding_squared)
            self._become(whole)
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Put together what all processes have seen; every process then holds the whole.

        Args:
            group: The processes; all of them by default.

        Raises:
            ValueError: In every process, if they hold different measures; nothing has changed then.
            RuntimeError: There is no process group, or it was called before.
        """
        check_agreement("The measure", f"CKA({self.extra_repr()})", group)
        whole = copy.deepcopy(self)
        for part in (whole.frame_x, whole.frame_y, whole.rounding_squared):
            part.all_reduce(group)
        whole.moments.reset().add(self._moments_in(whole._frames())).all_reduce(group)
        self._become(whole)
        return self

    def _become(self, other: Self) -> None:
        write_all(zip(self.buffers(), other.buffers(), strict=True))

    def _frames(self) -> tuple[Frame, Frame]:
        # Several processes have the mean of their units, which is no power of two.
        first, second = (
            Frame(row[:-1], unit_of(row[-1]), self.debiased)
            for row in (self.frame_x.mean, self.frame_y.mean)
        )
        return first, second

    def _moments_in(self, frames: tuple[Frame, Frame]) -> RowMoments:
        """What has been seen, had it been measured in these frames."""
        own_x, own_y = self._frames()
        (to_x, plus_x), (to_y, plus_y) = own_x.into(frames[0]), own_y.into(frames[1])
        moved = self.moments.state().mapped((None, to_x), (None, to_y))
        mean_x, mean_y = moved.means
        return replace(moved, means=(mean_x + plus_x, mean_y + plus_y))

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"debiased={self.debiased}"
        )


class MinibatchCKA(Stateful):
    """`minibatch_cka` of batches that arrive one by one; a few numbers are all it keeps.

    Every batch counts alike, so give it batches of one size. A batch in which a side is constant
    (or has no median distance, which is the width of ``"rbf"``) adds nothing for that side. Use
    `CKA` for the exact linear measure; this one is for kernels, and for spaces so wide that
    products of features do not fit.

    Args:
        kernel: ``"linear"``, ``"rbf"`` with the median distance of each batch, or a function
            ``(b, D), (b, D) -> (b, b)``, as in `kernel_cka`.

    Example:
        >>> cka = MinibatchCKA()
        >>> for batch in torch.randn(5, 10, 3):
        ...     _ = cka.update(batch, 2 * batch)
        >>> round(float(cka.compute()), 6)
        1.0

    References:
        Nguyen, Raghu and Kornblith, arXiv:2010.15327.
    """

    def __init__(self, kernel: KernelLike = "linear") -> None:
        super().__init__()
        self.kernel = kernel
        self._resolved = resolve_kernel(kernel)
        self.stream = FeatureMoments(5)  # `InnerProducts` of each batch

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> Self:
        """Add one batch of at least 4 paired rows ``(N, D)`` and ``(N, E)``."""
        pair = paired_rows(x, y, *FEWEST[True], rescaled=False, part=True)
        (first, a), (second, b) = (in_unit(side, self._resolved) for side in pair[:2])
        sums = batch_hsic(pair._replace(x=first, y=second), self._resolved)
        in_own_units = torch.stack((a * b, a * a, b * b, a * a, b * b)).to(sums)
        self.stream.update((sums * in_own_units)[None])
        return self

    def compute(self) -> Tensor:
        """CKA of the batches so far, a float64 scalar; NaN with a warning if a side is constant."""
        if not bool(self.stream.count):
            raise ValueError("MinibatchCKA must have seen at least one batch, got none.")
        return InnerProducts(*self.stream.mean).cosine(NO_BATCH)

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
        """Put together what all processes have seen; every process then holds the whole.

        Args:
            group: The processes; all of them by default.

        Raises:
            ValueError: In every process, if they have different kernels; nothing has changed then.
            RuntimeError: There is no process group, or it was called before.
        """
        check_agreement("The measure", f"MinibatchCKA(kernel={description(self.kernel)})", group)
        self.stream.all_reduce(group)
        return self

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"kernel={self.kernel!r}"
