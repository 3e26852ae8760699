"""What a similarity is: a function in two steps, that knows its invariances and its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from relreps._core import checks
from relreps._core.description import call
from relreps._core.invariance import closure
from relreps._core.linalg import HALF, full_precision


class Similarity(ABC):
    """A function ``(x, anchors) -> (..., A)`` in two steps.

    `prepare` takes the step that depends on the anchors alone, `compare` the rest, one product for
    most. A call takes both; a `RelativeProjection` remembers the first. Subclass it for a
    similarity of your own: those two methods suffice.
    """

    #: A name for each tensor that `prepare` gives; without names they are numbered.
    prepared_names: ClassVar[tuple[str, ...]] = ()
    #: Whether it depends on rows and anchors alone, so that a normaliser may stand before it.
    self_contained: bool = True
    #: Whether half types are computed in float32, and nothing by autocast: not where the code is
    #: that of a function or a network of the user, which has types of its own.
    widens: bool = True

    def __call__(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Both steps: similarities ``(..., A)`` of rows ``(..., D)`` to anchors ``(A, D)``."""
        checks.check_rows("anchors", anchors)
        checks.check_features("x", x, anchors.shape[1])
        checks.check_device(x, anchors, ("x", "anchors"))
        with full_precision(x) if self.widens else nullcontext():
            return self.code(x, self.prepare(anchors), anchors.shape[0])

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

    def check_anchors(self, anchors: Tensor) -> None:  # noqa: B027
        """Raise if these anchors cannot be used. May look at values."""

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Rows ``(..., D)`` whose code for the anchors is ``code``, where that determines them."""
        raise ValueError(f"{self} has no inverse: it does not determine the row.")

    def described(self) -> str:
        """What a checkpoint says of it: the state of a projection by another one is refused."""
        return call(self)

    def code(self, x: Tensor, prepared: Iterable[Tensor], num_anchors: int) -> Tensor:
        """`compare` with what was prepared, in the type of ``x``: every code is made here.

        Refuses what is not one number for each row and anchor.
        """
        wide = x.float() if self.widens and x.dtype in HALF else x
        with full_precision(x) if self.widens else nullcontext():
            code = self.compare(wide, *(tensor.to(wide.dtype) for tensor in prepared))
        wanted = (*x.shape[:-1], num_anchors)
        if not isinstance(code, Tensor):
            raise TypeError(f"`similarity` must return a tensor, got {type(code).__name__}.")
        if tuple(code.shape) != wanted:
            raise ValueError(
                f"`similarity` must return shape {wanted} for x of shape {tuple(x.shape)} and "
                f"{num_anchors} anchors, got {tuple(code.shape)}."
            )
        return code if wide is x else code.to(x.dtype)


@dataclass(frozen=True)
class Plain(Similarity):
    """A callable ``(x, anchors)`` as a similarity without a first step.

    Args:
        function: The callable. Its attribute ``invariant_to``, if any, names its invariances.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    prepared_names = ("rows",)
    widens = False

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The anchors themselves."""
        return (anchors,)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """What the callable makes of them."""
        return self.function(x, prepared[0])

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """What the callable declares."""
        return closure(getattr(self.function, "invariant_to", ()))

    def described(self) -> str:
        """No name, which may change from one version of the callable to the next."""
        return "a callable"


#: What may stand where a similarity is asked for: a name, an object of this package, or any
#: callable ``(x, anchors) -> (..., A)``.
SimilarityLike = str | Similarity | Callable[[Tensor, Tensor], Tensor]

#: The named similarities; the package fills it.
SIMILARITIES: dict[str, Similarity] = {}


def resolve(similarity: SimilarityLike) -> Similarity:
    """The object for a name or a callable. Constructors and functions ask once, at their door."""
    if isinstance(similarity, Similarity):
        return similarity
    if isinstance(similarity, type):
        raise TypeError(f"`similarity` must be an object, got the class {similarity.__name__}.")
    if callable(similarity):
        return Plain(similarity)
    checks.check_choice("similarity", similarity, SIMILARITIES)
    return SIMILARITIES[similarity]
