from ._factors import DFTFactors, Factors, dft_factors, hadamard_factors, kronecker_factors
from ._higher_order import HigherOrderMonarch
from ._mmstar import MMStarFactors, factorize_mmstar
from ._operators import Monarch
from ._product_operators import Product
from ._products import MonarchGradients, monarch_matmul, monarch_matmul_vjp
from ._transforms import fft, fftconvolve, ifft

__all__ = [
    "DFTFactors",
    "Factors",
    "HigherOrderMonarch",
    "MMStarFactors",
    "Monarch",
    "MonarchGradients",
    "Product",
    "dft_factors",
    "factorize_mmstar",
    "fft",
    "fftconvolve",
    "hadamard_factors",
    "ifft",
    "kronecker_factors",
    "monarch_matmul",
    "monarch_matmul_vjp",
]
