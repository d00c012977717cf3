"""Reference engine: the delta rule in chunks, reflections in the compact WY form."""

from ._array_api_delta import delta_rule, delta_rule_vjp, ut_transform  # noqa: F401
from ._array_api_reflections import reflect  # noqa: F401
