"""Normalisers: maps fitted on anchors that take a class of transformations out of a space.

Statistics come from the rows given to ``fit`` and from nothing else: the output for one row depends
neither on its batch nor on the train or eval mode. There is no absolute epsilon: a space multiplied
by 1e-6 is normalised as well as the original.

Each function is the map for given statistics; the module of the same purpose remembers them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from relreps import _checks
from relreps._invariance import ABSORBED, BROKEN, Residues, invariances, residues, then
from relreps._linalg import at_least_float32, inverse_or_zero, inverse_sqrt, unit_rows
from relreps._state import FittedModule
from relreps.moments import RowMoments, elementwise, finite_moments, merged, outer, row_moments


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


def inverse_standard_scale(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    r"""Undo `standard_scale`, :math:`\sigma x + \mu`; constant features are their mean.

    Shape:
        - x: :math:`(*, D)`; mean, std: :math:`(D,)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return (wide * std.to(wide.dtype) + mean.to(wide.dtype)).to(x.dtype)


def whiten(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    r"""Centre and multiply by a matrix, :math:`(x - \mu) W`. O(ND^2).

    Shape:
        - x: :math:`(*, D)`; mean: :math:`(D,)`; matrix: :math:`(D, D)`. Output: as ``x``.
    """
    wide = at_least_float32(x)
    return ((wide - mean.to(wide.dtype)) @ matrix.to(wide.dtype)).to(x.dtype)


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
    #: Whether reference rows sum to zero behind it, and so span one dimension less.
    centres: bool = False

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of rows and reference together that leave the output as it is."""
        return invariances(self.residues, frozenset())

    @abstractmethod
    def fit(self, x: Tensor) -> Self:
        """Take the statistics of the rows ``(N, D)``; earlier ones are forgotten."""

    def inverse(self, x: Tensor) -> Tensor:
        """Rows ``(..., D)`` in the original space, where the map is one-to-one."""
        raise ValueError(f"{self} has no inverse: it does not determine the row.")

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls; where there are no sums, `fit`."""
        return self.fit(x)

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
    centres = True
    _statistics: tuple[str, ...]
    _product = staticmethod(elementwise)

    def __init__(self, in_features: int) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        self.in_features = in_features
        self._seen: RowMoments | None = None
        for name in self._statistics:
            self.register_buffer(name, torch.zeros(self._shape_of(name)))

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

    def _shape_of(self, statistic: str) -> tuple[int, ...]:
        return (self.in_features,)

    @abstractmethod
    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]: ...

    def _refuse(self, moments: RowMoments, dtype: torch.dtype) -> None:
        """Raise if no map follows from these moments. May look at values."""
        if not bool((deviations(moments, dtype) > 0).any()):
            raise ValueError(
                "`x` must vary in at least one feature, got rows that are all equal. "
                "Give at least two different rows."
            )

    @abstractmethod
    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    @abstractmethod
    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor: ...

    # What it gets.

    def _moments(self, x: Tensor) -> RowMoments:
        return row_moments(x, product=self._product)

    def _merged(self, a: RowMoments, b: RowMoments) -> RowMoments:
        return merged(a, b, product=self._product)

    def _checked_moments(self, x: Tensor) -> RowMoments:
        _checks.check_rows("x", x, self.in_features)
        with torch.no_grad():
            return finite_moments(self._moments, x)

    def _adopt(self, moments: RowMoments, dtype: torch.dtype) -> Self:
        statistics = self._solve(moments, dtype)
        self._refuse(moments, dtype)
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

    def _refuse(self, moments: RowMoments, dtype: torch.dtype) -> None:
        pass  # any rows have a mean

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return center(x, -statistics[0])


class IsotropicScale(AbstractFittedNormalizer):
    r"""Centre, and divide by the root mean square distance to the centre.

    .. math:: (x - \mu) / \rho, \qquad \rho^2 = \tfrac1A \sum_j \lVert a_j - \mu\rVert_2^2

    One number for the whole space, so directions keep their relative sizes and rotations stay
    rotations. Behind it a distance no longer depends on the unit of the space.

    Args:
        in_features: Number of features D.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: The reference rows are all equal.
        RuntimeError: Used before `fit`.

    Example:
        >>> norm = IsotropicScale(2).fit(torch.tensor([[0.0, 0.0], [6.0, 8.0]]))
        >>> norm(torch.tensor([[6.0, 8.0]]))
        tensor([[0.6000, 0.8000]])
    """

    scale: Tensor
    residues = residues(
        translation=ABSORBED, isotropic_scale=ABSORBED, affine="linear", sample_scale=BROKEN
    )
    _statistics = ("mean", "scale")

    def _shape_of(self, statistic: str) -> tuple[int, ...]:
        return () if statistic == "scale" else (self.in_features,)

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        # As one feature, whose deviation is the length of all of them.
        lengths = torch.linalg.vector_norm(deviations(moments, dtype))
        return moments.means[0], lengths

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return standard_scale(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return inverse_standard_scale(x, *statistics)


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

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return standard_scale(x, *statistics)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        return inverse_standard_scale(x, *statistics)


class Whiten(AbstractFittedNormalizer):
    r"""Whiten on the reference rows: unit covariance, in the coordinates nearest to the original.

    .. math:: (x - \mu)\, C_\gamma^{-1/2}, \qquad
              C_\gamma = (1 - \gamma)\, C + \gamma\, \tfrac{\operatorname{tr} C}{D} I

    With the symmetric root (ZCA) an invertible affine map of the space becomes a rotation, which a
    cosine, inner product or euclidean distance removes. That needs :math:`\gamma = 0` and more rows
    than features; shrinkage :math:`\gamma > 0` works with any number and keeps rotations, shifts
    and a global scale only. Constant features map to 0 and come back as their mean. Fit:
    O(ND^2 + D^3). A call: O(ND^2).

    Args:
        in_features: Number of features D.
        shrinkage: :math:`\gamma` in [0, 1]; at 1 every direction is scaled alike.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: Too few rows for no shrinkage, or rows that are all equal.
        RuntimeError: Used before `fit`.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> Whiten(2).fit(rows)(rows).var(0, correction=0)
        tensor([1.0000, 1.0000])

    References:
        ZCA: Bell and Sejnowski 1997; whitened inner products: arXiv:2605.30596.
    """

    matrix: Tensor
    unmatrix: Tensor
    _statistics = ("mean", "matrix", "unmatrix")
    _product = staticmethod(outer)

    def __init__(self, in_features: int, shrinkage: float = 0.0) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"`shrinkage` must be in [0, 1], got {shrinkage}.")
        super().__init__(in_features)
        self.shrinkage = float(shrinkage)

    @property
    def residues(self) -> Residues:  # type: ignore[override]
        """What is left of each transformation: a rotation if there is no shrinkage."""
        left = "linear" if self.shrinkage else "rotation"
        return residues(
            translation=ABSORBED,
            isotropic_scale=ABSORBED,
            feature_scale=left,
            linear=left,
            affine=left,
            sample_scale=BROKEN,
        )

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"in_features={self.in_features}, shrinkage={self.shrinkage}"

    def _shape_of(self, statistic: str) -> tuple[int, ...]:
        return (self.in_features,) if statistic == "mean" else (self.in_features,) * 2

    def _solve(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, ...]:
        covariance, active = self._covariance(moments, dtype)
        # Constant features stand aside as a block of their own while the root is taken.
        aside = torch.diag((~active).to(covariance.dtype))
        matrix = inverse_sqrt(covariance + aside) - aside
        return moments.means[0], matrix, covariance @ matrix

    def _covariance(self, moments: RowMoments, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Shrunk covariance with zeros for constant features, and the mask of the others."""
        covariance = moments.scatters[0] / moments.total
        active = deviations(_diagonal(moments), dtype) > 0
        covariance = torch.where(active[:, None] & active, covariance, 0)
        level = covariance.trace() / active.sum().clamp(min=1)
        ridge = torch.diag(active.to(covariance.dtype) * level)
        return (1 - self.shrinkage) * covariance + self.shrinkage * ridge, active

    def _refuse(self, moments: RowMoments, dtype: torch.dtype) -> None:
        super()._refuse(_diagonal(moments), dtype)
        covariance, active = self._covariance(moments, dtype)
        values = torch.linalg.eigvalsh(covariance[active][:, active])
        wanted, rows = len(values), int(moments.total)
        # The products are taken in the type of the rows, so smaller eigenvalues are rounding.
        rounding = 2 * wanted**0.5 * torch.finfo(dtype).eps
        rank = int((values > values[-1] * rounding).sum())
        if rank < wanted:
            reason = (
                f"{rows} rows vary in at most {rows - 1}; give more rows"
                if rows <= wanted
                else f"these rows vary in {rank}, so a direction of the space is dead"
            )
            raise ValueError(
                f"`x` must vary in all {wanted} directions to be whitened without shrinkage: "
                f"{reason}, or set `shrinkage` above 0 (0.1, say)."
            )

    def _map(self, x: Tensor, *statistics: Tensor) -> Tensor:
        mean, matrix, _ = statistics
        return whiten(x, mean, matrix)

    def _unmap(self, x: Tensor, *statistics: Tensor) -> Tensor:
        mean, _, unmatrix = statistics
        wide = at_least_float32(x)
        return (wide @ unmatrix.to(wide.dtype) + mean.to(wide.dtype)).to(x.dtype)


class RunningScale(AbstractNormalizer):
    r"""The normaliser of the released code of the robust relative transformation, for parity.

    A batch normalisation without learned scale, shared by samples and anchors. While training, the
    samples are scaled by their own batch and the anchors by theirs, and each pass moves one running
    mean and variance, which therefore settle on about 59 % anchors and 41 % samples (with momentum
    0.3). In eval the running statistics serve both. So a training code depends on the batch, the
    first steps are dominated by the initial 0 and 1, and the absolute epsilon ties the code to the
    unit of the space. It removes nothing by itself. Use `StandardScale` for anything else.

    Args:
        in_features: Number of features D.
        momentum: Weight of the newest statistics.
        eps: Added to the variance.

    Shape:
        - Input: :math:`(N, D)`. Output: the same.

    References:
        Released code of arXiv:2409.10967.
    """

    residues = residues(
        rotation="linear",
        isotropic_scale="linear",
        feature_scale="linear",
        sample_scale=BROKEN,
    )

    def __init__(self, in_features: int, momentum: float = 0.3, eps: float = 1e-5) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        self.in_features = in_features
        self.norm = nn.BatchNorm1d(in_features, eps=eps, momentum=momentum, affine=False)

    def fit(self, x: Tensor) -> Self:
        """Move the running statistics one step towards the rows ``(N, D)``."""
        _checks.check_rows("x", x, self.in_features, minimum=2)
        _checks.check_finite("x", x)
        self._refit(x)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)``: by themselves while training, else by running statistics."""
        _checks.check_features("x", x, self.in_features)
        kind = self.norm.running_mean.dtype  # type: ignore[union-attr]
        flat: Tensor = self.norm(x.reshape(-1, self.in_features).to(kind))
        return flat.reshape(x.shape).to(x.dtype)

    def relative_to(self, x: Tensor, reference: Tensor) -> Tensor:
        """Normalise ``x``; the reference counts only through the running statistics."""
        return self(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _refit(self, x: Tensor) -> None:
        training = self.norm.training
        self.norm.train()(x)
        self.norm.train(training)


class NormalizerChain(AbstractNormalizer):
    """Normalisers one after the other, each fitted on what the ones before it make of the rows.

    Args:
        normalizers: At least one; those with ``in_features`` must agree on it.

    Shape:
        - Input: :math:`(*, D)`. Output: the same.

    Raises:
        ValueError: No normalisers, or different widths.

    Example:
        >>> chain = NormalizerChain(Center(2), UnitNorm())
        >>> chain.fit(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))(torch.tensor([[2.0, 6.0]]))
        tensor([[0., 1.]])
    """

    def __init__(self, *normalizers: AbstractNormalizer) -> None:
        super().__init__()
        for i, normalizer in enumerate(normalizers):
            if not isinstance(normalizer, AbstractNormalizer):
                came = type(normalizer).__name__
                raise TypeError(f"`normalizers[{i}]` must be a normaliser of relreps, got {came}.")
        widths = [n.in_features for n in normalizers if hasattr(n, "in_features")]
        if not normalizers or len(set(widths)) > 1:
            raise ValueError(
                "`normalizers` must be one or more of the same width, got "
                f"{', '.join(str(n) for n in normalizers) or 'none'}."
            )
        self.normalizers = nn.ModuleList(normalizers)
        if widths:
            self.in_features = widths[0]

    @property
    def residues(self) -> Residues:  # type: ignore[override]
        """What is left of each transformation behind all of them."""
        left: Residues = residues()
        for normalizer in self:
            left = then(left, normalizer.residues)
        return left

    @property
    def centres(self) -> bool:  # type: ignore[override]
        """Whether the rows lose one dimension on the way."""
        return any(normalizer.centres for normalizer in self)

    def __iter__(self) -> Iterator[AbstractNormalizer]:
        return iter(self.normalizers)  # type: ignore[arg-type]

    def fit(self, x: Tensor) -> Self:
        """Fit each on the output of the one before; on an error nothing changes."""
        trials = [copy.deepcopy(normalizer) for normalizer in self]
        for trial in trials:
            x = trial.fit(x)(x)
        for normalizer, trial in zip(self, trials, strict=True):
            normalizer.load_state_dict(trial.state_dict())
        return self

    def partial_fit(self, x: Tensor) -> Self:
        """Add the rows ``(N, D)`` to those of earlier calls, where that is possible.

        It is if at most one of the normalisers has statistics: those of a second one would be taken
        behind a first one that still changes.
        """
        if sum(isinstance(normalizer, AbstractFittedNormalizer) for normalizer in self) > 1:
            raise ValueError(
                f"{self} cannot be fitted in parts: each of its statistics depends on those before "
                "it. Call `fit` with all rows."
            )
        for normalizer in self:
            x = normalizer.partial_fit(x)(x)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows ``(..., D)``."""
        for normalizer in self:
            x = normalizer(x)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Undo each, last first."""
        for normalizer in reversed(list(self)):
            x = normalizer.inverse(x)
        return x

    def relative_to(self, x: Tensor, reference: Tensor) -> Tensor:
        """Fit on ``reference`` and map ``x``, without state; gradients reach both."""
        for normalizer in self:
            mapped = normalizer.relative_to(reference, reference)
            x, reference = normalizer.relative_to(x, reference), mapped
        return x

    def _refit(self, x: Tensor) -> None:
        for normalizer in self:
            normalizer._refit(x)
            x = normalizer(x)


def _diagonal(moments: RowMoments) -> RowMoments:
    """Moments of each feature by itself."""
    return moments._replace(scatters=(moments.scatters[0].diagonal(),))


def _to(moments: RowMoments, device: torch.device) -> RowMoments:
    return RowMoments(
        moments.total.to(device),
        tuple(m.to(device) for m in moments.means),
        tuple(s.to(device) for s in moments.scatters),
    )
