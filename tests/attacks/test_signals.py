"""The quick form of `tests.attacks.signals`: a signal at any moment stops a site cleanly."""

import pytest

from tests.attacks.signals import MODES, attack

#: The number of trials in each mode; a site under --reload takes longer.
COUNTS = dict.fromkeys(MODES, 6) | {'single': 16, 'workers': 16, 'daemon': 16}


@pytest.mark.parametrize('mode', MODES)
def test_a_signal_at_any_moment_ends_the_site_and_leaves_nothing(mode):
    wrong, _ = attack(mode, COUNTS[mode])
    assert not wrong, '\n'.join(wrong)
