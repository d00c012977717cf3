"""Is state tracking exact over a million letters? Groups and random automata; run by hand.

    python asv_bench/exact_householder.py

Writes results/householder-exact.json, from which the performance page makes its table. Every state
comes out of `delta_rule`; the truth comes from permutations or a table, one letter after another.
Of groups the numbers that are read are judged too, before they are rounded to a state, and
the published constructions stand beside: swaps by keys of norm 1, rotations of the plane.
"""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import contest
import machine
import numpy as np

from linalgkit.householder import state_tracking

PACKAGES = ("numpy", "scipy", "numba")
INTEGERS, UNIT, PLANE = "integers", "norm 1", "norm 1, rotations of the plane"
PIECE = 10_000  # letters that are encoded at a time
AUTOMATON_LETTERS = (1, 2, 3)
AUTOMATON_STATES = (2, 3, 4, 5, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=1_000_000)
    parser.add_argument("--automata", type=int, default=200)
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    facts = machine.facts(PACKAGES, "numba")
    groups = []
    for name in ("S5", "A5", "S3", "C7"):
        word, answer = state_tracking.word_problem(name, options.length, rng=0)
        trackers = {
            INTEGERS: state_tracking.group(name),
            UNIT: state_tracking.group(name, unit=True),
        }
        if name == "C7":  # its elements are numbered by the angle, letters and states alike
            trackers[PLANE] = state_tracking.rotation(7)
        for keys, tracker in trackers.items():
            for dtype in ("float16", "float32", "float64"):
                row = {"group": name, "keys": keys, "dtype": dtype}
                groups.append(row | judged(tracker, word, answer, dtype))
                contest.progress(" ".join(map(str, groups[-1].values())))
    automata = [random_automaton(seed, options.length) for seed in range(options.automata)]
    report = {
        "room": "householder",
        "date": datetime.date.today().isoformat(),
        "machine": facts,
        "length": options.length,
        "groups": groups,
        "automata": automata,
    }
    wrong = sum(row["wrong"] for row in automata)
    seconds = sum(row["seconds"] for row in automata)
    print(
        f"{len(automata)} automata, {options.length} letters each: {wrong} wrong, {seconds:.0f} s"
    )
    if not options.no_write:
        path = Path(__file__).parent / "results" / "householder-exact.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def judged(tracker: Any, word: np.ndarray, answer: np.ndarray, dtype: str) -> dict[str, Any]:
    """Run a tracker of one layer; count wrong states, measure the error of what is read.

    Keys of norm 1 are longer than that in float16, and the numbers grow beyond it: no error then.
    """
    (layer,) = tracker.layers
    state = layer.encode(word[:0], dtype).initial_state
    wrong, error, begin = 0, 0.0, time.perf_counter()
    for piece in range(0, len(word), PIECE):
        tokens = layer.encode(word[piece : piece + PIECE], dtype)
        truth = answer[piece : piece + PIECE]
        with np.errstate(over="ignore", invalid="ignore"):
            output, state = layer.run(tokens._replace(initial_state=state))
            wrong += int(np.sum(layer.decode(output) != truth))
        error = max(error, float(np.max(np.abs(output - layer.codes[truth]))))
    return {
        "wrong": wrong,
        "error": float(f"{error:.3g}") if np.isfinite(error) else None,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def random_automaton(seed: int, length: int) -> dict[str, Any]:
    """Follow an automaton with any transitions through a random word, in float32."""
    rng = np.random.default_rng(seed)
    states, letters = int(rng.choice(AUTOMATON_STATES)), int(rng.choice(AUTOMATON_LETTERS))
    delta, start = rng.integers(states, size=(states, letters)), int(rng.integers(states))
    word = rng.integers(letters, size=length)
    tracker = state_tracking.automaton(delta, start)
    begin = time.perf_counter()
    found = tracker.run(word)
    seconds = time.perf_counter() - begin
    rows, state, truth = delta.tolist(), start, []
    for letter in word.tolist():
        state = rows[state][letter]
        truth.append(state)
    row = {
        "seed": seed,
        "states": states,
        "letters": letters,
        "layers": len(tracker.layers),
        "wrong": int(np.sum(found != np.array(truth))),
        "seconds": round(seconds, 2),
    }
    contest.progress(" ".join(f"{key} {value}" for key, value in row.items()))
    return row


if __name__ == "__main__":
    main()
