"""The quick form of `tests.attacks.control`: wrong requests, and a site that serves on."""

import pytest

from tests.attacks.control import MODES, attack


@pytest.mark.parametrize('mode', MODES)
def test_wrong_requests_on_the_control_socket_harm_nothing(tmp_path, mode):
    wrong = attack(tmp_path, mode, 200)
    assert not wrong, '\n'.join(wrong)
