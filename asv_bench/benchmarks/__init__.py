"""Benchmarks that asv follows over the history; each room beside its peers."""

import importlib.util
import os
import sys
from pathlib import Path

_BENCH = Path(__file__).resolve().parents[1]

# asv imports this package alone; cases and peers are shared with compare.py, one folder up.
sys.path.append(str(_BENCH))

# asv takes PYTHONPATH away. In the same environment (--python=same) the package need not be
# installed; where asv has installed a commit's, that one is found first.
if importlib.util.find_spec("linalgkit") is None:
    sys.path.append(str(_BENCH.parent))
    os.environ["PYTHONPATH"] = str(_BENCH.parent)  # for timeraw, which starts processes
