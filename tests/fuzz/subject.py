"""What a generator gives: something to call, its inputs, and what is promised of the result."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

#: Generators by public name: each makes a `Subject` of a `Draw`.
SUBJECTS: dict[str, Callable] = {}

#: Public names that no random input is given to, and why.
NO_SUBJECT = {
    **dict.fromkeys(("ABSORBED", "BROKEN", "residues"), "words of a normaliser's residues"),
    **dict.fromkeys(
        ("ACTIVATIONS", "CONTRACT", "MEASURES", "SIMILARITIES"),
        "a table of things that have names of their own",
    ),
    **dict.fromkeys(("MetricLike", "Seeds", "SimilarityLike"), "a type alias"),
    **dict.fromkeys(("NumericalWarning", "PerformanceWarning"), "a kind of warning"),
    **dict.fromkeys(
        (
            *("AffineNormalizer", "Distance", "MatrixTranslator", "Metric", "MomentStream"),
            *("MomentTranslator", "Normalizer", "Projection", "Sampler", "Similarity"),
            "Translator",
        ),
        "abstract: its subclasses are drawn",
    ),
    **dict.fromkeys(
        (
            *("Affine", "AnchorReport", "LayerComparison", "Measure", "OwnRows", "Pairs"),
            *("PermutationTest", "Problem"),
            *("RetrievalResult", "RowMoments", "ScaleInvarianceReport", "Solution"),
            *("StitchingMatrix", "TranslationReport"),
        ),
        "a record of what others find",
    ),
    "measures_markdown": "takes nothing",
}


@dataclass
class Subject:
    """A call and its promises.

    Attributes:
        call: Gives the result of the inputs; it can be repeated, in any floating type.
        inputs: Floating-point tensors, the first of which may have rows that are not finite.
        kind: ``"map"`` gives a row for each row of the first input, ``"set"`` one result of all
            rows, ``"fit"`` is fitted on all inputs but the last and maps the rows of that one.
        shape: Of the first result, if it is known before.
        unordered: Inputs whose rows may be taken in any order together, to no effect.
        low, high: Bounds of a result.
        nan: Whether NaN has to come out where it goes in, unless it is refused.
        exact: Whether float64 of the same numbers is the answer that float32 approximates.
        differentiable: Whether a gradient has to be finite.
        make: Constructs the module of a type, if there is one.
        fit: Fits a module on the inputs.
        use: Applies a fitted module to the inputs.
        parameters: Whether it computes in the type of what it holds.
        steps: Whether it is fitted in several calls, of which the first may succeed.
        roundings: How many roundings of the input the answer may be off by.
        builds: Whether the call constructs modules that hold tensors.
        notes: What a reader of a finding wants to know of the options.
    """

    call: Callable[..., Any]
    inputs: tuple[torch.Tensor, ...]
    kind: str = "set"
    shape: tuple[int, ...] | None = None
    unordered: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    nan: bool = True
    exact: bool = True
    differentiable: bool = False
    make: Callable[[torch.dtype], nn.Module] | None = None
    fit: Callable[..., Any] | None = None
    use: Callable[..., Any] | None = None
    parameters: bool = False
    builds: bool = False
    steps: bool = False
    roundings: float = 300
    notes: dict[str, Any] = field(default_factory=dict)


def subject(*names):
    """Register the generator of some public names; it is given the draw and the name."""

    def register(generator):
        for name in names:
            assert name not in SUBJECTS, name
            SUBJECTS[name] = generator
        return generator

    return register


def of_module(make, fit, use, inputs, **promises):
    """A subject whose call constructs, fits and applies a module."""

    def call(*given):
        module = make(given[0].dtype)
        fit(module, *given)
        return use(module, *given)

    return Subject(call, inputs, make=make, fit=fit, use=use, **promises)
