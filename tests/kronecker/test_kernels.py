"""Mixture kernels: derivatives against mpmath, spectra by quadrature, positive covariances."""

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad

from linalgkit.kronecker import SpectralMixture, StudentTMixture

WEIGHTS, MEANS, THIRD = [0.7, 0.2], [0.0, 3.1], [0.4, 0.9]


def gaussian(d, scale):
    return mpmath.exp(-2 * (mpmath.pi * scale * d) ** 2)


def matern(nu):
    """The definition by a Bessel function."""

    def envelope(d, length):
        r = mpmath.sqrt(2 * nu) * d / length
        return 2 ** mpmath.mpf(1 - nu) / mpmath.gamma(nu) * r**nu * mpmath.besselk(nu, r)

    return envelope


def mixture(envelope):
    def k(d):
        return sum(
            w * envelope(d, t) * mpmath.cos(2 * mpmath.pi * mean * d)
            for w, mean, t in zip(WEIGHTS, MEANS, THIRD, strict=True)
        )

    return k


KERNELS = {
    "gaussian": (SpectralMixture(WEIGHTS, MEANS, THIRD), mixture(gaussian), 4),
    **{
        f"matern {nu}": (
            StudentTMixture(WEIGHTS, MEANS, THIRD, nu=nu),
            mixture(matern(nu)),
            min(4, round(2 * nu - 1)),
        )
        for nu in (0.5, 1.5, 2.5, 3.5, 4.5)
    },
}


@pytest.mark.parametrize("name", KERNELS)
def test_derivatives(name):
    kernel, formula, highest = KERNELS[name]
    for order in range(highest + 1):
        for d in (0.013, 0.21, 1.7):
            with mpmath.workdps(40):
                truth = float(mpmath.diff(formula, mpmath.mpf(d), order))
            got = kernel(np.array([d, -d]), order)
            scale = abs(float(kernel(np.zeros(1), 2 * (order // 2))[0]))
            np.testing.assert_allclose(got, [truth, (-1) ** order * truth], atol=1e-13 * scale)


def test_spot_values_at_zero():
    """−k''(0) = Σ w (a²/3 + ω²), k''''(0) = Σ w (a⁴ + 2a²ω² + ω⁴) for Matérn-5/2."""
    kernel = StudentTMixture(WEIGHTS, MEANS, THIRD)
    w, omega, a = np.array(WEIGHTS), 2 * np.pi * np.array(MEANS), np.sqrt(5) / np.array(THIRD)
    zero = np.zeros(1)
    np.testing.assert_allclose(-kernel(zero, 2), np.sum(w * (a**2 / 3 + omega**2)))
    fourth = np.sum(w * (a**4 + 2 * a**2 * omega**2 + omega**4))
    np.testing.assert_allclose(kernel(zero, 4), fourth)
    assert kernel(zero, 1) == kernel(zero, 3) == 0


@pytest.mark.parametrize("name", ["gaussian", "matern 1.5", "matern 2.5"])
def test_spectrum(name):
    kernel, _, _ = KERNELS[name]
    for d in (0.0, 0.17, 0.6):
        integral = 2 * quad(
            lambda s, d=d: float(kernel.spectrum(s)), 0, np.inf, weight="cos", wvar=2 * np.pi * d
        )[0] if d else 2 * quad(lambda s: float(kernel.spectrum(s)), 0, np.inf)[0]  # fmt: skip
        np.testing.assert_allclose(integral, kernel(np.array([d]))[0], atol=1e-6)


def test_spectrum_of_a_line():
    """A scale of 0 is allowed: all of the weight stands at the mean."""
    kernel = SpectralMixture([1.0, 2.0], [2.0, 0.0], [0.0, 0.5])
    wide = SpectralMixture([2.0], [0.0], [0.5])
    s = np.array([0.0, 1.0, 2.0, -2.0])
    expected = np.where(abs(s) == 2, np.inf, wide.spectrum(s))
    np.testing.assert_allclose(kernel.spectrum(s), expected)


@pytest.mark.parametrize("name", ["gaussian", "matern 2.5", "matern 4.5"])
def test_joint_covariance_is_positive(name):
    kernel, _, _ = KERNELS[name]
    x = np.sort(np.random.default_rng(0).random(9))
    blocks = [[kernel.gram(x, orders=(p, q)) for q in range(3)] for p in range(3)]
    joint = np.block(blocks)
    np.testing.assert_allclose(joint, joint.T, atol=1e-9)
    scale = np.sqrt(np.diagonal(joint))
    assert np.linalg.eigvalsh(joint / np.outer(scale, scale)).min() > -1e-12
    equispaced = np.linspace(0, 1, 9)
    cross = kernel.gram(equispaced, equispaced + 0.0, orders=(1, 2))
    np.testing.assert_allclose(kernel.gram(equispaced, orders=(1, 2)), cross, rtol=0, atol=1e-8)


def test_gradient_of_the_kernel_in_torch_is_its_derivative(require):
    require("torch")
    import torch

    kernel = SpectralMixture(
        *(torch.tensor(p, dtype=torch.float64) for p in (WEIGHTS, MEANS, THIRD))
    )
    d = torch.tensor([0.0, 0.3, -0.2], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kernel(d, 2).sum(), d)
    torch.testing.assert_close(slope, kernel(d, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralMixture([1.0], [1.0, 2.0], [1.0]), "one shape"),
        (lambda: SpectralMixture([-1.0], [1.0], [1.0]), "weights must be at least 0"),
        (lambda: SpectralMixture([1.0], [np.nan], [1.0]), "means must be finite"),
        (lambda: StudentTMixture([1.0], [1.0], [0.0]), "lengths must be greater than 0"),
        (lambda: StudentTMixture([1.0], [1.0], [1.0], nu=2.0), "nu must be one of"),
        (lambda: StudentTMixture([1.0], [1.0], [1.0])(np.zeros(1), 5), "order must be at most 4"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kernel", [KERNELS["gaussian"][0], KERNELS["matern 2.5"][0]])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k(None), "d must be an array; got None"),
        (lambda k: k("far"), "d must be an array; got builtins.str"),
        (lambda k: k(np.zeros(1), 1.5), "order must be an integer; got 1.5"),
        (lambda k: k.spectrum(None), "s must be an array; got None"),
        (lambda k: k.gram(None), "x must be an array; got None"),
        (lambda k: k.gram(np.zeros(2), orders=1), r"orders must be two integers \(p, q\); got 1"),
        (lambda k: k.gram(np.zeros(2), orders=(1, "2")), "orders must be an integer; got '2'"),
    ],
)
def test_wrong_kinds(kernel, call, message):
    with pytest.raises(TypeError, match=message):
        call(kernel)
