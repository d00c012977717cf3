from ._blocks import BlockFisher, block_fisher
from ._fisher import (
    EmpiricalFisher,
    FisherSolveGradients,
    empirical_fisher,
    fisher_solve,
    fisher_solve_vjp,
)
from ._minimize import MFACResult, mfac_minimize
from ._protocol import InverseFisher
from ._pruning import PruneResult, prune, saliency
from ._static import WoodburyStatic, woodbury_static
from ._window import SlidingWindowFisher

__all__ = [
    "BlockFisher",
    "EmpiricalFisher",
    "FisherSolveGradients",
    "InverseFisher",
    "MFACResult",
    "PruneResult",
    "SlidingWindowFisher",
    "WoodburyStatic",
    "block_fisher",
    "empirical_fisher",
    "fisher_solve",
    "fisher_solve_vjp",
    "mfac_minimize",
    "prune",
    "saliency",
    "woodbury_static",
]
