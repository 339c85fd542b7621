"""The site's own tests, which run where TurboGears is: with the fixtures of paste_wspbus."""

import sqlite3
import time

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import introduce
from paste_wspbus.frameworks.inside import applications
from paste_wspbus.testing import composed


@pytest.fixture
def wspbus_ini():
    return 'site.ini'


def globals_of(app):
    from tg.wsgiapp import TGApp

    return [one.globals for one in applications(app) if type(one) is TGApp]


def test_a_picture_is_in_the_database_and_who_hung_it_in_the_session(wspbus_site):
    page = wspbus_site.get('/hang', {'title': 'monday & tuesday'}).follow()
    assert 'Picture 1 of 1, hung 1: Monday &amp; Tuesday.' in page
    page = wspbus_site.get('/hang', {'title': 'dusk'}).follow()
    assert 'Picture 2 of 2, hung 2: Dusk.' in page
    assert '<a href="/">Bus</a> STARTED' in page


def test_full_stack_and_minimal_each_have_the_bus_in_globals_of_their_own(wspbus_site):
    for path in ('/', '/counter/'):
        facts = wspbus_site.get(path).json
        assert facts['in app_globals'] and facts['in config']
    front, counter = globals_of(wspbus_site.app)
    assert front is not counter
    assert front.bus is counter.bus is wspbus_site.bus


def test_what_app_globals_opened_is_closed_at_stop():
    with composed('site.ini') as site:
        pictures = site.resources['pictures']
        assert pictures.execute('select 1').fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match='closed database'):
        pictures.execute('select 1')


def test_a_site_that_is_composed_again_rides_the_new_bus():
    with composed('site.ini') as one, composed('site.ini') as two:
        for site in (one, two):
            assert site.get('/').json['in app_globals']
        assert one.bus is not two.bus


def test_an_application_with_an_attribute_of_its_own_does_not_take_the_bus_from_another(
    caplog,
):
    with composed('site.ini#own') as own, composed('site.ini#unaware') as other:
        [taken], [free] = globals_of(own.app), globals_of(other.app)
        both = type('Both', (), {'apps': [own.app, other.app]})()
        bus = Bus()
        caplog.clear()
        assert introduce(both, bus) == ['TurboGears']
        assert free.bus is bus
        assert taken.bus == 'number 12 to the harbour'
        assert len(caplog.records) == 1


def test_both_applications_are_found_in_five_milliseconds(wspbus_site):
    def cost():
        start = time.thread_time()
        assert introduce(wspbus_site.app, wspbus_site.bus) == ['TurboGears']
        return time.thread_time() - start

    assert min(cost() for _ in range(20)) < 0.005
