"""Small modules that act on a code: give them as ``post``, or put them after the projection.

Each is one idea of the published blocks.
"""

from __future__ import annotations

import math
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.state import Stateful

QuantizeMode = Literal["round", "smooth"]


def quantize(code: Tensor, step: float, mode: QuantizeMode = "round") -> Tensor:
    """Multiples of a step; see `Quantize`."""
    bins = code / step
    if mode == "smooth":
        return (bins - torch.sin(2 * math.pi * bins) / (2 * math.pi)) * step
    return code + (bins.round() * step - code).detach()


class Quantize(nn.Module):
    r"""Coarsen a code to multiples of a step, so that small differences between spaces vanish.

    .. math:: \text{round:}\; \beta\,\mathrm{round}(r / \beta), \qquad
              \text{smooth:}\; \beta\, s(r / \beta),\; s(u) = u - \tfrac{\sin 2\pi u}{2\pi}

    Rounding passes the gradient on as it is (straight through). The smooth form is differentiable,
    flat at the multiples of the step, and steep between them. Invariances of the code are kept, up
    to rounding at the edges of a bin. O(NA).

    Args:
        step: Width :math:`\beta` of a bin.
        mode: ``"round"`` or ``"smooth"``.

    Shape:
        - Input: :math:`(*, A)`. Output: the same.

    Example:
        >>> Quantize(0.5)(torch.tensor([0.2, 0.3, 0.9]))
        tensor([0.0000, 0.5000, 1.0000])

    References:
        Moschella et al., arXiv:2209.15430, appendix; in the released code smooth steps ignore the
        bin size and the rounding of absolute coordinates has no gradient.
    """

    def __init__(self, step: float, mode: QuantizeMode = "round") -> None:
        super().__init__()
        checks.check_positive("step", step)
        checks.check_choice("mode", mode, get_args(QuantizeMode))
        self.step = step
        self.mode = mode

    def forward(self, code: Tensor) -> Tensor:
        """Quantised code."""
        checks.check_floating("code", code)
        return quantize(code, self.step, self.mode)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"step={self.step}, mode={self.mode!r}"


class StratifiedMean(Stateful):
    r"""Average the similarities to the anchors of each class, in one or several groups.

    .. math:: s_{kC + c} = \operatorname{mean}\{\, r_j : y_j = c,\; n_j \bmod G = k \,\}

    where :math:`n_j` counts the anchors of the same class before j. Groups come first, then
    classes; a part without anchors is 0. O(NACG).

    Args:
        labels: Class :math:`y_j` of each anchor, from 0.
        groups: Number of groups G.
        num_classes: Number of classes C; the largest label plus one by default.

    Shape:
        - Input: :math:`(*, A)`. Output: :math:`(*, G C)`.

    Example:
        >>> StratifiedMean(torch.tensor([0, 0, 1]))(torch.tensor([1.0, 3.0, 5.0]))
        tensor([2., 5.])

    References:
        Released code of arXiv:2209.15430 (stratified average).
    """

    labels: Tensor
    weights: Tensor

    def __init__(self, labels: Tensor, groups: int = 1, num_classes: int | None = None) -> None:
        super().__init__()
        groups = checks.check_size("groups", groups)
        if num_classes is not None:
            num_classes = checks.check_size("num_classes", num_classes)
        if not isinstance(labels, Tensor) or labels.dim() != 1 or not len(labels):
            raise ValueError("`labels` must be a tensor with one class for each anchor.")
        checks.check_labels(labels, len(labels))
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(
                f"`labels` must be in 0..{classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}."
            )
        self.groups, self.num_classes = groups, classes
        self.register_buffer("labels", labels, persistent=False)
        one_hot = nn.functional.one_hot(labels.long(), classes)
        earlier = (one_hot.cumsum(0) - one_hot).gather(1, labels.long()[:, None]).squeeze(1)
        columns = nn.functional.one_hot((earlier % groups) * classes + labels, groups * classes)
        self.register_buffer("weights", columns / columns.sum(0).clamp(min=1))

    @property
    def out_features(self) -> int:
        """Number of parts."""
        return self.weights.shape[1]

    def forward(self, code: Tensor) -> Tensor:
        """Mean of each part of the code."""
        checks.check_features("code", code, self.weights.shape[0])
        return code @ self.weights.to(code.dtype)

    def extra_repr(self) -> str:
        """Sizes in and out."""
        return f"{self.weights.shape[0]}, {self.weights.shape[1]}"


class AnchorAttention(Stateful):
    r"""Mix values of the anchors by how similar they are, :math:`\mathrm{softmax}(r / \tau) V`.

    With learned values the output keeps the invariances of the code. With the anchors themselves as
    values (`from_values`) it is a point of their space and moves along with it: equivariant, not
    invariant. O(NAH).

    Args:
        num_anchors: Number of anchors A.
        out_features: Width H of the values.
        temperature: :math:`\tau`.
        trainable: Learn the values; otherwise they are a buffer, zero until loaded or given.

    Shape:
        - Input: :math:`(*, A)`. Output: :math:`(*, H)`.

    Example:
        >>> attend = AnchorAttention.from_values(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> attend(torch.tensor([0.5, 0.5]))
        tensor([1., 2.])

    References:
        Released code of arXiv:2209.15430 (trainable values, anchors as values).
    """

    values: Tensor

    def __init__(
        self,
        num_anchors: int,
        out_features: int,
        temperature: float = 1.0,
        *,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        num_anchors = checks.check_size("num_anchors", num_anchors)
        out_features = checks.check_size("out_features", out_features)
        checks.check_positive("temperature", temperature)
        self.num_anchors = num_anchors
        self.temperature = temperature
        self.trainable = trainable
        if trainable:
            self.values = nn.Parameter(torch.randn(num_anchors, out_features) / num_anchors**0.5)
        else:
            self.register_buffer("values", torch.zeros(num_anchors, out_features))

    @classmethod
    def from_values(cls, values: Tensor, temperature: float = 1.0) -> Self:
        """Attention onto fixed values ``(A, H)``, such as the anchors."""
        checks.check_rows("values", values)
        attention = cls(values.shape[0], values.shape[1], temperature, trainable=False)
        attention.values = values.detach().clone()
        return attention

    @property
    def out_features(self) -> int:
        """Width of the values."""
        return self.values.shape[1]

    def forward(self, code: Tensor) -> Tensor:
        """Mixed values."""
        checks.check_features("code", code, self.values.shape[0])
        return (code / self.temperature).softmax(-1) @ self.values.to(code.dtype)

    def extra_repr(self) -> str:
        """Sizes in and out."""
        options = f"temperature={self.temperature}, trainable={self.trainable}"
        return f"{self.num_anchors}, {self.out_features}, {options}"
