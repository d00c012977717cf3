from . import state_tracking
from ._delta_rule import DeltaRuleGradients, delta_rule, delta_rule_step, delta_rule_vjp
from ._reflections import ReflectionProduct
from ._wy import WY, accumulate, ut_transform, wy

__all__ = [
    "WY",
    "DeltaRuleGradients",
    "ReflectionProduct",
    "accumulate",
    "delta_rule",
    "delta_rule_step",
    "delta_rule_vjp",
    "state_tracking",
    "ut_transform",
    "wy",
]
