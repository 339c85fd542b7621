"""What a process says of its plugins, requests and server."""

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.ini.masking import MASK
from paste_wspbus.ops.status import public
from paste_wspbus.process.load import states_of

SECRET = 'correct-horse-battery-staple'


class Failing:
    def __init__(self, text):
        self.text = text

    def wspbus_status(self):
        raise RuntimeError(self.text)


@pytest.mark.parametrize('length', [440, 455, 3970, 3990, 10_000])
def test_no_part_of_a_secret_remains_of_an_error_of_a_plugin(length):
    bus = Bus()
    bus.plugins['shop'] = Failing('x' * length + SECRET)
    text = public(states_of(bus), [SECRET])['shop']['text']
    assert text.startswith('its state is not known: RuntimeError')
    assert SECRET[:7] not in text
    assert (MASK in text) == (length + len(SECRET) <= 4000)
