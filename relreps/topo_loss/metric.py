"""The metric of a cloud, an object that is made once and handed on.

It checks the cloud, prepares it for the choice of pairs (without gradient, where only the order of
the distances matters), and measures chosen pairs, with gradient. `relreps.topo_loss.kinds` has the
metrics that users name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from relreps._core import checks


class Metric(ABC):
    """How far apart the points of a cloud are. Subclass it for distances of another kind.

    Clouds come in float32 at least and outside of autocast, which whoever calls sees to. What
    `prepare` gives is called a space: n rows, of points or of a matrix of distances. Its numbers
    and their distances are finite, whatever the cloud is: choices among them are then in range.
    """

    #: Whether clouds are given as their distances ``(..., n, n)`` instead of points.
    precomputed: bool = False

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """The space ``(..., n, W)`` from which pairs of the clouds ``(..., n, D)`` are chosen."""

    @abstractmethod
    def pairwise(self, rows: Tensor, space: Tensor) -> Tensor:
        """What orders pairs as their distances do, ``(B, k, n)``: some rows of a space to all."""

    @abstractmethod
    def condensed(self, space: Tensor) -> Tensor:
        """The same ``(B, m)`` for the pairs i < j, row by row."""

    @abstractmethod
    def part(self, space: Tensor, rows: Tensor) -> Tensor:
        """The space of some points of one cloud."""

    @abstractmethod
    def distances(self, x: Tensor) -> Tensor:
        """Distances ``(..., n, n)`` in some unit of each cloud, without gradient."""

    @abstractmethod
    def measure(self, x: Tensor, edges: Tensor) -> Tensor:
        """Lengths ``(..., k)`` of pairs ``(..., k, 2)`` of points, with gradient."""

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        """Clouds ``(..., k, D)`` of some points of one cloud, by their rows ``(..., k)``."""
        return x[rows]

    def in_own_unit(self, x: Tensor) -> Tensor:
        """The clouds ``(..., n, D)``, each in a unit of its own: for what asks for ratios alone.

        Ratios of the distances of a cloud stay, and are in range where the distances are not.
        """
        return x

    def check_shape(self, name: str, x: Tensor) -> None:
        """Refuse what is no cloud by shape or type."""
        checks.check_floating(name, x)
        if x.dim() < 2:
            raise ValueError(
                f"`{name}` must have shape (..., n, D), one point a row, got {tuple(x.shape)}."
            )

    def check(self, name: str, x: Tensor) -> None:
        """Refuse what is no cloud; on the host also values that are none."""
        self.check_shape(name, x)
        if checks.on_host(x):
            checks.check_finite(name, x.flatten(0, -2))
