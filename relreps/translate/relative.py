"""Translation through relative codes: into them on one side, out of them on the other."""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.draws import shuffled
from relreps._core.linalg import (
    as_float64,
    at_least_float32,
    full_precision,
    unit_rows,
)
from relreps._core.rounding import (
    is_constant,
    moment_tolerance,
    rank_tolerance,
    rounding_of,
    safe_norm,
    safe_reciprocal,
)
from relreps._core.state import check_fits
from relreps.anchors import prune_anchors
from relreps.normalization import Center
from relreps.projection import RelativeProjection
from relreps.projection.relative import AnchorState
from relreps.translate.base import Translator
from relreps.translate.gram import check_ridge, cross_validated

Rescale = Literal["none", "mean", "source"]


class InverseRelativeTranslator(Translator):
    r"""Encode relative to the anchors of one space, decode with those of the other.

    With :math:`\hat A` the anchors about their mean :math:`\mu`, their rows of length one,

    .. math:: r = \frac{x - \mu_x}{\lVert x - \mu_x \rVert} \hat A_x^\top, \qquad
              \hat y = \mu_y + c\, r \hat A_y (\hat A_y^\top \hat A_y + \lambda I)^{-1}

    Neither side needs the model of the other: `set_source` and `encode` work in one process,
    `set_target` and `decode` in another, and only codes travel. The map is the transpose of the
    (ridge) regression from target to source anchors. It amplifies the directions in which the
    *target* anchors hardly vary, so their `condition_number` bounds its error; a ridge and pruning
    keep it low. Exact where the spaces differ by a rotation and the target anchors span theirs
    (at least one more than its width, as they are centred); else the projection onto their span.
    With the same pairs a `ProcrustesTranslator` is the stronger map. Fit: O(A D_y min(A, D_y)) for
    each of ``subspaces``, in float64; a call: O(N A (D_x + D_y)).

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        num_anchors: Number of anchors A, the width of the code.
        ridge: :math:`\lambda` in units of the mean eigenvalue of
            :math:`\hat A_y^\top \hat A_y`, or ``"gcv"``: the value that best predicts the source's
            codes of the anchors, by generalised cross-validation; for that `fit` needs both sides.
        rescale: Length c of what was a direction in the code: ``"none"`` (1), ``"mean"`` (that of
            an average target anchor) or ``"source"`` (as far out as the sample is among the source
            anchors; the code is then scaled by that).
        pruning: :math:`\delta` of `prune_anchors`; 0 keeps all anchors that are not zero.
        prune_on: Space whose anchors are pruned, ``"target"`` or ``"source"``.
        subspaces: Number :math:`\omega` of prunings, each in another order, whose decoders are
            averaged; 1 prunes once, in the order given.

    Shape:
        - Input: :math:`(*, D_x)`; code: :math:`(*, A)`. Output: :math:`(*, D_y)`.

    Attributes:
        condition_number: Largest over smallest singular value of the kept, normalised target
            anchors, directions without any left out; the worst of the ``subspaces``.
        used_ridge: The ridge, or the mean of those chosen.
        num_kept: Fewest anchors that a decoder uses.

    Raises:
        RuntimeError: A side is used before it is set.
        ValueError: Unpaired or non-finite anchors, wrong sizes, fewer than two anchors kept.

    Example:
        >>> anchors = torch.tensor([[4.0, 0.0], [0.0, 2.0], [-1.0, -2.0]])
        >>> translator = InverseRelativeTranslator(2, 2, 3, ridge=0.0, rescale="source")
        >>> translator = translator.fit(anchors, anchors.flip(1) + 5)
        >>> translator(torch.tensor([[1.0, 3.0]]))
        tensor([[8., 6.]])

    References:
        arXiv:2406.15057, section 5, which prunes on the source.
    """

    decoder: Tensor
    mean_y: Tensor
    length_x: Tensor
    condition_number: Tensor
    used_ridge: Tensor
    num_kept: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_anchors: int,
        *,
        ridge: float | Literal["gcv"] = "gcv",
        rescale: Rescale = "mean",
        pruning: float = 0.0,
        prune_on: Literal["target", "source"] = "target",
        subspaces: int = 1,
    ) -> None:
        super().__init__(in_features, out_features)
        num_anchors = checks.check_size("num_anchors", num_anchors, minimum=2)
        check_ridge("ridge", ridge, ("gcv",))
        checks.check_choice("rescale", rescale, get_args(Rescale))
        checks.check_number("pruning", pruning, 0, 1)
        checks.check_choice("prune_on", prune_on, ("target", "source"))
        subspaces = checks.check_size("subspaces", subspaces)
        if subspaces > 1 and pruning == 0:
            raise ValueError(
                "`subspaces` above 1 needs `pruning` above 0, or every decoder would use the same "
                f"anchors; got subspaces={subspaces} and pruning=0."
            )
        self.num_anchors, self.ridge, self.rescale = num_anchors, ridge, rescale
        self.pruning, self.prune_on, self.subspaces = pruning, prune_on, subspaces
        self._keep_choices(rescale=(rescale, get_args(Rescale)))
        self.encoder = RelativeProjection(in_features, num_anchors, pre=Center(in_features))
        self.register_buffer("length_x", torch.ones(()))
        self.register_buffer("decoder", torch.zeros(num_anchors, out_features))
        self.register_buffer("mean_y", torch.zeros(out_features))
        self.register_buffer("condition_number", torch.zeros(()))
        self.register_buffer("used_ridge", torch.zeros(()))
        self.register_buffer("num_kept", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Self:
        """Set both sides from paired anchors ``(A, D_x)`` and ``(A, D_y)``.

        On an error nothing changes.

        Args:
            x: Source anchors.
            y: Target anchors of the same samples, in the same order.
            generator: Source of the orders of the ``subspaces``; torch's default one if not given.
        """
        checks.check_rows("x", x, self.in_features)
        checks.check_rows("y", y, self.out_features)
        checks.check_paired(x, y)
        checks.check_finite("x", x)
        checks.check_generator(generator)
        target = self._solved(y, x, generator)
        source = self._source("x", x)
        self.mark_fitted(False)
        self._take(source)
        self._keep(target)
        return self

    @torch.no_grad()
    def set_source(self, anchors: Tensor) -> Self:
        """Set what `encode` needs: source anchors ``(A, D_x)``. On an error nothing changes."""
        checks.check_anchors(anchors, self.num_anchors, self.in_features)
        checks.check_finite("anchors", anchors)
        self._take(self._source("anchors", anchors))
        return self

    @torch.no_grad()
    def set_target(self, anchors: Tensor, *, generator: torch.Generator | None = None) -> Self:
        """Set what `decode` needs: target anchors ``(A, D_y)``. On an error nothing changes.

        Args:
            anchors: Target anchors, in the order of the source's.
            generator: Source of the orders of the ``subspaces``; torch's default one if not given.
        """
        checks.check_anchors(anchors, self.num_anchors, self.out_features)
        if self.ridge == "gcv" or self.prune_on == "source":
            wanted = "`ridge='gcv'`" if self.ridge == "gcv" else "`prune_on='source'`"
            raise ValueError(
                f"{wanted} looks at the anchors of both sides, and `set_target` has only one. "
                "Call `fit(x, y)`, or give a number and prune on the target."
            )
        checks.check_generator(generator)
        self._keep(self._solved(anchors, None, generator))
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(..., A)`` of source vectors ``(..., D_x)``: needs the source side only."""
        checks.check_features("x", x, self.in_features)
        self._require_source()
        code: Tensor = self.encoder(x)
        if self.rescale == "source" and self.encoder.pre is not None:
            lengths = safe_norm(at_least_float32(self.encoder.pre(x)))
            code = (code * (lengths / self.length_x.to(lengths.dtype))[..., None]).to(x.dtype)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Target vectors ``(..., D_y)`` of codes ``(..., A)``: needs the target side only."""
        self.require_fitted("Call `fit(x, y)`, or `set_target(anchors)` to decode only.")
        checks.check_features("code", code, self.num_anchors)
        with full_precision(code):
            wide = at_least_float32(code)
            return (wide @ self.decoder.to(wide) + self.mean_y.to(wide)).to(code.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(..., D_x)`` of the source space in the target space."""
        checks.check_features("x", x, self.in_features)
        self._require_source()
        with full_precision(x):
            return self.decode(self.encode(at_least_float32(x))).to(x.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """Not available: the code drops the length; fit one from the target to the source."""
        raise ValueError(
            "InverseRelativeTranslator has no inverse, because a cosine does not determine the "
            "length of a vector. Fit another one with the two sides exchanged."
        )

    def _require_source(self) -> None:
        if not self.encoder._fitted:
            raise RuntimeError(
                "InverseRelativeTranslator has no source anchors yet. "
                "Call `fit(x, y)`, or `set_source(anchors)` to encode only."
            )

    def _source(self, name: str, anchors: Tensor) -> tuple[AnchorState, Tensor]:
        """State of the source side."""
        length = _about_mean(name, anchors)[1].mean()
        self._check_fits(length_x=length)
        check_fits(type(self).__name__, {name: anchors}, {name: self.encoder.anchors.dtype})
        return self.encoder.state_of(anchors, check=True), length

    def _take(self, source: tuple[AnchorState, Tensor]) -> None:
        """Write the state of the source side, which counts as not there meanwhile."""
        self.encoder.mark_fitted(False)
        self.length_x.copy_(source[1])
        self.encoder.remember(source[0])

    def _solved(
        self, y: Tensor, x: Tensor | None, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """State of the target side."""
        checks.check_anchors(y, self.num_anchors, self.out_features)
        checks.check_finite("y" if x is not None else "anchors", y)
        mean, lengths, units = _about_mean("anchors" if x is None else "y", y)
        other = None if x is None else _about_mean("x", x)[2].to(units.device)
        pruned = other if self.prune_on == "source" and other is not None else units
        # Pruning compares angles with the rounding of the type that the anchors came in.
        pruned = pruned.to(torch.promote_types(y.dtype, torch.float32))
        decoder, kept_least = torch.zeros_like(units), self.num_anchors
        conditions, ridges = [], []
        for _ in range(self.subspaces):
            kept = self._kept(pruned, generator)
            kept_least = min(kept_least, len(kept))
            codes = None if other is None else other[kept] @ other[kept].mT
            inverse, condition, ridge = self._inverse(units[kept], codes)
            decoder[kept] += inverse / self.subspaces
            conditions.append(condition)
            ridges.append(ridge)
        if self.rescale != "none":
            # A ridge shrinks; what it takes from the anchors themselves is given back.
            shrunk = torch.linalg.vector_norm(units @ units.mT @ decoder, dim=-1).mean()
            decoder = decoder * (lengths.mean() * safe_reciprocal(shrunk))
        self._check_fits(decoder=decoder, mean_y=mean)
        return {
            "decoder": decoder,
            "mean_y": mean,
            "condition_number": torch.stack(conditions).amax(),
            "used_ridge": decoder.new_tensor(ridges).mean(),
            "num_kept": self.num_kept.new_tensor(kept_least),
        }

    def _kept(self, units: Tensor, generator: torch.Generator | None) -> Tensor:
        """Anchors that stay, in ascending order."""
        order = torch.arange(len(units), device=units.device)
        if self.subspaces > 1:
            order = shuffled(len(units), generator)
        order = order.to(units.device)
        kept = order[prune_anchors(units[order], self.pruning)]
        if len(kept) < 2:
            raise ValueError(
                f"`pruning={self.pruning}` leaves {len(kept)} of {len(units)} anchors, and two at "
                "least are needed. Lower it, or give anchors in different directions."
            )
        return kept.sort().values

    def _inverse(self, units: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """Ridge inverse ``(K, D_y)`` of unit anchors, their condition number, and the ridge."""
        u, s, vh = torch.linalg.svd(units, full_matrices=False)
        live = s > rank_tolerance(units.shape[1], torch.finfo(s.dtype).eps) * s[:1]
        condition = s[0] / s[live].amin()
        unit = s.square().sum() / units.shape[1]
        squares = torch.where(live, s.square(), 0)
        if self.ridge == "gcv" and codes is not None:
            explained = (u.mT @ codes).square().sum(1)
            width = units.shape[1]
            tolerance = moment_tolerance(width, torch.finfo(s.dtype).eps)
            found = squares[live], explained[live], codes.square().sum()
            ridge = cross_validated(*found, len(codes), unit, width, tolerance)
        else:
            ridge = float(self.ridge)
        gains = torch.where(live, s / torch.where(live, squares + ridge * unit, 1), 0)
        return (u * gains) @ vh, condition, ridge


def _about_mean(name: str, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, lengths about it, and directions, in float64."""
    rows = as_float64(anchors)
    mean = rows.mean(0)
    rest = rows - mean
    # What rounding leaves of an anchor in the mean is no direction.
    about, total = (side.square().sum(-1, keepdim=True) for side in (rest, rows))
    rest = torch.where(is_constant(about, total, rounding_of(anchors.dtype)), 0, rest)
    lengths = torch.linalg.vector_norm(rest, dim=-1)
    if not bool((lengths > 0).any()):
        raise ValueError(
            f"`{name}` must vary, got anchors that are all equal. Give anchors that differ."
        )
    return mean, lengths, unit_rows(rest)
