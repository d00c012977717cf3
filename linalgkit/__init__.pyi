from . import householder, kronecker, mfac, monarch, spgemm
from ._capabilities import capabilities
from ._config import show_config
from ._engine import EngineError, use_engine
from ._operator import dottest, load
from ._threads import set_workers, use_workers

__version__: str

__all__ = [
    "EngineError",
    "capabilities",
    "dottest",
    "householder",
    "kronecker",
    "load",
    "mfac",
    "monarch",
    "set_workers",
    "show_config",
    "spgemm",
    "use_engine",
    "use_workers",
]
