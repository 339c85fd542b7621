"""The site's own tests, which run where Pylons is: with the fixtures of paste_wspbus."""

import sqlite3
import time

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.frameworks import introduce
from paste_wspbus.testing import composed


@pytest.fixture
def wspbus_ini():
    return 'site.ini'


def test_a_letter_is_in_the_database_and_its_sender_in_the_session(wspbus_site):
    page = wspbus_site.get('/post', {'text': 'Dear & beloved'}).follow()
    assert 'Letter 1 of 1, posted 1: Dear &amp; beloved.' in page
    page = wspbus_site.get('/post', {'text': 'Again'}).follow()
    assert 'Letter 2 of 2, posted 2: Again.' in page
    assert '<a href="/">Bus</a> STARTED' in page


def test_each_application_under_the_urlmap_has_the_bus(wspbus_site):
    for path in ('/', '/old/'):
        facts = wspbus_site.get(path).json
        assert facts['in app_globals'] and facts['in config']


def test_what_app_globals_opened_is_closed_at_stop():
    with composed('site.ini') as site:
        letters = site.resources['letters']
        assert letters.execute('select 1').fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match='closed database'):
        letters.execute('select 1')


def test_a_site_that_is_composed_again_rides_the_new_bus():
    with composed('site.ini') as one, composed('site.ini') as two:
        for site in (one, two):
            assert site.get('/').json['in app_globals']
        assert one.bus is not two.bus


def test_app_globals_are_found_behind_a_layer_that_nobody_can_look_into():
    class Opaque:
        def __init__(self, app):
            self.config, self._hidden = app.config, app

        def __call__(self, environ, start_response):
            return self._hidden(environ, start_response)

    with composed('site.ini#unaware') as site:
        pylons = site.app.app
        app_globals = pylons.config['pylons.app_globals']
        bus = Bus()
        assert introduce(Opaque(pylons), bus) == ['Pylons']
        assert app_globals.bus is bus


def test_app_globals_are_found_where_the_outermost_layer_has_no_configuration():
    with composed('site.ini#unaware') as site:
        pylons = site.app.app
        app_globals = pylons.config['pylons.app_globals']
        del pylons.config
        bus = Bus()
        assert introduce(pylons, bus) == ['Pylons']
        assert app_globals.bus is bus


def test_a_configuration_of_somebody_elses_and_one_that_raises_are_passed_over(caplog):
    class Other:
        config = {'pylons.app_globals': Bus()}

        def __call__(self, environ, start_response):
            raise AssertionError

    class Proxy(Other):
        @property
        def config(self):
            raise RuntimeError('outside of a request')

    bus = Bus()
    assert introduce(Other(), bus) == introduce(Proxy(), bus) == []
    assert caplog.records == []


def test_a_site_without_app_globals_is_one_without_the_bus_there():
    with composed('site.ini#unaware') as site:
        pylons = site.app.app
        pylons.config['pylons.app_globals'] = None
        assert introduce(type('Outer', (), {'config': pylons.config})(), Bus()) == []


def test_both_applications_are_found_in_five_milliseconds(wspbus_site):
    def cost():
        start = time.thread_time()
        assert introduce(wspbus_site.app, wspbus_site.bus) == ['Pylons']
        return time.thread_time() - start

    assert min(cost() for _ in range(20)) < 0.005
