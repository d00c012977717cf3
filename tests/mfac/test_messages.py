"""Arguments of the wrong kind."""

import pytest
from wrong_kinds import refuse, wrong_kinds


@pytest.mark.parametrize(("case", "name", "wrong"), wrong_kinds("mfac"))
def test_the_message_names_the_argument(case, name, wrong):
    refuse(case, name, wrong)
