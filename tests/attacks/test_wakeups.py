"""The quick form of `tests.attacks.wakeups`: no request waits for a wake-up that is lost."""

import pytest

from tests.attacks.wakeups import attack


@pytest.mark.parametrize(('clients', 'threads'), [(6, 4), (3, 1), (1, 2)])
def test_each_request_is_answered_whatever_its_delay(tmp_path, clients, threads):
    answered, wrong = attack(tmp_path, 3000, clients, threads)
    assert not wrong, '\n'.join(wrong)
    assert answered >= 3000
