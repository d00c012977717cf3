from ._block_diagonal import BlockDiagonal
from ._blocks import choose_blocks
from ._factors import DFTFactors, Factors, dft_factors, hadamard_factors, kronecker_factors
from ._fitting import MonarchFit, lstsq
from ._higher_order import HigherOrderMonarch
from ._mmstar import MMStarFactors, factorize_mmstar
from ._operators import Monarch
from ._product_operators import Product
from ._products import MonarchGradients, monarch_matmul, monarch_matmul_vjp
from ._projection import ProjectionGradients, project, project_vjp, projection_error
from ._transforms import (
    ConvolutionGradients,
    TransformGradients,
    fft,
    fft_vjp,
    fftconvolve,
    fftconvolve_vjp,
    ifft,
    ifft_vjp,
)

__all__ = [
    "BlockDiagonal",
    "ConvolutionGradients",
    "DFTFactors",
    "Factors",
    "HigherOrderMonarch",
    "MMStarFactors",
    "Monarch",
    "MonarchFit",
    "MonarchGradients",
    "Product",
    "ProjectionGradients",
    "TransformGradients",
    "choose_blocks",
    "dft_factors",
    "factorize_mmstar",
    "fft",
    "fft_vjp",
    "fftconvolve",
    "fftconvolve_vjp",
    "hadamard_factors",
    "ifft",
    "ifft_vjp",
    "kronecker_factors",
    "lstsq",
    "monarch_matmul",
    "monarch_matmul_vjp",
    "project",
    "project_vjp",
    "projection_error",
]
