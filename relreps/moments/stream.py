"""Streams of rows: what a `RowMoments` holds, in the buffers of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from relreps._core import checks
from relreps._core.distributed import check_agreement
from relreps._core.linalg import as_float64
from relreps._core.rounding import rounding_of
from relreps._core.state import Stateful, write_all
from relreps.moments.rows import check_chunk_weights, finite_moments, row_moments
from relreps.moments.value import BOTH, Pairs, Product, RowMoments, elementwise, outer


class MomentStream(Stateful):
    """A `RowMoments` in buffers, filled chunk by chunk; float64 also after ``.half()``."""

    count: Tensor
    squares: Tensor
    coarse: Tensor
    reduced: Tensor

    def __init__(
        self, sizes: tuple[int, ...], pairs: Pairs, product: Product, exact: bool = False
    ) -> None:
        super().__init__()
        self.exact = exact
        self._sizes, self._pairs, self._product = sizes, pairs, product
        self._means = [f"mean_{'xy'[i]}" for i in range(len(sizes))]
        self._scatters = [f"scatter_{'xy'[i]}{'xy'[j]}" for i, j in pairs]
        shapes = [tuple(product(*(torch.zeros(1, sizes[k]) for k in pair)).shape) for pair in pairs]
        self._names = ["count", *self._means, *self._scatters, "squares", "coarse", "reduced"]
        shapes = [(), *((n,) for n in sizes), *shapes, (), (), ()]
        for name, shape in zip(self._names, shapes, strict=True):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def merge(self, other: Self) -> Self:
        """Add what another stream of the same kind and sizes has seen."""
        self._check_alike(other)
        device = self.count.device
        coarse, reduced = (
            torch.maximum(own, more.to(device))
            for own, more in ((self.coarse, other.coarse), (self.reduced, other.reduced))
        )
        return self._write(self._sums() + other._sums().to(device), coarse, reduced)

    def subtract(self, other: Self) -> Self:
        """Take away what another stream like this has seen, of rows that are in this one.

        What is left has the rounding of the whole: rows that are far larger than those that stay
        leave their rounding behind. Nothing is left if all rows are taken.
        """
        self._check_alike(other)
        left = float(self.count - other.count)
        eps = 8 * torch.finfo(torch.float64).eps * float(self.count)
        if left < -eps:
            raise ValueError(
                f"`other` must have seen a part of the rows of this stream, got a weight of "
                f"{float(other.count):g} to take from {float(self.count):g}."
            )
        if left <= eps:
            return self.reset()
        return self._write(self._sums() - other._sums().to(self.count.device))

    def decay(self, factor: float) -> Self:
        """Multiply the weight of every row seen so far by ``factor`` in [0, 1].

        Once before each `update` it forgets exponentially: means and covariances follow a space
        that drifts, with a memory of about ``1 / (1 - factor)`` updates.
        """
        checks.check_number("factor", factor, 0, 1)
        return self.reset() if factor == 0 else self._write(self._sums() * factor)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Self:
        """Add up what the streams of all processes of ``group`` have seen, in each of them.

        Call it once, in every process, after the last update. For rows that come later, take
        another stream, reduce it in turn, and `merge` it: a stream that holds the rows of all
        processes already is refused, as they would be counted again. Processes may have seen
        different numbers of rows, or none. O(D^2) is sent once.

        Args:
            group: The processes; all of them by default.

        Raises:
            ValueError: In every process, if their streams differ in kind or sizes.
            RuntimeError: There is no process group, or the streams were reduced before.
        """
        reduced = bool(self.reduced)
        kinds = {str(buffer.dtype) for buffer in self.buffers()}
        told = f"{self}{' after all_reduce' * reduced}, {self._sizes}, {self._pairs}, {kinds}"
        product = getattr(self._product, "__qualname__", "")
        check_agreement("The stream", f"{told}, {product}", group)
        if reduced:
            raise RuntimeError(
                f"{self} holds the rows of all processes already: another `all_reduce` would count "
                "them again. Put later rows into a stream of their own, reduce and `merge` it."
            )
        whole = self.state().all_reduced(group)
        coarse = torch.full_like(self.coarse, whole.eps != rounding_of(torch.float64))
        return self._write(whole, coarse, torch.ones_like(self.reduced))

    def reset(self) -> Self:
        """Forget everything."""
        held = [getattr(self, name) for name in self._names]
        write_all((buffer, torch.zeros_like(buffer)) for buffer in held)
        return self

    def add(self, moments: RowMoments) -> Self:
        """Add what has been summed elsewhere: moments of the same sides, pairs and products."""
        write_all(self.plus(moments))
        return self

    def plus(self, moments: RowMoments) -> list[tuple[Tensor, Tensor]]:
        """What `add` would write: each buffer, and its new value.

        For what keeps several streams, and writes them in one step by `write_all`.
        """
        moments = moments.plain().to(self.count.device)
        exact = moments.eps == rounding_of(torch.float64)
        coarse = (moments.total > 0) & (not exact)  # rows without weight are none
        return self._pairs_of(self._sums() + moments, torch.maximum(self.coarse, coarse.double()))

    def state(self) -> RowMoments:
        """What has been seen so far; later rows do not change it."""
        dtype = torch.float32 if bool(self.coarse > 0) else torch.float64
        return replace(self._sums() * 1.0, eps=rounding_of(dtype))

    def _sums(self) -> RowMoments:
        """The buffers as a value; how coarse the rows were is not looked at, nor waited for."""
        means, scatters = (
            tuple(getattr(self, name) for name in names) for names in (self._means, self._scatters)
        )
        eps = rounding_of(torch.float64)
        return RowMoments(self.count, means, scatters, self._pairs, self.squares, eps)

    def _write(
        self, new: RowMoments, coarse: Tensor | None = None, reduced: Tensor | None = None
    ) -> Self:
        """Fill the buffers in one step, so that an interrupt finds all of it or nothing."""
        write_all(self._pairs_of(new, coarse, reduced))
        return self

    def _pairs_of(
        self, new: RowMoments, coarse: Tensor | None = None, reduced: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Each buffer, and what it is to hold."""
        values = [new.total, *new.means, *new.scatters, new.squares]
        values += [self.coarse if coarse is None else coarse]
        values += [self.reduced if reduced is None else reduced]
        return list(zip((getattr(self, name) for name in self._names), values, strict=True))

    def _update(self, *sides: Tensor, weights: Tensor | None) -> Self:
        for name, side, size in zip("xy", sides, self._sizes, strict=False):
            checks.check_rows(name, side, size, minimum=0)
        if weights is not None:
            check_chunk_weights(weights, sides[0].shape[0])
        take = partial(
            row_moments,
            pairs=self._pairs,
            product=self._product,
            weights=weights,
            exact=self.exact,
        )
        with torch.no_grad():
            return self.add(finite_moments(take, *sides))

    def _check_alike(self, other: Self) -> None:
        if str(other) != str(self):
            raise ValueError(
                f"`other` must be a {self}, got {other}. These must be streams of equal sizes "
                "and one kind."
            )

    def _mean_of(self, scatter: Tensor) -> Tensor:
        if not scatter.is_meta and not bool(scatter.isfinite().all()):
            raise ValueError(
                f"{self} has seen rows whose squares are no float64 numbers (from 1e154 on). "
                "Divide all rows by one constant, a power of two, before they are added."
            )
        return scatter / torch.where(self.count > 0, self.count, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def device_only(t: Tensor) -> Tensor:
            device = fn(t).device
            if t.is_meta:
                return torch.zeros_like(t, device=device)
            return as_float64(t.to(device)) if device.type != "mps" else t.cpu()

        super()._apply(device_only, recurse)
        return self


class FeatureMoments(MomentStream):
    """Streaming mean and population variance of each feature, in O(D) memory.

    Args:
        in_features: Number of features D.

    Example:
        >>> stream = FeatureMoments(2).update(torch.tensor([[0.0, 1.0]]))
        >>> stream.update(torch.tensor([[2.0, 1.0]])).variance
        tensor([1., 0.], dtype=torch.float64)
    """

    mean_x: Tensor
    scatter_xx: Tensor

    def __init__(self, in_features: int) -> None:
        in_features = checks.check_size("in_features", in_features)
        super().__init__((in_features,), ((0, 0),), elementwise)
        self.in_features = in_features

    def update(self, x: Tensor, weights: Tensor | None = None) -> Self:
        """Add rows ``(N, D)``; rows that are not finite are refused. O(ND)."""
        return self._update(x, weights=weights)

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, ``(D,)``."""
        return self.mean_x

    @property
    def variance(self) -> Tensor:
        """Population variance of each feature, ``(D,)``."""
        return self._mean_of(self.scatter_xx)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}"


class Moments(MomentStream):
    r"""Streaming means and (cross-)covariances of one space, or of two paired ones.

    .. math:: C_{xy} = \tfrac1W \sum_i w_i (x_i - \mu_x)(y_i - \mu_y)^\top

    The sum runs over all rows seen; `merge` adds another stream. O(N (D + E)^2) time, O((D + E)^2)
    memory, whatever the number of rows.

    Args:
        in_features: Number of features D of ``x``.
        out_features: Number of features E of ``y``; without it there is no ``y``.
        exact: Take the products of float32 rows in float64 too, at about twice the time: for
            translators, which solve equations with them.

    Example:
        >>> stream = Moments(2).update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> stream.cov_xx
        tensor([[1., 2.],
                [2., 4.]], dtype=torch.float64)
    """

    scatter_xx: Tensor
    scatter_xy: Tensor
    scatter_yy: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def __init__(
        self, in_features: int, out_features: int | None = None, *, exact: bool = False
    ) -> None:
        in_features = checks.check_size("in_features", in_features)
        if out_features is None:
            super().__init__((in_features,), ((0, 0),), outer, exact)
        else:
            out_features = checks.check_size("out_features", out_features)
            super().__init__((in_features, out_features), BOTH, outer, exact)
        self.in_features, self.out_features = in_features, out_features

    def update(self, x: Tensor, y: Tensor | None = None, weights: Tensor | None = None) -> Self:
        """Add rows ``(N, D)`` and, if there are two spaces, their partners ``(N, E)``."""
        if (y is None) != (self.out_features is None):
            wanted = "one set of rows" if self.out_features is None else "paired rows `x` and `y`"
            raise ValueError(f"{self} takes {wanted}; set `out_features` to have a second space.")
        if y is None:
            return self._update(x, weights=weights)
        checks.check_paired(x, y)
        return self._update(x, y, weights=weights)

    @property
    def cov_xx(self) -> Tensor:
        """Population covariance of ``x``, ``(D, D)``."""
        return self._mean_of(self.scatter_xx)

    @property
    def cov_xy(self) -> Tensor:
        """Population cross-covariance, ``(D, E)``."""
        return self._mean_of(self.scatter_xy)

    @property
    def cov_yy(self) -> Tensor:
        """Population covariance of ``y``, ``(E, E)``."""
        return self._mean_of(self.scatter_yy)

    def extra_repr(self) -> str:
        """Constructor call."""
        exact = ", exact=True" if self.exact else ""
        return f"in_features={self.in_features}, out_features={self.out_features}{exact}"
