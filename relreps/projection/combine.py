"""Ways to make one code ``(..., h)`` of a list of codes ``(..., A_i)``, as modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import full_precision

#: A list of codes to one.
Combine = Callable[[list[Tensor]], Tensor]


class Concat(nn.Module):
    """The codes side by side."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.out_features = sum(widths)

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Their concatenation."""
        with full_precision(codes[0]):
            return torch.cat(codes, -1)


class _Reduced(nn.Module):
    """Codes of one width, coordinate by coordinate."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.out_features = widths[0]


class Sum(_Reduced):
    """The sum."""

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Their sum."""
        return _stacked(codes).sum(0)


class Mean(_Reduced):
    """The mean."""

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Their mean."""
        return _stacked(codes).mean(0)


class Max(_Reduced):
    """The largest."""

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Their maximum."""
        return _stacked(codes).amax(0)


class _Learned(nn.Module):
    """Codes of any widths, each brought to one width first."""

    def __init__(self, widths: Sequence[int], out_features: int | None = None) -> None:
        super().__init__()
        out_features = widths[0] if out_features is None else out_features
        self.out_features = checks.check_size("out_features", out_features)
        self.embed = nn.ModuleList(self._embedding(width) for width in widths)

    def _embedding(self, width: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.out_features))

    def _embedded(self, codes: list[Tensor]) -> list[Tensor]:
        return [embed(code) for embed, code in zip(self.embed, codes, strict=True)]


class MLP(_Learned):
    r"""The sum of an MLP of each, :math:`\sum_i \mathrm{MLP}_i(\mathrm{LayerNorm}_i(r_i))`."""

    def _embedding(self, width: int) -> nn.Module:
        h = self.out_features
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, h), nn.SiLU(), nn.Linear(h, h))

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Their sum."""
        return _stacked(self._embedded(codes)).sum(0)


class Attention(_Learned):
    """The codes as tokens, self-attention among them, and their mean."""

    def __init__(self, widths: Sequence[int], out_features: int | None = None) -> None:
        super().__init__(widths, out_features)
        self.attention = nn.MultiheadAttention(self.out_features, 1, batch_first=True)

    def forward(self, codes: list[Tensor]) -> Tensor:
        """Mean of the tokens."""
        tokens = _stacked(self._embedded(codes), -2)  # (..., parts, h)
        flat = tokens.reshape(-1, *tokens.shape[-2:])
        mixed: Tensor = self.attention(flat, flat, flat, need_weights=False)[0]
        return mixed.mean(-2).reshape(*codes[0].shape[:-1], self.out_features)


class Given(nn.Module):
    """Whatever a callable makes of the codes; its width is found by a try on one row of zeros."""

    def __init__(self, function: Combine, widths: Sequence[int]) -> None:
        super().__init__()
        self.function = function
        with torch.no_grad():
            self.out_features = int(function([torch.zeros(1, width) for width in widths]).shape[-1])

    def forward(self, codes: list[Tensor]) -> Tensor:
        """What the callable returns."""
        return self.function(codes)


#: Combiners by name.
COMBINERS: dict[str, type[nn.Module]] = {
    "concat": Concat,
    "sum": Sum,
    "mean": Mean,
    "max": Max,
    "mlp": MLP,
    "attention": Attention,
}


def combiner(
    aggregation: str | Combine,
    names: Sequence[str],
    widths: Sequence[int],
    out_features: int | None = None,
) -> nn.Module:
    """The combiner for codes of these widths, a module with ``out_features``.

    Args:
        aggregation: A name, or a callable from a list of codes to one.
        names: The names to choose from.
        widths: Of the codes.
        out_features: Width of what is learned, that of the first code by default.
    """
    if not callable(aggregation):
        checks.check_choice("aggregation", aggregation, names)
        kind = COMBINERS[aggregation]
        if issubclass(kind, _Learned):
            return kind(widths, out_features)
        if issubclass(kind, _Reduced) and len(set(widths)) != 1:
            raise ValueError(
                f"`aggregation={aggregation!r}` needs codes of one width, got {widths}."
            )
    if out_features is not None:
        raise ValueError(f"`out_features` is given by the parts for {aggregation!r}.")
    return Given(aggregation, widths) if callable(aggregation) else kind(widths)


def _stacked(codes: list[Tensor], dim: int = 0) -> Tensor:
    """One beside the other; autocast would not take types that differ."""
    with full_precision(codes[0]):
        return torch.stack(codes, dim)
