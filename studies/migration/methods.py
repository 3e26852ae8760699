"""Ways to move an index, and how well a moved index is searched by the new model."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from relreps import translate

from .files import FileError, Vectors

#: Classes and options by the name that they have on the command line.
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "procrustes": ("ProcrustesTranslator", {}),
    "procrustes-scaled": ("ProcrustesTranslator", {"scale": "umeyama"}),
    "l-ortho": ("LOrthoTranslator", {}),
    "linear": ("LinearTranslator", {}),
    "affine": ("AffineTranslator", {}),
    "ridge-gcv": ("AffineTranslator", {"ridge": "gcv"}),
    "ridge-loo": ("AffineTranslator", {"ridge": "loo"}),
    "ridge-to-procrustes": ("ProcrustesRidgeTranslator", {}),
    "cca": ("CCATranslator", {"ridge": 0.1}),
    "whitened": ("WhitenedTranslator", {"ridge": 0.1}),
    "inverse-relative": ("InverseRelativeTranslator", {"rescale": "source"}),
}
DEFAULT = "ridge-gcv"


class Recipe(NamedTuple):
    """How a translator is made, in words that a file can hold."""

    translator: str
    arguments: dict[str, object]

    def make(self) -> nn.Module:
        """A new one."""
        return getattr(translate, self.translator)(**self.arguments)


def recipe(method: str, widths: tuple[int, int], pairs: int) -> Recipe:
    """How to make a translator between two widths, to be fitted on so many pairs."""
    name, options = METHODS[method]
    arguments = {"in_features": widths[0], "out_features": widths[1], **options}
    if name == "InverseRelativeTranslator":
        arguments["num_anchors"] = pairs
    return Recipe(name, arguments)


def save_map(path: Path, made: Recipe, translator: nn.Module) -> None:
    """Keep a fitted translator; a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    torch.save({**made._asdict(), "state": translator.state_dict()}, part)
    os.replace(part, path)


def load_map(path: Path) -> nn.Module:
    """The translator that `save_map` kept."""
    damage = (OSError, EOFError, RuntimeError, UnpicklingError)
    foreign = (AttributeError, KeyError, TypeError)
    try:
        saved = torch.load(path, weights_only=True)
        translator = Recipe(saved["translator"], saved["arguments"]).make()
        translator.load_state_dict(saved["state"])
    except (*damage, *foreign) as error:
        raise FileError(f"{path} is no saved map, or not a whole one: {error}") from error
    return translator


def move(translator: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A fitted translator as a function of chunks of a file."""

    @torch.no_grad()
    def function(chunk: np.ndarray) -> np.ndarray:
        return translator(torch.from_numpy(chunk)).numpy()

    return function


def identity(translator: nn.Module) -> str:
    """The same for the same map, and for no other one."""
    digest = hashlib.sha256(repr(translator).encode())
    for name, value in sorted(translator.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


class Found(NamedTuple):
    """How many of the texts that the new model encodes find their own row of the moved index."""

    at_1: float
    at_10: float


@torch.no_grad()
def own_rows_found(
    translator: nn.Module, index: Vectors, rows: np.ndarray, queries: Tensor, chunk_size: int = 8192
) -> Found:
    """Search the whole index, moved chunk by chunk, with the new vectors of some of its rows.

    Only ranks are kept, so the moved index is neither written nor held.
    """
    queries = normalize(queries.float(), dim=1)
    at = torch.from_numpy(rows)
    own = queries.new_full((len(rows),), -torch.inf)
    for start, moved in moved_chunks(translator, index, chunk_size):
        here = (at >= start) & (at < start + len(moved))
        own[here] = (queries[here] * moved[at[here] - start]).sum(1)
    nearer = torch.zeros(len(rows), dtype=torch.long)
    for start, moved in moved_chunks(translator, index, chunk_size):
        nearer_here = queries @ moved.T > own[:, None]
        here = (at >= start) & (at < start + len(moved))
        nearer_here[here, at[here] - start] = False  # rounding must not set a row above itself
        nearer += nearer_here.sum(1)
    return Found(*((nearer < k).double().mean().item() for k in (1, 10)))


def moved_chunks(translator: nn.Module, index: Vectors, size: int) -> Iterator[tuple[int, Tensor]]:
    """Chunks of the moved index, rows of length one, and where they begin."""
    start = 0
    for chunk in index.chunks(0, size):
        yield start, normalize(translator(torch.from_numpy(chunk)).float(), dim=1)
        start += len(chunk)
