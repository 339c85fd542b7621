"""The quick form of `tests.attacks.clients`: no client can hold up a stop."""

import pytest

from tests.attacks.clients import SERVERS, attack


@pytest.mark.parametrize('args', [[], ['--workers', '2']], ids=str)
@pytest.mark.parametrize('server', SERVERS)
def test_hostile_clients_do_not_decide_how_a_stop_ends(server, args):
    wrong, _ = attack(server, 1, clients=60, args=args)
    assert not wrong, '\n'.join(wrong)
