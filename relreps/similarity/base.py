"""Similarities as objects: in two steps, with what they are invariant to, and their inverses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import closure
from relreps._core.linalg import as_float64, at_least_float32, polar_factor, unit_rows
from relreps._core.rounding import safe_reciprocal


class Similarity(ABC):
    """A similarity in two steps. Subclass it to have the first one remembered."""

    @abstractmethod
    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """What can be computed from anchors ``(A, D)`` once; differentiable, blind to values."""

    @abstractmethod
    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Similarities ``(..., A)`` of the rows ``(..., D)``."""

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """What the similarity is invariant to.

        Args:
            in_features: Width of the space.
            rank: Number of anchors in general position.
        """
        return frozenset()

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Rows ``(..., D)`` whose code for the anchors is ``code``, where that determines them."""
        raise ValueError(f"{self} has no inverse: it does not determine the row.")

    #: Whether it depends on rows and anchors alone, so that a normaliser may stand before it.
    self_contained: bool = True

    def check_anchors(self, anchors: Tensor) -> None:  # noqa: B027
        """Raise if these anchors cannot be used. May look at values."""

    def __call__(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Both steps."""
        return evaluate(x, anchors, self)


@dataclass(frozen=True)
class Cosine(Similarity):
    """Cosine of the angle; see `relreps.similarity.cosine`."""

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        return (unit_rows(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        return unit_rows(x) @ prepared[0].mT

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        return closure(("rotation", "sample_scale"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Directions, given the average length of the anchors: a cosine does not see lengths."""
        length: Tensor = torch.linalg.vector_norm(anchors, dim=-1).mean()
        return unit_rows(_solve(code, unit_rows(anchors), self)) * length


@dataclass(frozen=True)
class Angular(Cosine):
    """Share of a half turn; see `relreps.similarity.angular`."""

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        wide = at_least_float32(super().compare(x, *prepared))
        # arccos has an infinite gradient at +-1, where rounding also leaves its domain. The angle
        # of the point (cos, sin) has neither fault; its gradient is zero where sin is zero.
        square = 1 - wide.square()
        sine = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
        return (torch.atan2(sine, wide) / math.pi).to(x.dtype)

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        return super().invert(torch.cos(code * math.pi), anchors)


@dataclass(frozen=True)
class Inner(Similarity):
    """Inner product; see `relreps.similarity.inner`."""

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        return (anchors,)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        return x @ prepared[0].mT

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        return closure(("rotation",))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        return _solve(code, anchors, self)


@dataclass(frozen=True)
class Distance(Similarity):
    """The distances `euclidean`, `l1` and `linf`: `torch.cdist` about the anchors' mean.

    Args:
        p: Exponent of the norm: 1, 2 or infinity.
    """

    p: float

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        wide = at_least_float32(anchors)
        mean = wide.mean(0)
        return mean, wide - mean

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        wide = at_least_float32(x)
        mean, centred = (tensor.to(wide.dtype) for tensor in prepared)
        rows = (wide - mean).reshape(-1, wide.shape[-1])
        # Always the product form for p = 2: the other one is chosen by size, so that the answer for
        # a row would depend on its batch, and is not twice differentiable.
        code = torch.cdist(rows, centred, p=self.p, compute_mode="use_mm_for_euclid_dist")
        return code.reshape(*x.shape[:-1], centred.shape[0]).to(x.dtype)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        return closure(("translation", "rotation" if self.p == 2 else "permutation"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Trilateration: differences of squared distances are linear in the row."""
        if self.p != 2:
            return super().invert(code, anchors)
        mean, centred = self.prepare(anchors)
        excess = code.square() - centred.square().sum(-1)
        products = -0.5 * (excess - excess.mean(-1, keepdim=True))
        return _solve(products, centred, self, lost=1) + mean


@dataclass(frozen=True)
class Basis(Similarity):
    r"""Coordinates in the anchors; see `relreps.similarity.basis`, with a choice of regularisation.

    Args:
        rcond: Singular values below this share of the largest count as zero; by default
            :math:`10 \sqrt{\max(A, D)}\,\epsilon`, the rounding of a matrix of the anchors' type.
            Not used with a ridge.
        ridge: Penalty on the coordinates, in units of the mean squared length of the anchors. It
            trades the invariance to linear maps for stability.
    """

    rcond: float | None = None
    ridge: float = 0.0

    def __post_init__(self) -> None:
        checks.check_number("ridge", self.ridge, 0, math.inf)
        if self.rcond is not None:
            checks.check_number("rcond", self.rcond, 0, 1)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        a = as_float64(anchors)
        if self.ridge:
            penalty = self.ridge * a.square().sum() / a.shape[0]
            gram = a @ a.mT + penalty * torch.eye(a.shape[0], dtype=a.dtype, device=a.device)
            inverse = torch.linalg.solve(gram, a).mT
        else:
            inverse = _pinv(a, anchors.dtype, self.rcond)
        return (inverse.to(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        return x @ prepared[0]

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        if rank >= in_features and not self.ridge and self.rcond is None:
            return closure(("linear",))
        return closure(("rotation", "isotropic_scale"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """The combination itself."""
        if self.ridge:
            raise ValueError(f"{self} has no inverse: a ridge shortens the coordinates.")
        _check_span(anchors, self)
        return code @ anchors


@dataclass(frozen=True)
class Parseval(Similarity):
    r"""Coordinates in the Parseval frame of the anchors: inner products with its rows.

    .. math:: \tilde F = A (A^\top A)^{-1/2}, \qquad r = x \tilde F^\top

    the polar factor of the anchors, zero in directions they do not span. It keeps lengths and
    angles if there are none.

    References:
        arXiv:2411.19719.
    """

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        a = as_float64(anchors)
        span = _pinv(a, anchors.dtype) @ a
        return ((polar_factor(a) @ span).to(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        return x @ prepared[0].mT

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        return closure(("rotation",))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Synthesis by the same frame."""
        _check_span(anchors, self)
        return code @ self.prepare(anchors)[0].to(code.dtype)


@dataclass(frozen=True)
class Rescaled(Similarity):
    """A distance in units of the median distance between two anchors, in the same metric.

    Adds the invariance to a global scale, which no distance has by itself.

    Args:
        similarity: ``"euclidean"``, ``"l1"``, ``"linf"``, or another distance.

    Example:
        >>> anchors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> Rescaled("l1")(torch.tensor([[1.0, 0.0]]), anchors)
        tensor([[0.5000, 0.5000, 1.5000]])
    """

    similarity: Any

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        prepared = resolve(self.similarity).prepare(anchors)
        return self._unit(anchors, prepared), *prepared

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        code = resolve(self.similarity).compare(x, *prepared[1:])
        return code * safe_reciprocal(prepared[0].to(code.dtype))

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        own = resolve(self.similarity).invariances(in_features, rank)
        return closure((*own, "isotropic_scale"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        unit = self.prepare(anchors)[0]
        return resolve(self.similarity).invert(code * unit.to(code.dtype), anchors)

    def check_anchors(self, anchors: Tensor) -> None:
        resolve(self.similarity).check_anchors(anchors)
        if anchors.shape[0] < 2 or (not anchors.is_meta and not self.prepare(anchors)[0] > 0):
            raise ValueError(
                "`anchors` must be at a positive median distance from each other to rescale by it; "
                "give at least two different anchors."
            )

    def _unit(self, anchors: Tensor, prepared: tuple[Tensor, ...]) -> Tensor:
        between = at_least_float32(resolve(self.similarity).compare(anchors, *prepared))
        i, j = torch.triu_indices(len(between), len(between), offset=1, device=between.device)
        return between[i, j].median()


@dataclass(frozen=True)
class Plain(Similarity):
    """A callable ``(x, anchors)`` as a similarity without a first step.

    Args:
        function: The callable. Its attribute ``invariant_to``, if any, names its invariances.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        return (anchors,)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        return self.function(x, prepared[0])

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        return closure(getattr(self.function, "invariant_to", ()))


#: What may stand where a similarity is asked for: a name, an object of this module, or any
#: callable ``(x, anchors) -> (..., A)``.
SimilarityLike = str | Similarity | Callable[[Tensor, Tensor], Tensor]

#: The named similarities.
SIMILARITIES: dict[str, Similarity] = {
    "cosine": Cosine(),
    "angular": Angular(),
    "inner": Inner(),
    "euclidean": Distance(2.0),
    "l1": Distance(1.0),
    "linf": Distance(math.inf),
    "basis": Basis(),
}


def resolve(similarity: SimilarityLike) -> Similarity:
    """The `Similarity` behind a name or a callable."""
    if isinstance(similarity, Similarity):
        return similarity
    if isinstance(similarity, type):
        raise TypeError(f"`similarity` must be an object, got the class {similarity.__name__}.")
    if callable(similarity):
        return Plain(similarity)
    checks.check_choice("similarity", similarity, SIMILARITIES)
    return SIMILARITIES[similarity]


def evaluate(x: Tensor, anchors: Tensor, similarity: SimilarityLike) -> Tensor:
    """Both steps of a similarity, checked: ``(..., D), (A, D) -> (..., A)``."""
    checks.check_rows("anchors", anchors)
    checks.check_features("x", x, anchors.shape[1])
    rule = resolve(similarity)
    prepared = (tensor.to(x.dtype) for tensor in rule.prepare(anchors))
    return checked_code(rule.compare(x, *prepared), x, anchors.shape[0])


def checked_code(code: Tensor, x: Tensor, num_anchors: int) -> Tensor:
    """Refuse the output of a similarity that is not one number for each row and anchor."""
    wanted = (*x.shape[:-1], num_anchors)
    if not isinstance(code, Tensor):
        raise TypeError(f"`similarity` must return a tensor, got {type(code).__name__}.")
    if tuple(code.shape) != wanted:
        raise ValueError(
            f"`similarity` must return shape {wanted} for x of shape {tuple(x.shape)} and "
            f"{num_anchors} anchors, got {tuple(code.shape)}."
        )
    return code


def _check_span(anchors: Tensor, rule: Similarity, lost: int = 0) -> None:
    """Refuse anchors too few to span the space; ``lost`` dimensions of them do not count."""
    num_anchors, features = anchors.shape
    if num_anchors - lost < features:
        raise ValueError(
            f"{rule} can be inverted with at least {features + lost} anchors in {features} "
            f"dimensions, got {num_anchors}. Use more anchors."
        )


def _solve(products: Tensor, anchors: Tensor, rule: Similarity, lost: int = 0) -> Tensor:
    """Rows with the given inner products with the anchors."""
    _check_span(anchors, rule, lost)
    inverse = _pinv(as_float64(anchors), anchors.dtype).mT
    rows: Tensor = products @ inverse.to(products)
    return rows


def _pinv(anchors: Tensor, dtype: torch.dtype, rcond: float | None = None) -> Tensor:
    """Pseudo-inverse of float64 anchors that carry the rounding of ``dtype``."""
    rounding = 10 * max(anchors.shape) ** 0.5 * torch.finfo(dtype).eps
    inverse: Tensor = torch.linalg.pinv(anchors, rtol=rounding if rcond is None else rcond)
    return inverse
