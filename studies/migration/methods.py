"""Ways to move an index, and how well a moved index is searched by the new model."""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from relreps import translate
from relreps.translate.search import Hunt, Metric, OwnRows, marks_of, own_rows

from .files import FileError, Vectors, finite_chunks, take

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


def recipe(
    method: str,
    widths: tuple[int, int],
    pairs: int,
    *,
    normalize: bool = False,
    rescale: bool = False,
) -> Recipe:
    """How to make a translator between two widths, to be fitted on so many pairs.

    Args:
        method: Its name on the command line.
        widths: Of the old and of the new space.
        pairs: How many it will be fitted on.
        normalize: Whether what it moves gets length one.
        rescale: Whether the spread of the new space is restored, where the method has that.
    """
    name, options = METHODS[method]
    arguments = {"in_features": widths[0], "out_features": widths[1], **options}
    known = inspect.signature(getattr(translate, name)).parameters
    if name == "InverseRelativeTranslator":
        arguments["num_anchors"] = pairs
    elif rescale and "rescale" in known:
        arguments["rescale"] = True
    if normalize:
        if "post" not in known:
            raise FileError(
                f"--method {method} does not give rows of length one: choose another, or "
                "--no-normalize and an index that searches by cosine."
            )
        arguments["post"] = "unit"
    return Recipe(name, arguments)


def save_map(path: Path, made: Recipe, translator: nn.Module) -> None:
    """Keep a fitted translator; a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    try:
        torch.save({**made._asdict(), "state": translator.state_dict()}, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter where the disk is full
        part.unlink(missing_ok=True)
        raise FileError(f"{path} cannot be written: {error}") from error


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


def tensor(rows: np.ndarray) -> Tensor:
    """Stored rows to compute with: those of a half type in float32."""
    wide = torch.from_numpy(rows)
    return wide.float() if wide.dtype == torch.float16 else wide


def tensors(index: Vectors, chunk_size: int = 8192) -> Iterator[Tensor]:
    """The whole index, a chunk at a time."""
    return (tensor(chunk) for _, chunk in finite_chunks(index, 0, chunk_size))


def all_unit(rows: Tensor) -> bool:
    """Whether all rows have length one, to the digits that a half type keeps."""
    return bool(((torch.linalg.vector_norm(rows.double(), dim=1) - 1).abs() < 2e-3).all())


def move(translator: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A fitted translator as a function of chunks of a file."""

    @torch.no_grad()
    def function(chunk: np.ndarray) -> np.ndarray:
        return translator(tensor(chunk)).numpy()

    return function


def identity(translator: nn.Module) -> str:
    """The same for the same map, and for no other one."""
    digest = hashlib.sha256(repr(translator).encode())
    for name, value in sorted(translator.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def own_rows_found(
    translator: nn.Module,
    index: Vectors,
    rows: np.ndarray,
    queries: Tensor,
    metric: Metric = "cosine",
    chunk_size: int = 8192,
) -> OwnRows:
    """Search the whole index, moved chunk by chunk, with the new vectors of some of its rows.

    As `relreps.translation_report` does, for a map that has been fitted.
    """
    own = tensor(take(index, rows))
    hunt = Hunt(queries, translator(own), metric, queries.double().mean(0))
    wanted, marks = marks_of(own), []
    for chunk in tensors(index, chunk_size):
        marks.append(marks_of(chunk))
        hunt.see(translator(chunk), wanted[:, None] == marks[-1])
    return own_rows([hunt], torch.cat(marks))
