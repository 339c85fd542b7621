"""The quick form of `tests.attacks.lines`: an exception before each ninth line of the bus."""

import pytest

from tests.attacks.lines import FRESH, KINDS, STARTED, attack

#: An odd number that is no divisor of what loops have: each line has its turn.
EVERY = 13


@pytest.mark.parametrize('command', [*FRESH, *STARTED])
def test_an_exception_at_any_line_leaves_a_bus_that_can_be_left(command):
    tries, wrong = 0, []
    for number, kind in enumerate(KINDS):
        more, found = attack(command, kind, first=1 + 4 * number, every=EVERY)
        tries, wrong = tries + more, wrong + found
    assert not wrong, '\n'.join(wrong)
    assert tries > 15
