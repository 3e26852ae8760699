"""The vocabulary of invariances, and how a normaliser changes what reaches a similarity.

A *transformation* acts on samples and anchors together: both are rotated, both are shifted, and so
on. A set of names is kept closed under implication: whoever is invariant to every linear map is
invariant to rotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Names, from the smallest group to the largest, with what they do to a row ``z``.
TRANSFORMATIONS: dict[str, str] = {
    "permutation": "reorders the coordinates",
    "rotation": "multiplies by an orthogonal matrix (reflections included)",
    "translation": "adds one vector to every row",
    "isotropic_scale": "multiplies everything by one positive number",
    "feature_scale": "multiplies each coordinate by a positive number of its own",
    "sample_scale": "multiplies each row by a positive number of its own",
    "linear": "multiplies by an invertible matrix",
    "affine": "multiplies by an invertible matrix, then adds one vector",
}

_IMPLIES: tuple[tuple[frozenset[str], frozenset[str]], ...] = tuple(
    (frozenset(if_), frozenset(then))
    for if_, then in (
        ({"affine"}, {"linear", "translation"}),
        ({"linear"}, {"rotation", "feature_scale"}),
        ({"rotation"}, {"permutation"}),
        ({"feature_scale"}, {"isotropic_scale"}),
        ({"sample_scale"}, {"isotropic_scale"}),
        ({"linear", "translation"}, {"affine"}),
    )
)

#: A normaliser's answer for one transformation: nothing of it is left.
ABSORBED = "absorbed"
#: A normaliser's answer for one transformation: what is left is no transformation of the list.
BROKEN = "broken"

#: Transformation -> residue: `ABSORBED`, `BROKEN`, or the name of the class that is left.
Residues = Mapping[str, str]


def closure(names: Iterable[str]) -> frozenset[str]:
    """All that follows from ``names``."""
    known = set(names)
    while True:
        new = {n for if_, then in _IMPLIES if if_ <= known for n in then} - known
        if not new:
            return frozenset(known)
        known |= new


def residues(**changes: str) -> dict[str, str]:
    """Every transformation passes as itself, except those named."""
    return {name: changes.get(name, name) for name in TRANSFORMATIONS}


def then(first: Residues, second: Residues) -> dict[str, str]:
    """Residues of one normaliser followed by another."""
    return {name: second.get(left, left) for name, left in first.items()}


def invariances(passed: Residues, own: frozenset[str]) -> frozenset[str]:
    """Invariances of a similarity with its ``own``, after what lets ``passed`` through."""
    return closure(n for n, left in passed.items() if left == ABSORBED or left in own)
