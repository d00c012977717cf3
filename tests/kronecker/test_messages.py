"""Arguments of the wrong kind, and equations that make no sense."""

import numpy as np
import pytest
from kronecker.problems import solved_on_a_square
from wrong_kinds import refuse, wrong_kinds

from linalgkit.kronecker import Dirichlet, Envelopes, Neumann, Nonlinearity, solve_pde

T = np.linspace(0, 1, 83)


@pytest.mark.parametrize(("case", "name", "wrong"), wrong_kinds("kronecker"))
def test_the_message_names_the_argument(case, name, wrong):
    refuse(case, name, wrong)


def cubic(function=lambda u: u**3, slope=lambda u: 3 * u**2):
    return Nonlinearity(function, [slope])


@pytest.mark.parametrize(
    ("changes", "exception", "message"),
    [
        ({"grid": (np.linspace(0, 1, 20),)}, ValueError, "one axis for each"),
        ({"grid": (np.linspace(0, 1, 19),) * 2}, ValueError, r"grid\[0\] must have one axis of 20"),
        ({"grid": (np.linspace(1, 0, 20),) * 2}, ValueError, r"grid\[0\] must increase"),
        ({"source": np.full((20, 20), np.nan)}, ValueError, r"finite; entry \(0, 0\)"),
        ({"source": np.ones((20, 20)) * 1j}, TypeError, "must be real"),
        ({"operator": {}}, TypeError, "operator must be a dict"),
        ({"operator": {(2,): 1.0}}, ValueError, "tuples of 2 orders"),
        ({"operator": {(2, 0): np.ones(20)}}, ValueError, "2 numbers or arrays"),
        ({"operator": {(2, 0): (np.ones(3), 1.0)}}, ValueError, r"shape \(20,\)"),
        ({"operator": {(2, 0): np.nan}}, ValueError, "must be finite"),
        ({"operator": {(2, 0): (None, 1.0)}}, TypeError, "real number or an array; got None"),
        ({"operator": {(2, 0): (1j, 1.0)}}, TypeError, "real number or an array; got 1j"),
        ({"operator": {(2, 0): 1j}}, TypeError, r"coefficient of \(2, 0\) .*real.* got 1j"),
        ({"operator": {(2, 0): np.complex128(1 + 1j)}}, TypeError, r"\(2, 0\) .*real.*1\+1j"),
        ({"operator": {(2, 0): np.complex64(1j)}}, TypeError, r"\(2, 0\) .*real"),
        ({"operator": {(2, 0): np.array(1j)}}, TypeError, r"\(2, 0\) must be real"),
        ({"operator": {(2, 0): (1j * np.ones(20), 1.0)}}, TypeError, "0 of .* must be real"),
        ({"operator": {(2, 0): (1.0, np.complex64(2))}}, TypeError, "coefficient 1 of .*real"),
        ({"operator": {(2, 0): (np.ones(20) * np.inf, 1.0)}}, ValueError, "must be finite"),
        ({"boundary": {(2, 0): Dirichlet(0.0)}}, ValueError, "axis below 2"),
        ({"boundary": {(0, 0): Dirichlet(np.ones(3))}}, ValueError, r"shape \(20,\)"),
        ({"boundary": {(0, 0): 0.0}}, TypeError, "Dirichlet or Neumann"),
        ({"boundary": {(0, 0): Dirichlet(None)}}, TypeError, "real number or an array; got None"),
        ({"boundary": {(0, 0): Dirichlet(np.complex64(1j))}}, TypeError, "face .* must be a real"),
        ({"boundary": {(0, 0): Dirichlet(np.array(1j))}}, TypeError, r"\(0, 0\) must be real"),
        ({"boundary": {(0, 0): Dirichlet(1j * np.ones(20))}}, TypeError, r"\(0, 0\) must be real"),
        ({"boundary": {(1, 0): Neumann(np.sin)}}, TypeError, r"face \(1, 0\) .* on the nodes"),
        ({"boundary": {(1, 0): Neumann(np.nan)}}, ValueError, r"face \(1, 0\) must be finite"),
        ({"boundary": {(0, 0): [Dirichlet(0.0)] * 2}}, np.linalg.LinAlgError, "no trial|depend"),
        ({"kernel": "rbf"}, TypeError, "kernel must be"),
        ({"kernel": [Envelopes((0j,), (5,))]}, ValueError, "each of 2 axes"),
        ({"tol": -1.0}, ValueError, "tol must be"),
        ({"tol": "small"}, TypeError, "tol must be a number"),
        ({"nonlinearity": np.sin}, TypeError, "must be a Nonlinearity"),
        ({"nonlinearity": Nonlinearity(np.sin, np.cos)}, TypeError, "sequence of functions"),
        ({"nonlinearity": Nonlinearity(3, [np.cos])}, TypeError, "must have a function"),
        ({"nonlinearity": Nonlinearity(np.sin, [np.cos], [0])}, TypeError, "tuples of 2 integers"),
        ({"nonlinearity": Nonlinearity(np.sin, [np.cos], [(0, "1")])}, TypeError, "got '1'"),
        ({"callback": 3}, TypeError, "callback must be a function; got 3"),
        ({"nonlinearity": cubic(lambda u: u[:3])}, TypeError, r"shape \(18, 18\).* \(3, 18\)"),
        ({"nonlinearity": cubic(lambda u: None)}, TypeError, "the function .* got .* in object"),
        ({"nonlinearity": cubic(lambda u: 1j * u)}, TypeError, "real numbers .* in complex128"),
        ({"nonlinearity": cubic(slope=lambda u: u[:2])}, TypeError, "a derivative .* return real"),
        (
            {"nonlinearity": cubic(lambda u: np.nan * u), "kernel": Envelopes((0j,), (4,))},
            np.linalg.LinAlgError,
            "Newton's method",
        ),
        ({"kernel": Envelopes(0j, (4,))}, TypeError, "rates of Envelopes must be a tuple; got 0j"),
        ({"kernel": Envelopes((0j,), (4, 5))}, ValueError, "a degree for each of 1 rates; got 2"),
        ({"kernel": Envelopes(("0",), (4,))}, TypeError, "rates of Envelopes must be a number"),
        ({"kernel": Envelopes((0j,), (-4,))}, ValueError, "degrees of Envelopes must be at least"),
        ({"kernel": Envelopes((0j,), (0,))}, ValueError, "degrees of Envelopes must be at least 1"),
        ({"kernel": Envelopes((), ())}, ValueError, "rates of Envelopes must have at least one"),
        ({"kernel": Envelopes((0j,), (1,))}, np.linalg.LinAlgError, "none of its 1 functions"),
        (
            {"kernel": Envelopes((0j,), (1,)), "boundary": {(0, 0): Neumann(0.0)}},
            np.linalg.LinAlgError,
            "a condition is zero for all functions",
        ),
        ({"kernel": Envelopes((0j,), (4,), 0.0)}, ValueError, "cut of Envelopes must be greater"),
        (
            {"kernel": Envelopes((0j,), (4,), windows=((0.5, 0.1),))},
            ValueError,
            r"windows of Envelopes must be \(centre, width, waves\); got \(0.5, 0.1\)",
        ),
        (
            {"kernel": Envelopes((0j,), (4,), windows=((0.5, 0, 3),))},
            ValueError,
            "the width of a window must be greater than 0",
        ),
    ],
)  # fmt: skip
def test_equations(changes, exception, message):
    with pytest.raises(exception, match=message):
        solved_on_a_square(**changes)


def test_a_nonlinearity_that_is_nowhere_finite_on_one_axis():
    with pytest.raises(np.linalg.LinAlgError, match="Newton's method"):
        solve_pde({(2,): 1.0}, np.ones(20), {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(0.0)},
                  np.linspace(0, 1, 20), nonlinearity=cubic(lambda u: np.nan * u))  # fmt: skip


def test_as_many_functions_as_conditions_on_one_axis():
    with pytest.raises(np.linalg.LinAlgError, match="leave none of its 2 functions free"):
        solve_pde({(2,): 1.0}, np.ones(20), {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(0.0)},
                  np.linspace(0, 1, 20), kernel=Envelopes((0j,), (2,)))  # fmt: skip


def test_places_outside_of_an_axis():
    x = np.linspace(0, 1, 50)
    found = solve_pde({(2,): 1.0}, np.ones(50), {(0, 0): Dirichlet(0.0), (0, 1): Dirichlet(0.0)}, x)
    with pytest.raises(ValueError, match="must lie in the box"):
        found.predict([2.0])


@pytest.mark.parametrize(
    ("arguments", "exception", "message"),
    [
        ((None,), TypeError, "x must be an array; got None"),
        (("here",), TypeError, "x must be an array; got builtins.str"),
        ((np.ones((4, 3)),), ValueError, r"shape \(\.\.\., 2\); got shape \(4, 3\)"),
        ((np.array([[0.5, 7.0]]),), ValueError, r"x\[1\] must lie in the box"),
        (([T],), ValueError, "x must have 2 arrays of coordinates; got 1"),
        (([T, None],), TypeError, r"x\[1\] must be an array; got None"),
        (([T, 1j * T],), TypeError, r"x\[1\] must be real"),
        (([T, T[:, None]],), ValueError, r"x\[1\] must have one axis; got shape \(83, 1\)"),
        (([T, T], 1.5), ValueError, "orders must have 2 entries"),
        (([T, T], (1, 1.5)), TypeError, "orders must be an integer; got 1.5"),
    ],
)
def test_what_is_asked_of_the_solution_is_checked(arguments, exception, message, square):
    with pytest.raises(exception, match=message):
        square.predict(*arguments)


@pytest.fixture(scope="module")
def square():
    return solved_on_a_square(tol=1e-2)
