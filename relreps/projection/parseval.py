"""Parseval frames: codes that keep lengths and angles, and the way back."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from relreps._core import checks
from relreps.projection.relative import RelativeProjection
from relreps.similarity import Parseval


class ParsevalFrame(RelativeProjection):
    r"""Coordinates in the Parseval frame of the anchors, and back.

    .. math:: \tilde F = A (A^\top A)^{-1/2}, \qquad r = x \tilde F^\top, \qquad x = r \tilde F

    The frame is the polar factor of the anchors. With :math:`A \ge D` anchors that span the space
    `decode` undoes `encode` exactly, and lengths and angles are kept. Encoding with the frame of
    one space and decoding with that of another translates between them. Invariant to rotations;
    whitening by the anchors first would give the similarity ``"basis"``. One SVD for the anchors,
    then O(NAD).

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A.

    Shape:
        - Input: :math:`(*, D)`. Output: :math:`(*, A)`.

    Example:
        >>> frame = ParsevalFrame.from_anchors(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> frame.decode(frame.encode(torch.tensor([[5.0, 7.0]])))
        tensor([[5., 7.]])

    References:
        arXiv:2411.19719.
    """

    prepared_frame: Tensor

    def __init__(self, in_features: int, num_anchors: int) -> None:
        super().__init__(in_features, num_anchors, Parseval())

    @classmethod
    def from_anchors(cls, anchors: Tensor) -> Self:  # type: ignore[override]
        """A frame with the sizes, dtype and device of ``anchors`` ``(A, D)``, ready to use."""
        checks.check_rows("anchors", anchors)
        frame = cls(anchors.shape[1], anchors.shape[0]).to(anchors.device, anchors.dtype)
        return frame.set_anchors(anchors)

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates of rows ``(..., D)``; the same as a call."""
        code: Tensor = self(x)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Rows ``(..., D)`` with the coordinates ``(..., A)``; projected if the frame has fewer."""
        self.require_fitted(self._unset)
        checks.check_features("code", code, self.num_anchors)
        return code @ self.prepared_frame.to(code.dtype)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"{self.in_features}, {self.num_anchors}"
