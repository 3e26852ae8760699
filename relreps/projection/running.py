"""The robust relative transformation with running statistics, as its authors released it."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from relreps import _checks
from relreps.projection.dense import RelativeProjection


class RunningRelativeProjection(RelativeProjection):
    r"""The robust relative transformation with running statistics, as released, for parity.

    A batch normalisation without learned scale serves samples and anchors alike. While training,
    the samples are scaled by their own batch and the anchors by themselves, and each call moves one
    running mean and variance first towards the samples, then towards the anchors, which therefore
    settle on about 41 % samples and 59 % anchors (with momentum 0.3). In eval the running
    statistics serve both. So a training code depends on the batch, the first steps are dominated by
    the initial 0 and 1, and the absolute epsilon ties the code to the unit of the space: nothing is
    declared. For anything but parity use ``pre=StandardScale(in_features)``. The anchors are
    compared anew at every call: O((N + A) D) more than `RelativeProjection`.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A.
        momentum: Weight of the newest statistics.
        eps: Added to the variance.

    Shape:
        - Input: :math:`(N, D)`. Output: :math:`(N, A)`.

    References:
        Released code of arXiv:2409.10967.
    """

    def __init__(
        self, in_features: int, num_anchors: int, momentum: float = 0.3, eps: float = 1e-5
    ) -> None:
        super().__init__(in_features, num_anchors)
        self.norm = nn.BatchNorm1d(in_features, eps=eps, momentum=momentum, affine=False)

    @classmethod
    def from_anchors(cls, anchors: Tensor) -> Self:  # type: ignore[override]
        """A projection with the sizes, dtype and device of ``anchors`` ``(A, D)``."""
        _checks.check_rows("anchors", anchors)
        projection = cls(anchors.shape[1], anchors.shape[0]).to(anchors.device, anchors.dtype)
        return projection.set_anchors(anchors)

    @property
    def invariant_to(self) -> frozenset[str]:
        """Nothing: the running statistics do not move along with the space."""
        return frozenset()

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``; moves the running statistics while training."""
        self._require_fitted("Call `set_anchors(anchors)` first, or build it with `from_anchors`.")
        _checks.check_features("x", x, self.in_features)
        return self.project(x, self.anchors.to(x.dtype))

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call."""
        return super().project(self._normalize(x), self._normalize(anchors))

    def inverse(self, code: Tensor) -> Tensor:
        """There is none."""
        raise ValueError(f"{self} has no inverse.")

    def _normalize(self, x: Tensor) -> Tensor:
        kind = self.norm.running_mean.dtype  # type: ignore[union-attr]
        flat: Tensor = self.norm(x.reshape(-1, self.in_features).to(kind))
        return flat.reshape(x.shape).to(x.dtype)
