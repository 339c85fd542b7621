"""Signal handlers of the site that raise an exception while the site stops."""

import os
import signal

import pytest

from tests.kit import Site, eventually
from tests.kit.hostile import PARTS, SERVERS, site_of
from tests.kit.sites import APP, SERVED

#: What a site adds to the webapp.py of tests/kit/hostile.py.
HANDLER = """
import asyncio
import signal


def fail(signum, frame):
    say('mine')
    raise {error}


signal.signal(signal.SIGWINCH, fail)
answer_page = app


def app(environ, start_response):
    with open('serving', 'w') as file:
        file.write(str(os.getpid()))
    return answer_page(environ, start_response)
"""

MODES = {'one process': (), 'workers': ('--workers', '1'), 'reload': ('--reload',)}


def site_with(tmp_path, error, server='waitress', *args):
    files = {'webapp.py': APP + PARTS + HANDLER.format(error=error)}
    return site_of(tmp_path, server, *args, seconds=20, files=files)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('server', SERVERS)
def test_a_request_in_flight_is_answered_and_every_part_stops(tmp_path, server, mode):
    args = MODES[mode]
    with (
        site_with(tmp_path, 'LookupError("mine")', server, *args) as site,
        site.connect() as client,
    ):
        client.send('/slow')
        site.expect('slow')
        site.send(signal.SIGTERM)
        if mode == 'reload':  # the lines of the bus are on the level DEBUG there
            site.expect('Stopping: requests in flight')
        else:
            # The supervisor has a bus, too.
            site.expect('Bus STOPPING', 2 if args else 1)
        for count in (1, 2):
            os.kill(int((tmp_path / 'serving').read_text()), signal.SIGWINCH)
            site.expect('mine', count)
        site.release()
        assert client.receive().body == b'done'
        assert site.wait() == 1, site.report()
    err = site.err.text
    assert 'lifespan closed' in err
    assert "Error in the site's handler of SIGWINCH" in err
    assert 'LookupError: mine' in err
    assert 'cuts' not in err
    eventually(site.has_left_nothing)


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        ('asyncio.CancelledError("mine")', 1),
        ('SystemExit(3)', 3),
        ('KeyboardInterrupt', 0),
    ],
)
def test_no_kind_of_exception_cuts_the_stop(tmp_path, error, code):
    with site_with(tmp_path, error) as site, site.connect() as client:
        client.send('/slow')
        site.expect('slow')
        site.send(signal.SIGTERM)
        site.expect('Bus STOPPING')
        site.send(signal.SIGWINCH)
        site.expect('mine')
        site.release()
        assert client.receive().body == b'done'
        assert site.wait() == code, site.report()
    assert 'lifespan closed' in site.err.text


LISTENERS = """
import os
import signal
import time


def say(text):
    os.write(2, (text + '\\n').encode())


def fail(signum, frame):
    raise LookupError('mine')


def parts(bus, global_conf):
    signal.signal(signal.SIGALRM, fail)
    signal.signal(signal.SIGWINCH, fail)
    bus.subscribe('stop', slow, priority=10)
    bus.subscribe('drain', slow)
    yield
    say('closed')


def slow():
    say('waits')
    os.kill(os.getpid(), signal.SIGWINCH)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(60)
    except LookupError:
        say('woken')


def make(global_conf):
    return lambda environ, start_response: start_response('200 OK', []) and []
"""
INI = (
    SERVED + '[wspbus:main]\nplugins = parts\n[plugin:parts]\nuse = call:webapp:parts\n'
)


def test_a_timer_still_interrupts_the_listener_that_has_set_it(tmp_path):
    with Site(tmp_path, INI, files={'webapp.py': LISTENERS}) as site:
        assert site.stop()[0] == 1, site.report()
    said = [line for line in site.err.text.splitlines() if line[:1].islower()]
    assert said == ['waits', 'woken', 'waits', 'woken', 'closed']
    assert site.err.text.count('LookupError: mine') == 2


def test_an_exception_before_the_stop_and_one_in_it_are_both_logged(tmp_path):
    with site_with(tmp_path, 'LookupError("mine")') as site, site.connect() as client:
        client.send('/slow')
        site.expect('slow')
        site.send(signal.SIGWINCH)
        site.expect('LookupError in the main thread')
        site.expect('Bus STOPPING')
        site.send(signal.SIGWINCH)
        site.expect('mine', 3)
        site.release()
        assert client.receive().body == b'done'
        assert site.wait() == 1, site.report()
    assert site.err.text.count('LookupError: mine') == 2
    assert 'lifespan closed' in site.err.text


#: The signal comes where the function PLACE of the command, or one that it calls, calls
#: os.open or a stream.
AT_THE_ANNOUNCEMENT = """
import os
import sys

PLACE = {place!r}


def interrupt(frame, event, arg):
    names = [one.f_code.co_qualname for one in (frame, frame.f_back) if one]
    if event == 'c_call' and PLACE in names:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGWINCH)


sys.setprofile(interrupt)
"""

#: Functions that expect an OSError of their own: they swallow it, or log another reason.
PLACES = [
    'print_line',
    'runtime_folder',
    'Registration.__init__',
    'Registration.write',
    'Control._open',
    'Control._open_reserve',
]


@pytest.mark.parametrize(
    ('place', 'error', 'code'),
    [
        *((place, 'OSError(5, "mine")', 1) for place in PLACES),
        ('print_line', 'LookupError("mine")', 1),
        ('print_line', 'SystemExit(3)', 3),
    ],
)
def test_an_exception_while_the_site_is_announced_ends_it_in_order(
    tmp_path, place, error, code
):
    text = APP + PARTS + HANDLER.format(error=error)
    text += AT_THE_ANNOUNCEMENT.format(place=place)
    with site_of(tmp_path, 'waitress', seconds=20, files={'webapp.py': text}) as site:
        assert site.wait() == code, site.report()
    assert 'mine' in site.err.text
    assert f'{error.partition("(")[0]} in the main thread' in site.err.text
    assert 'lifespan closed' in site.err.text
    # The log says it of the bus of a program that has no block().
    assert 'automatically' not in site.err.text
