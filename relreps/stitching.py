"""Stitching: the encoder of one network feeding the head of another, and how well that works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from relreps._core.modules import evaluating
from relreps._core.state import Stateful
from relreps._core.tables import ScoreTable


class StitchedModel(Stateful):
    r"""Encoder, optional translator, decoder: :math:`x \mapsto d(t(e(x)))`.

    Nothing is trained. With encoders that give relative codes no translator is needed.

    Args:
        encoder: From inputs to latents.
        decoder: From latents to outputs; the head of another network.
        translator: From the latents of the encoder to those the decoder knows.

    Example:
        >>> StitchedModel(nn.Linear(4, 3), nn.Linear(3, 2))(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, translator: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.translator = translator

    def forward(self, x: Any) -> Any:
        """Output of the decoder for a batch of inputs of the encoder."""
        z = self.encoder(x)
        return self.decoder(z if self.translator is None else self.translator(z))


class _Fields(NamedTuple):
    scores: Tensor
    encoders: list[str]
    decoders: list[str]


class StitchingMatrix(_Fields, ScoreTable):
    """Scores of every encoder with every decoder.

    Attributes:
        scores: One row an encoder, one column a decoder; NaN where their sizes do not fit.
        encoders: Names of the rows.
        decoders: Names of the columns.
    """

    __slots__ = ()

    heads = "encoder", "decoder"


@torch.no_grad()
def stitching_matrix(
    encoders: Mapping[str, nn.Module],
    decoders: Mapping[str, nn.Module],
    inputs: Any,
    score: Callable[[Any], Tensor | float],
    translators: Mapping[tuple[str, str], nn.Module] | None = None,
) -> StitchingMatrix:
    """Score of every encoder with every decoder, with no training.

    An encoder is called once. All modules run in eval mode, and are left in the mode they were in.
    A cell is NaN if the latent is not of the size that the decoder takes: its ``in_features`` or,
    failing that, the size of the latent of the encoder of the same name. A decoder about which
    neither is known is called, and its errors are raised.

    Args:
        encoders: From inputs to latents, by name.
        decoders: From latents to outputs, by name.
        inputs: What every encoder is called with.
        score: From the output of a decoder to one number.
        translators: For ``(encoder, decoder)``, what moves the latent of one to the other; pairs
            not listed are joined directly.

    Raises:
        ValueError: No encoders or decoders, or a translator for an unknown pair.

    Example:
        >>> make = lambda: nn.Linear(2, 2)
        >>> grid = stitching_matrix({"a": make()}, {"a": make()}, torch.ones(3, 2), torch.mean)
        >>> grid.scores.shape
        torch.Size([1, 1])
    """
    translators = translators or {}
    if not encoders or not decoders:
        raise ValueError("`encoders` and `decoders` must each name at least one module, got none.")
    for pair in translators:
        if pair[0] not in encoders or pair[1] not in decoders:
            raise ValueError(
                f"`translators` has the key {pair!r}, which names no (encoder, decoder) pair. "
                f"Encoders: {list(encoders)}; decoders: {list(decoders)}."
            )
    size = len(encoders), len(decoders)
    scores = torch.full(size, torch.nan, dtype=torch.float64, device="cpu")
    with evaluating(*encoders.values(), *decoders.values(), *translators.values()):
        latents = {name: encoder(inputs) for name, encoder in encoders.items()}
        for i, (source, z) in enumerate(latents.items()):
            for j, (target, decoder) in enumerate(decoders.items()):
                translator = translators.get((source, target))
                moved = z if translator is None else translator(z)
                if _fits(moved, decoder, latents.get(target)):
                    scores[i, j] = float(score(decoder(moved)))
    return StitchingMatrix(scores, list(encoders), list(decoders))


def _fits(z: Tensor, decoder: nn.Module, own: Tensor | None) -> bool:
    """Whether a decoder takes latents like ``z``, as far as anything tells."""
    declared = getattr(decoder, "in_features", None)
    if isinstance(declared, int):
        return z.shape[-1] == declared
    return own is None or z.shape[1:] == own.shape[1:]
