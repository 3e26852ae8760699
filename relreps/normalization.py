"""Normalisers: maps fitted on anchors that take a class of transformations out of a space.

Statistics come from the rows given to ``fit`` and from nothing else: the output for one row depends
neither on its batch nor on the train or eval mode. There is no absolute epsilon: a space multiplied
by 1e-6 is normalised as well as the original.

Each function is the map for given statistics; the module of the same purpose remembers them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from relreps import _checks
from relreps._invariance import ABSORBED, BROKEN, Residues, invariances, residues
from relreps._linalg import at_least_float32, inverse_or_zero, unit_rows
from relreps._state import FittedModule
from relreps.moments import RowMoments, elementwise, merged, row_moments


def center(x: Tensor, mean: Tensor) -> Tensor:
    r"""Subtract a mean, :math:`x - \mu`, in at least float32.

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return (wide - mean.to(wide.dtype)).to(x.dtype)


def standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Centre and divide each feature by its deviation, :math:`(x - \mu) / \sigma`.

    A feature with :math:`\sigma = 0` maps to 0, for rows that vary in it too: leaving it as it is
    would tie the output to the unit of that feature.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return ((wide - mean.to(wide.dtype)) * inverse_or_zero(std.to(wide.dtype))).to(x.dtype)


def deviations(moments: RowMoments, dtype: torch.dtype) -> Tensor:
    r"""Population deviation of each feature ``(D,)``, exactly 0 where it is rounding.

    A feature counts as constant if :math:`\sigma^2 \le (10\,\epsilon\,\mu)^2`, with the epsilon of
    ``dtype``, the type of the rows: a test without a unit, so it does not depend on scale.
    """
    variance = moments.scatters[0] / moments.total
    constant = variance <= (10 * torch.finfo(dtype).eps * moments.means[0]) ** 2
    # The gradient of a root at 0 is infinite: constant features take the other branch.
    return torch.where(constant, 0, torch.where(constant, 1, variance).sqrt())


def unit_norm(x: Tensor) -> Tensor:
    r"""Scale each row to length one, :math:`x / \lVert x \rVert_2`.

    A zero row stays zero and has zero gradient, in every floating type.

    Shape:
        - x: :math:`(*, D)`. Output: the same.
    """
    _checks.check_floating("x", x)
    return unit_rows(x)


class AbstractNormalizer(nn.Module, ABC):
    """A map of rows ``(..., D) -> (..., D)``, fitted on reference rows, that says what it removes.

    A subclass declares `residues`: what is left behind it of each transformation of the space.
    """

    residues: Residues

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of rows and reference together that leave the output as it is."""
        return invariances(self.residues, frozenset())

    @abstractmethod
    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten."""

    @abstractmethod
    def relative_to(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fit on ``reference`` and map ``x``, without state; gradients reach both."""

    @abstractmethod
    def _refit(self, x: Tensor) -> None:
        """`fit` without looking at values, for use inside ``forward``."""


class UnitNorm(AbstractNormalizer):
    r"""Scale each row to length one, :math:`x / \lVert x \rVert_2`.

    Removes the scale of each sample, so that a later inner product is a cosine. It has no
    statistics: `fit` does nothing, and lengths are lost, so there is no inverse. O(ND).

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Example:
        >>> UnitNorm()(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])

    References:
        Moschella et al., arXiv:2209.15430, section 3.
    """

    residues = residues(
        isotropic_scale=ABSORBED,
        sample_scale=ABSORBED,
        translation=BROKEN,
        feature_scale=BROKEN,
        linear=BROKEN,
        affine=BROKEN,
    )

    def fit(self, x: Tensor) -> Self:
        """Check the rows ``(N, D)``; there is nothing to remember."""
        _checks.check_rows("x", x)
        _checks.check_finite("x", x)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)``."""
        return unit_norm(x)

    def relative_to(self, x: Tensor, reference: Tensor) -> Tensor:
        """Normalise ``x``; the reference does not matter."""
        return unit_norm(x)

    def _refit(self, x: Tensor) -> None:
        pass


class AbstractFittedNormalizer(FittedModule, AbstractNormalizer):
    """A normaliser with statistics of its own, one buffer each.

    A subclass names the buffers in `_statistics`, and gives `_solve` (statistics from moments,
    differentiable, blind to values), `_refuse` (what cannot be normalised) and `_map`.
    """

    mean: Tensor
    _statistics: tuple[str, ...]

    def __init__(self, in_features: int) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        self.in_features = in_features
        self._seen: RowMoments | None = None
        for name in self._statistics:
            self.register_buffer(name, torch.zeros(in_features))

    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten. O(ND)."""
        return self._adopt(self._checked_moments(x), x.dtype)

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls. O(ND), constant memory.

        The result is that of one `fit` on all rows. The running sums are not in a checkpoint: to
        go on after loading, keep a `relreps.FeatureMoments` of your own.
        """
        if self._fitted and self._seen is None:
            raise RuntimeError(
                f"{type(self).__name__} was loaded from a checkpoint, which holds its statistics "
                "but not its running sums. Call `fit` to start anew."
            )
        new = self._checked_moments(x)
        if self._seen is not None:
            new = self._merged(_to(self._seen, new.total.device), new)
        return self._adopt(new, x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)`` with the fitted statistics."""
        return self._map(self._ready(x), *self._state())

    def inverse(self, x: Tensor) -> Tensor:
        """Rows ``(..., D)`` in the original space; constant features come back as their mean."""
        return self._unmap(self._ready(x), *self._state())

    def relative_to(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fit on ``reference`` and map ``x``, without state; gradients reach both."""
        return self._map(x, *self._solve(self._moments(reference), reference.dtype))

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}"

    # What a subclass gives.

    @abstractmethod
    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]: ...

    def _refuse(self, *statistics: Tensor) -> None:
        """Raise if no map follows from these statistics. May look at values."""

    @abstractmethod
    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    @abstractmethod
    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    # What it gets.

    def _moments(self, x: Tensor) -> RowMoments:
        return row_moments(x)

    def _merged(self, a: RowMoments, b: RowMoments) -> RowMoments:
        return merged(a, b, ((0, 0),), elementwise)

    def _checked_moments(self, x: Tensor) -> RowMoments:
        _checks.check_rows("x", x, self.in_features)
        _checks.check_finite("x", x)
        with torch.no_grad():
            return self._moments(x)

    def _adopt(self, moments: RowMoments, dtype: torch.dtype) -> Self:
        statistics = self._solve(moments, dtype)
        self._refuse(*statistics)
        self._write(statistics)
        self._seen = moments
        return self

    def _refit(self, x: Tensor) -> None:
        with torch.no_grad():
            self._write(self._solve(self._moments(x), x.dtype))
        self._seen = None

    def _write(self, statistics: tuple[Tensor, ...]) -> None:
        for buffer, value in zip(self._state(), statistics, strict=True):
            buffer.copy_(value)
        self._mark_fitted()

    def _state(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self._statistics)

    def _ready(self, x: Tensor) -> Tensor:
        _checks.check_features("x", x, self.in_features)
        self._require_fitted("Call `fit(anchors)` first.")
        return x

    def _on_load(self) -> None:
        self._seen = None


class Center(AbstractFittedNormalizer):
    r"""Subtract the mean of the reference rows, :math:`x - \mu`.

    With a cosine behind it the code no longer depends on where the space is centred, which decides
    the result on encoders trained elsewhere: their embeddings often share one large mean.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = Center(2).fit(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> norm(torch.tensor([[2.0, 3.0]]))
        tensor([[0., 0.]])
    """

    residues = residues(translation=ABSORBED, affine="linear", sample_scale=BROKEN)
    _statistics = ("mean",)

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (moments.means[0],)

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, -statistics[0])


class StandardScale(AbstractFittedNormalizer):
    r"""Standardise each feature on the reference rows, :math:`(x - \mu) / \sigma`.

    :math:`\sigma` is the population deviation. Behind it a cosine is invariant to a scale of each
    feature, to shifts and to permutations, but no longer to rotations: it is the non-isotropic,
    robust relative transformation. A feature that is constant up to rounding
    (:math:`\sigma^2 \le (10\,\epsilon\,\mu)^2`) maps to 0 and comes back as its mean.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: Every feature of the reference rows is constant (one row, or all rows equal).
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = StandardScale(2).fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> norm(torch.tensor([[3.0, 9.0]]))
        tensor([[1., 0.]])
        >>> norm.inverse(torch.tensor([[1.0, 0.0]]))
        tensor([[3., 5.]])

    References:
        arXiv:2409.10967, section 3, with the statistics of the anchors alone.
    """

    std: Tensor
    residues = residues(
        translation=ABSORBED,
        isotropic_scale=ABSORBED,
        feature_scale=ABSORBED,
        rotation="linear",
        affine="linear",
        sample_scale=BROKEN,
    )
    _statistics = ("mean", "std")

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return moments.means[0], deviations(moments, dtype)

    def _refuse(self, *statistics: Tensor) -> None:
        if not bool((statistics[1] > 0).any()):
            raise ValueError(
                "`x` must vary in at least one feature, got rows that are all equal. "
                "Give at least two different rows."
            )

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return standard_scale(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        mean, std = statistics
        wide = at_least_float32(x)
        return (wide * std.to(wide.dtype) + mean.to(wide.dtype)).to(x.dtype)


def _to(moments: RowMoments, device: torch.device) -> RowMoments:
    return RowMoments(
        moments.total.to(device),
        tuple(m.to(device) for m in moments.means),
        tuple(s.to(device) for s in moments.scatters),
    )
