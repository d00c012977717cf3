"""The room's row of the tour: an equation whose solution is known."""

import numpy as np
import scipy.fft

from linalgkit import kronecker


def stops():
    """Yield the room's stops, as arguments of the tour's `Stop`."""
    yield poisson()


def poisson(nodes: int = 400):
    """Δu = f for u = sin(100 x) sin(100 y), beside fast finite differences on the same grid."""
    x = np.linspace(0, 2 * np.pi, nodes)
    wave = np.sin(100 * x)
    truth = np.outer(wave, wave)
    source = -2 * 100**2 * truth
    faces = [(axis, side) for axis in (0, 1) for side in (0, 1)]
    boundary = {face: kronecker.Dirichlet(0.0) for face in faces}
    symbol = -((2 * np.sin(np.pi * np.arange(1, nodes - 1) / (2 * nodes - 2)) / x[1]) ** 2)

    def differences():
        """Five points, by sine transforms: exact for the scheme."""
        inside = scipy.fft.dstn(source[1:-1, 1:-1], type=1)
        return np.pad(scipy.fft.idstn(inside / (symbol[:, None] + symbol), type=1), 1)

    return {
        "what": "high-frequency PDE",
        "input": f"Poisson, sin 100x sin 100y, {nodes}²",
        "ours": lambda: kronecker.solve_pde({(2, 0): 1.0, (0, 2): 1.0}, source, boundary, (x, x)).u,
        "peer": differences,
        "peer_name": f"differences (error {np.abs(differences() - truth).max():.0e})",
        "error": lambda found: float(np.abs(found - truth).max()),
    }
