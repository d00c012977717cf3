"""State tracking: nothing is rounded, nothing is looked up, and the truth comes from stepping."""

import re
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from householder.cases import recurrence
from hypothesis import given, settings
from hypothesis import strategies as st

import linalgkit
from linalgkit.householder import delta_rule, state_tracking
from linalgkit.householder._automata import are_permutations, are_resets, cascade, restored
from linalgkit.householder._regular_expressions import _automaton_of, _Parser, _smallest

DTYPES = ("float16", "float32", "float64")
TOKENS = 20_000
FEWER = {"array_api": 3000, "numba": TOKENS}  # the reference engine is slow


@pytest.fixture(params=["array_api", "numba"])
def engine(request):
    with linalgkit.use_engine(request.param):
        yield request.param


def rng():
    return np.random.default_rng(0)


def stepped(delta, word, state=0):
    """The states by definition."""
    rows, states = np.asarray(delta).tolist(), []
    for letter in word:
        state = rows[state][letter]
        states.append(state)
    return np.array(states, np.int64)


def composed(permutations, word):
    """Where points are, by definition."""
    places, found = np.arange(permutations.shape[1]), []
    for letter in word:
        places = permutations[letter][places]
        found.append(places)
    return np.array(found)


def by_hand(layer, tokens):
    q, k, v, beta, state = tokens
    return delta_rule(
        q, k, v, beta, initial_state=state, reflections=layer.reflections, scale=1,
        return_state=True,
    )  # fmt: skip


def symmetric_table(points):
    """Elements and table of all permutations, the first factor first."""
    elements = state_tracking.group(f"S{points}").layers[0].codes
    numbers = {tuple(images): number for number, images in enumerate(elements.tolist())}
    table = [[numbers[tuple(h[g].tolist())] for h in elements] for g in elements]
    return elements, np.array(table)


# Exact, in every dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["S5", "A5", "S3", "S4", "C7", "D4"])
def test_word_problems_are_exact(name, dtype, engine):
    word, answer = state_tracking.word_problem(name, FEWER[engine], rng=1)
    tracker = state_tracking.group(name)
    (layer,), (tokens,) = tracker.layers, tracker.encode(word, dtype=dtype)
    output, state = by_hand(layer, tokens)
    assert output.dtype == tokens.k.dtype == dtype
    np.testing.assert_array_equal(output, layer.codes[answer])
    np.testing.assert_array_equal(np.arange(len(state)) @ state, layer.codes[answer[-1]])
    np.testing.assert_array_equal(tracker.run(word, dtype=dtype), answer)


@pytest.mark.parametrize("chunk", [1, 5, 16, 64, 300])
def test_chunks_do_not_matter(chunk, engine):
    word, answer = state_tracking.word_problem("S5", 500, rng=2)
    tracker = state_tracking.group("S5")
    (layer,), (tokens,) = tracker.layers, tracker.encode(word)
    output = delta_rule(
        *tokens[:4], initial_state=tokens.initial_state, reflections=4, scale=1, chunk=chunk
    )
    np.testing.assert_array_equal(output, layer.codes[answer])


def test_keys_are_small_integers():
    for tracker in (state_tracking.group("S5"), state_tracking.automaton([[1, 0], [2, 0], [2, 2]])):
        for layer in tracker.layers:
            for array in (layer.keys, layer.values, layer.betas):
                assert array.dtype.kind == "i"
                assert np.all(np.abs(array) <= 1)
            assert np.all(layer.betas * np.sum(layer.keys.astype(int) ** 2, axis=-1) <= 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_of_a_long_word(dtype, monkeypatch, engine):
    delta = rng().integers(4, size=(4, 2))
    trackers = [state_tracking.automaton(delta, 1), state_tracking.group("A4")]
    words = rng().integers(2, size=(3, 301))
    whole = [tracker.run(words, dtype=dtype) for tracker in trackers]
    monkeypatch.setattr("linalgkit.householder._trackers._PIECE", 1000)
    for tracker, expected in zip(trackers, whole, strict=True):
        np.testing.assert_array_equal(tracker.run(words, dtype=dtype), expected)
    for word, states in zip(words, whole[0], strict=True):
        np.testing.assert_array_equal(states, stepped(delta, word, 1))


def test_run_goes_through_the_delta_rule(monkeypatch):
    calls = []

    def counted(*arrays, **options):
        calls.append(options)
        return tuple(0 * x for x in delta_rule(*arrays, **options))

    monkeypatch.setattr("linalgkit.householder._layers.delta_rule", counted)
    states = state_tracking.automaton([[1, 0], [0, 1]]).run([0, 0, 0])
    np.testing.assert_array_equal(states, 0)
    assert len(calls) == 1


def test_the_rule_by_definition_agrees():
    """In fractions, token by token."""
    tracker = state_tracking.automaton([[1, 0], [2, 0], [2, 2]])
    word = rng().integers(2, size=40)
    for layer, tokens in zip(tracker.layers, tracker.encode(word), strict=True):
        exact = [np.vectorize(Fraction, otypes=[object])(x) for x in tokens]
        *arrays, state = exact
        output, _ = recurrence(
            *arrays, None, state, scale=Fraction(1), reflections=layer.reflections
        )
        np.testing.assert_array_equal(by_hand(layer, tokens)[0], output.astype(float))


# Groups


def test_all_permutations_of_five_points():
    images = state_tracking.group("S5").layers[0].codes
    tracker = state_tracking.permutation(images)
    np.testing.assert_array_equal(tracker.run(np.arange(120)[:, None])[:, 0], images)
    (layer,) = tracker.layers
    assert layer.reflections == 4
    used = np.sum(layer.betas != 0, axis=1)
    for permutation, count in zip(images, used, strict=True):
        matrix = np.eye(5)[permutation]
        assert count == np.linalg.matrix_rank(matrix - np.eye(5))  # n less the cycles


def test_permutation_of_one_letter():
    np.testing.assert_array_equal(
        state_tracking.permutation([1, 2, 0]).run([0, 0]), [[1, 2, 0], [2, 0, 1]]
    )


def test_many_points():
    letters = np.array([rng().permutation(40), np.roll(np.arange(40), 1)])
    word = rng().integers(2, size=200)
    tracker = state_tracking.permutation(letters)
    np.testing.assert_array_equal(tracker.run(word), composed(letters, word))


@pytest.mark.parametrize(
    ("name", "order", "points", "reflections"),
    [("S1", 1, 1, 1), ("S4", 24, 4, 3), ("A3", 3, 3, 2), ("A5", 60, 5, 4), ("C6", 6, 6, 5),
     ("D3", 6, 3, 2), ("D4", 8, 4, 3), ("D7", 14, 7, 6)],
)  # fmt: skip
def test_named_groups(name, order, points, reflections):
    tracker = state_tracking.group(name)
    (layer,) = tracker.layers
    assert (tracker.letters, layer.reflections) == (order, reflections)
    assert layer.codes.shape == (order, points)
    elements = {tuple(images) for images in layer.codes.tolist()}
    assert len(elements) == order
    for g, h in product(elements, repeat=2):
        assert tuple(h[point] for point in g) in elements
    np.testing.assert_array_equal(layer.codes[0], np.arange(points))


def test_cyclic_group_is_addition():
    word = rng().integers(9, size=300)
    np.testing.assert_array_equal(state_tracking.group("C9").run(word), np.cumsum(word) % 9)


def test_table_and_permutations_agree():
    _, table = symmetric_table(4)
    word, answer = state_tracking.word_problem("S4", 200, rng=rng())
    np.testing.assert_array_equal(state_tracking.group(table).run(word), answer)


def test_table_with_another_identity():
    table = (np.arange(5) + np.arange(5)[:, None] - 3) % 5  # 3 is neutral
    word = rng().integers(5, size=100)
    expected = stepped(table, word, 3)
    np.testing.assert_array_equal(state_tracking.group(table).run(word), expected)


def test_quaternions():
    """No small permutations: the table of ±1, ±i, ±j, ±k."""
    units = [
        np.eye(2),
        np.diag([1j, -1j]),
        np.array([[0, 1], [-1, 0]]),
        np.array([[0, 1j], [1j, 0]]),
    ]
    units += [-unit for unit in units]
    table = np.array(
        [
            [next(i for i, u in enumerate(units) if np.allclose(u, a @ b)) for b in units]
            for a in units
        ]
    )
    word = rng().integers(8, size=300)
    tracker = state_tracking.group(table)
    assert tracker.layers[0].reflections == 6  # elements of order 4: two cycles of four
    np.testing.assert_array_equal(tracker.run(word, dtype="float16"), stepped(table, word))


def test_generators():
    by_name, generated = (
        state_tracking.group("A5"),
        state_tracking.group(generators=[[1, 2, 0, 3, 4], [0, 1, 3, 4, 2]]),
    )
    np.testing.assert_array_equal(generated.layers[0].codes, by_name.layers[0].codes)


def test_parity_is_one_number():
    bits = rng().integers(2, size=TOKENS)
    tracker = state_tracking.parity()
    for dtype in DTYPES:
        np.testing.assert_array_equal(tracker.run(bits, dtype=dtype), np.cumsum(bits) % 2)
    (tokens,) = tracker.encode(bits.astype(bool))
    assert tokens.k.shape == (TOKENS, 1)
    assert set(by_hand(tracker.layers[0], tokens)[0].ravel()) == {-1, 1}


# As published, with keys of norm 1


def test_unit_keys_drift(engine):
    word, answer = state_tracking.word_problem("S5", FEWER[engine], rng=0)
    tracker = state_tracking.group("S5", unit=True)
    (layer,) = tracker.layers
    np.testing.assert_allclose(np.linalg.norm(layer.keys, axis=-1)[layer.betas > 0], 1)
    for dtype, least, most in (("float32", 1e-4, 5e-2), ("float64", 1e-14, 1e-9)):
        output, _ = by_hand(layer, tracker.encode(word, dtype=dtype)[0])
        assert least < np.max(np.abs(output - layer.codes[answer])) < most
        np.testing.assert_array_equal(tracker.run(word, dtype=dtype), answer)  # rounded


def test_unit_keys_of_points_and_of_tables():
    _, table = symmetric_table(3)
    word = rng().integers(6, size=50)
    expected = stepped(table, word)
    np.testing.assert_array_equal(state_tracking.group(table, unit=True).run(word), expected)
    images = state_tracking.group("S3").layers[0].codes
    found = state_tracking.permutation(images, unit=True).run(word)
    np.testing.assert_array_equal(found, images[expected])


def test_rotation_drifts(engine):
    word = rng().integers(7, size=FEWER[engine])
    tracker = state_tracking.rotation(7)
    (layer,), truth = tracker.layers, np.cumsum(word) % 7
    for dtype, least, most in (("float32", 1e-5, 1e-2), ("float64", 1e-14, 1e-10)):
        output, _ = by_hand(layer, tracker.encode(word, dtype=dtype)[0])
        assert least < np.max(np.abs(output - layer.codes[truth])) < most


@pytest.mark.parametrize("m", [1, 2, 3, 12])
def test_rotation_counts(m):
    word = rng().integers(m, size=100)
    tracker = state_tracking.rotation(m)
    np.testing.assert_array_equal(tracker.run(word), np.cumsum(word) % m)


# Automata


@st.composite
def automata(draw, states=6, letters=3):
    n, m = draw(st.integers(1, states)), draw(st.integers(1, letters))
    row = st.lists(st.integers(0, n - 1), min_size=m, max_size=m)
    delta = draw(st.lists(row, min_size=n, max_size=n))
    word = draw(st.lists(st.integers(0, m - 1), max_size=50))
    return np.array(delta), draw(st.integers(0, n - 1)), np.array(word, np.int64)


@settings(max_examples=200)
@given(automata())
def test_any_automaton(machine):
    delta, start, word = machine
    tracker = state_tracking.automaton(delta, start)
    assert len(tracker.layers) <= max(len(delta) - 1, 1)
    np.testing.assert_array_equal(tracker.run(word), stepped(delta, word, start))


def test_cascade_on_tables():
    """The decomposition alone, on larger automata, and what is promised of its levels."""
    for trial in range(300):
        draws = np.random.default_rng(trial)
        n, m = draws.integers(2, 9), draws.integers(1, 4)
        maps, start = draws.integers(n, size=(m, n)), int(draws.integers(n))
        levels = cascade(maps, start)
        assert len(levels) <= n - 1
        for level, following in pairwise(levels):
            assert following.maps.shape[1] == level.maps.shape[1] - 1
            assert np.all(are_permutations(level.maps) | are_resets(level.maps))
        points, state = [np.array([level.start]) for level in levels], start
        assert restored(points) == start
        for letter in draws.integers(m, size=60):
            state, letters = maps[letter, state], letter
            for depth, level in enumerate(levels):
                before = points[depth]
                points[depth] = level.maps[letters, before]
                if level.passes is not None:
                    letters = level.passes[before, letters]
            assert restored(points) == state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trial", range(4))
def test_automata_on_long_words(trial, dtype, engine):
    draws = np.random.default_rng(trial)
    delta = draws.integers(5, size=(5, 2))
    word = draws.integers(2, size=3000)
    tracker = state_tracking.automaton(delta)
    expected = stepped(delta, word)
    np.testing.assert_array_equal(tracker.run(word, dtype=dtype), expected)
    read = []
    for layer, tokens in zip(tracker.layers, tracker.encode(word, dtype=dtype), strict=True):
        output, _ = by_hand(layer, tokens)
        assert np.all(output == np.rint(output))
        read.append(output[:, 0].astype(np.int64))
    np.testing.assert_array_equal(restored(read), expected)


def test_permutations_and_resets_take_one_layer():
    n = 30
    delta = np.stack([np.roll(np.arange(n), 1), np.arange(n), np.full(n, 4), np.full(n, 0)], axis=1)
    word = rng().integers(4, size=400)
    tracker = state_tracking.automaton(delta, 7)
    assert len(tracker.layers) == 1
    np.testing.assert_array_equal(tracker.run(word), stepped(delta, word, 7))


def test_one_state():
    np.testing.assert_array_equal(state_tracking.automaton([[0, 0]]).run([0, 1, 1]), 0)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 3, 5)])
def test_shapes_of_words(shape):
    word = rng().integers(2, size=shape)
    delta = [[1, 0], [2, 0], [2, 2]]
    assert state_tracking.automaton(delta).run(word).shape == shape
    assert state_tracking.permutation([[1, 0], [0, 1]]).run(word).shape == (*shape, 2)
    for layer_tokens in state_tracking.automaton(delta).encode(word):
        assert layer_tokens.q.shape[:-1] == shape


# Regular expressions

PATTERNS = ["", "a", "(a|b)*aba", "[^b]*(ba+)?c?", "a{2,3}b{,2}c{1,}", "(?:ab|c)+?", "(?P<x>a)|b|",
            "(a*b?){2}", ".", r"\w\W|[a-]", "[]a]*", "{a{", "(a|ab)(c|bcd)?", "(((a)))",
            r"\x61\u0062*", "(a|b)*a(a|b){2}"]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    alphabet = "abcd-]{"
    language = state_tracking.regex(pattern, alphabet)
    for length in range(5):
        for letters in (
            product(alphabet, repeat=length)
            if length < 3
            else [rng().choice(list(alphabet), length)]
        ):
            text = "".join(letters)
            assert language.fullmatch(text) == bool(re.fullmatch(pattern, text))
    text = "".join(rng().choice(list("ab"), 60))
    expected = [bool(re.fullmatch(pattern, text[: t + 1])) for t in range(60)]
    np.testing.assert_array_equal(language.matches(text, dtype="float16"), expected)


def expressions():
    atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\w", "(?:)", r"\."])
    quantifiers = st.sampled_from(["*", "+", "?", "{2}", "{,2}", "{1,}", "{1,3}", "*?"])
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda x: f"({'|'.join(x)})"),
            st.tuples(inner, quantifiers).map(lambda x: f"(?:{x[0]}){x[1]}"),
        ),
        max_leaves=5,
    )


@settings(max_examples=200)
@given(expressions(), st.lists(st.text("abc.", max_size=8), min_size=1, max_size=8))
def test_automata_of_expressions(pattern, texts):
    """The automaton alone: its cascade may be too large."""
    expression = _Parser(pattern, "abc.").parsed()
    delta, accepting = _smallest(*_automaton_of(expression, 4))
    for text in texts:
        end = stepped(delta, ["abc.".index(c) for c in text])[-1] if text else 0
        assert accepting[end] == bool(re.fullmatch(pattern, text))


def test_smallest_automata_have_no_twins():
    for pattern, states in [("(a|b)*aba", 4), ("(a|b)*", 1), ("a|b", 3), ("(a|b)*a(a|b)(a|b)", 8)]:
        assert len(state_tracking.regex(pattern, "ab").accepting) == states


def test_divisible_by_seven():
    """The remainders are permuted by bits: one layer, without a cascade."""
    remainders = [[2 * r % 7, (2 * r + 1) % 7] for r in range(7)]
    bits = rng().integers(2, size=500)
    tracker = state_tracking.automaton(remainders)
    assert len(tracker.layers) == 1
    value, expected = 0, []
    for bit in bits.tolist():
        value = 2 * value + bit
        expected.append(value % 7)
    np.testing.assert_array_equal(tracker.run(bits), expected)


# Word problems, representations, refusals


def test_word_problem():
    word, answer = state_tracking.word_problem("S4", 300, rng=5)
    again = state_tracking.word_problem("S4", 300, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(word, again.word)
    images = state_tracking.group("S4").layers[0].codes
    np.testing.assert_array_equal(images[answer], composed(images, word))
    assert set(word) == set(range(24))
    empty = state_tracking.word_problem("S4", 0)
    assert empty.word.shape == empty.answer.shape == (0,)


def test_representations():
    tracker = state_tracking.automaton([[1, 0], [2, 0], [2, 2]])
    assert repr(tracker) == (
        "StateTracker: 2 letters, 3 states; 2 layers, d_k × d_v (reflections a letter): "
        "3 × 1 (3), 2 × 1 (2)"
    )
    assert repr(tracker.layers[1]) == "Layer(letters=2, reflections=2, d_k=2, d_v=1)"
    assert "where 3 points are" in repr(state_tracking.permutation([1, 2, 0]))
    assert repr(state_tracking.regex("a*", "ab")) == (
        "Language('a*', alphabet='ab'): 2 states, 1 accepting, 1 layer"
    )


LOOP = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: state_tracking.permutation([0, 0, 2]), ValueError, "point 0 is the image of"),
        (lambda: state_tracking.permutation([0, 3, 2]), ValueError, "from 0 to 2; got 3 at index"),
        (lambda: state_tracking.permutation([[[0]]]), ValueError, "got shape"),
        (lambda: state_tracking.permutation([0.0, 1.0]), TypeError, "integers; got float64"),
        (lambda: state_tracking.permutation([1, 0], unit="no"), TypeError, "unit must be True or"),
        (lambda: state_tracking.group("S3", unit=0), TypeError, "unit must be .*; got 0"),
        (lambda: state_tracking.group("X3"), ValueError, r"got 'X3'\. .*group\(generators="),
        (lambda: state_tracking.group("S"), ValueError, "got 'S'"),
        (lambda: state_tracking.group("C0"), ValueError, "got 'C0'"),
        (lambda: state_tracking.group("D2"), ValueError, "at least 3 corners; got 'D2'"),
        (lambda: state_tracking.group("S12"), ValueError, "too many elements"),
        (lambda: state_tracking.group("S99999999"), ValueError, "too many elements"),
        (lambda: state_tracking.group(), TypeError, "either"),
        (lambda: state_tracking.group("S3", generators=[[0, 1]]), TypeError, "either"),
        (lambda: state_tracking.group([[0, 1]]), ValueError, r"elements, elements.*as generators="),
        (lambda: state_tracking.group([[0, 1], [1, 2]]), ValueError, r"closure.*1 · 1 = 2"),
        (lambda: state_tracking.group([[1, 1], [1, 1]]), ValueError, "identity"),
        (lambda: state_tracking.group([[0, 1], [1, 1]]), ValueError, r"inverses.*1 · h"),
        (lambda: state_tracking.group(LOOP), ValueError, r"associativity.*\(1 · "),
        (
            lambda: state_tracking.group(generators=[[1, *range(2, 12), 0], [1, 0, *range(2, 12)]]),
            ValueError,
            "more than 50000",
        ),
        (lambda: state_tracking.automaton([0, 1]), ValueError, r"states, letters.*\(2,\)"),
        (lambda: state_tracking.automaton([[0], [2]]), ValueError, r"got 2 at index \(1, 0\)"),
        (lambda: state_tracking.automaton([[0], [1]], 2), ValueError, "from 0 to 1; got 2.$"),
        (lambda: state_tracking.automaton([[0], [1]], 1.0), TypeError, "start must be an integer"),
        (lambda: state_tracking.automaton([[0], [1]], None), TypeError, "start must be an integer"),
        (
            lambda: state_tracking.group(generators=[[1, 0], [1, 2, 0]]),
            ValueError,
            "generators must be an array; got a list of parts whose shapes differ",
        ),
        (lambda: state_tracking.automaton([[0.5]]), TypeError, "delta must be"),
        (lambda: state_tracking.rotation(0), ValueError, "m must be at least 1"),
        (lambda: state_tracking.parity().run([0, 1, 2]), ValueError, "got 2 at index 2"),
        (lambda: state_tracking.parity().run([0, -1]), ValueError, "got -1 at index 1"),
        (lambda: state_tracking.parity().run(1), ValueError, "got a number"),
        (lambda: state_tracking.parity().run([0.0]), TypeError, "word must be"),
        (lambda: state_tracking.parity().run([0], dtype="int64"), TypeError, "floating dtype"),
        (lambda: state_tracking.parity().run([0], dtype="bfloat16"), TypeError, "got 'bfloat16'"),
        (lambda: state_tracking.parity().run([0], dtype="complex64"), TypeError, "a real floating"),
        (
            lambda: state_tracking.automaton(np.zeros((2052, 1), int)).run([0], dtype="float16"),
            ValueError,
            "float16 does not hold",
        ),
        (lambda: state_tracking.word_problem(5, 10), TypeError, "like 'S5'; got int"),
        (lambda: state_tracking.word_problem("Z5", 3), ValueError, "got 'Z5'"),
        (lambda: state_tracking.word_problem("S3", -1), ValueError, "length"),
        (lambda: state_tracking.regex("a(", "a"), ValueError, "malformed"),
        (lambda: state_tracking.regex("a", ""), ValueError, "alphabet"),
        (lambda: state_tracking.regex("a", "aa"), ValueError, "alphabet"),
        (lambda: state_tracking.regex(b"a", "a"), TypeError, "must be str"),
        (lambda: state_tracking.regex("ab*C", "ab"), ValueError, "'C' at index 3.*none of.*'ab'"),
        (lambda: state_tracking.regex(r"a|\x42", "ab"), ValueError, "'.*x42' at index 2, which is"),
        (lambda: state_tracking.regex("^a", "a"), ValueError, r"anchor \^ ?a? at index 0"),
        (lambda: state_tracking.regex("a$", "a"), ValueError, "anchor"),
        (lambda: state_tracking.regex(r"a\b", "a"), ValueError, r"anchor \\b at index 1"),
        (lambda: state_tracking.regex(r"(a)\1", "a"), ValueError, "backreference"),
        (lambda: state_tracking.regex("(?P<x>a)(?P=x)", "a"), ValueError, "the group"),
        (lambda: state_tracking.regex("(?=a)a", "a"), ValueError, "the group"),
        (lambda: state_tracking.regex("(?i)a", "a"), ValueError, "the group"),
        (lambda: state_tracking.regex("a*+a", "a"), ValueError, "possessive"),
        (lambda: state_tracking.regex("(a|b)*a(a|b){12}", "ab"), ValueError, "more than 2000"),
        (lambda: state_tracking.regex("(a|b)*a(a|b){4}", "ab"), ValueError, "cascade"),
        (lambda: state_tracking.regex("a*", "ab").matches("abc"), ValueError, "'c' at index 2"),
        (lambda: state_tracking.regex("a*", "ab").matches(b"ab"), TypeError, "a str; got bytes"),
        (lambda: state_tracking.regex("a*", "ab").fullmatch(None), TypeError, "str; got NoneType"),
    ],
)  # fmt: skip
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("pattern", ["[cd]|a", r"\d|a", "[^ab]?a"])
def test_classes_without_a_letter_match_none(pattern):
    language = state_tracking.regex(pattern, "ab")
    assert [language.fullmatch(text) for text in ("", "a", "b")] == [
        bool(re.fullmatch(pattern, text)) for text in ("", "a", "b")
    ]


def test_a_flat_list_of_generators_is_told_how_to_be_written():
    with pytest.raises(ValueError, match=r"generators=\[\[1, 0\]\]"):
        state_tracking.group(generators=[1, 0])


def test_a_layer_takes_a_list():
    (layer,) = state_tracking.group("S3").layers
    for one, other in zip(layer.encode([1, 2]), layer.encode(np.array([1, 2])), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError, match="integers"):
        layer.encode([1.5])
