"""Flask: where its applications have the bus."""

from importlib.metadata import version

import flask
import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import introduce
from paste_wspbus.requests.filter import BusFilter
from tests.kit.guests import Log, Wrapper


def test_flask_has_the_bus_in_its_extensions():
    app, bus = flask.Flask('x'), Bus()
    assert introduce(BusFilter(app, bus), bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


def test_a_subclass_of_flask_is_flask():
    class Shop(flask.Flask):
        pass

    app, bus = Shop('x'), Bus()
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


@pytest.mark.parametrize(
    'own', ['mine', False, 0, {}, Bus()], ids=lambda own: type(own).__name__
)
def test_an_extension_of_the_sites_own_stays_and_is_one_warning(own):
    app, log = flask.Flask('x'), Log()
    app.extensions['wspbus'] = own
    two = flask.Flask('two')
    two.extensions['wspbus'] = own
    assert introduce(Wrapper(apps=[app, two]), Bus(), log) == []
    assert app.extensions['wspbus'] is own
    assert log == [
        (
            30,
            f"Flask {version('Flask')}: app.extensions['wspbus'] is the site's own and "
            'stays as it is; the bus is not there',
        )
    ]


def test_none_is_a_place_kept_free():
    app, bus = flask.Flask('x'), Bus()
    app.extensions['wspbus'] = None
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus


def test_an_application_that_is_composed_again_has_the_new_bus_without_a_warning():
    app, log = flask.Flask('x'), Log()
    first, second = Bus(), Bus()
    introduce(app, first, log)
    introduce(app, first, log)
    introduce(app, second, log)
    assert app.extensions['wspbus'] is second
    assert log == []


def test_one_flask_with_a_name_of_its_own_does_not_take_the_bus_from_another():
    own, other, bus, log = flask.Flask('own'), flask.Flask('other'), Bus(), Log()
    own.extensions['wspbus'] = 'mine'
    assert introduce(Wrapper(apps=[own, other]), bus, log) == ['Flask']
    assert other.extensions['wspbus'] is bus
    assert len(log) == 1


def test_a_bus_that_knows_neither_weak_references_nor_slots_can_be_given():
    class Small:
        __slots__ = ()

        def log(self, message, level):
            raise AssertionError(message)

    app, bus = flask.Flask('x'), Small()
    assert introduce(app, bus) == ['Flask']
    assert introduce(app, bus) == ['Flask']
    assert app.extensions['wspbus'] is bus
