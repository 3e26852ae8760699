"""What projections have in common: what is kept of anchors is computed before any is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor

from relreps._core.state import FittedModule, Stateful
from relreps._core.warnings import warn


class Projection(Stateful, ABC):
    """Rows ``(..., D)`` to codes for anchors that are given once, or at the call.

    `state_of` takes from anchors what a call needs, and changes nothing; `remember` keeps it. So
    anchors can be refused, by one projection or by one of several, without having touched any.
    """

    in_features: int
    num_anchors: int
    anchors: Any  # the rows ``(A, D)``: a buffer, or put together of those of the parts

    def set_anchors(self, anchors: Tensor) -> Self:
        """Copy anchors ``(A, D)``, and refit on them what depends on them.

        On an error nothing changes.
        """
        state = self.state_of(anchors, check=True)
        warn_of_equal(anchors)
        self.remember(state)
        return self

    @abstractmethod
    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call: gradients reach them, no state is used."""

    @abstractmethod
    def state_of(self, anchors: Tensor, *, check: bool = False) -> Any:
        """What `remember` keeps of anchors ``(A, D)``; nothing is written, no gradient recorded.

        Args:
            anchors: One row for each of the anchors.
            check: Look at values, and raise where they cannot be used; otherwise it never waits for
                the device, for use inside a ``forward``.
        """

    @abstractmethod
    def remember(self, state: Any) -> None:
        """Keep what `state_of` gave, for `forward`."""

    def writes(self, state: Any) -> list[tuple[Tensor, Tensor]]:
        """The buffers that `remember` fills, and with what: several projections do it at once."""
        return []

    def has_anchors(self) -> bool:
        """Whether every part has been given its anchors."""
        return all(part._fitted for part in self.modules() if isinstance(part, FittedModule))


def warn_of_equal(anchors: Tensor) -> None:
    """Warn of anchors that are all one and the same. Looks at values."""
    if len(anchors) > 1 and not anchors.is_meta and bool((anchors == anchors[:1]).all()):
        warn(
            f"All {len(anchors)} anchors are equal, so that the entries of a code are equal too. "
            "Give encodings of different samples."
        )
