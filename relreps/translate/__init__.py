"""Translators: maps that move vectors of one latent space into another, fitted on paired rows.

The same samples encoded by two models give paired rows. A translator fitted on a few hundred of
them moves everything else, stored vectors included, without the encoder. The whole map,
pre-processing included, is in its state, and its output lies in the *original* target space.
"""

from relreps.translate.base import Translator
from relreps.translate.functional import FunctionalMapTranslator
from relreps.translate.generalized import GeneralizedProcrustes
from relreps.translate.matrix import MatrixTranslator
from relreps.translate.permutation import PermutationTranslator
from relreps.translate.problem import Problem, Solution
from relreps.translate.procrustes import LOrthoTranslator, ProcrustesTranslator, procrustes
from relreps.translate.rcsls import RCSLSTranslator, rcsls_loss
from relreps.translate.regularized import ProcrustesRidgeTranslator, ReducedRankTranslator
from relreps.translate.relative import InverseRelativeTranslator
from relreps.translate.report import (
    TranslationReport,
    translation_report,
)
from relreps.translate.ridge import AffineTranslator, LinearTranslator, linear_map
from relreps.translate.scale_invariance import ScaleInvarianceReport, scale_invariance_report
from relreps.translate.search import OwnRows
from relreps.translate.seeded import RefinedProcrustesTranslator
from relreps.translate.streaming import MomentTranslator
from relreps.translate.transport import TransportTranslator
from relreps.translate.whitened import CCATranslator, WhitenedTranslator

__all__ = [
    "AffineTranslator",
    "CCATranslator",
    "FunctionalMapTranslator",
    "GeneralizedProcrustes",
    "InverseRelativeTranslator",
    "LOrthoTranslator",
    "LinearTranslator",
    "MatrixTranslator",
    "MomentTranslator",
    "OwnRows",
    "PermutationTranslator",
    "Problem",
    "ProcrustesRidgeTranslator",
    "ProcrustesTranslator",
    "RCSLSTranslator",
    "ReducedRankTranslator",
    "RefinedProcrustesTranslator",
    "ScaleInvarianceReport",
    "Solution",
    "TranslationReport",
    "Translator",
    "TransportTranslator",
    "WhitenedTranslator",
    "linear_map",
    "procrustes",
    "rcsls_loss",
    "scale_invariance_report",
    "translation_report",
]
