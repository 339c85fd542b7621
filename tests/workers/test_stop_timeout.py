"""stop_timeout is for the whole site: supervisor, workers, site plugins and drain delay."""

import contextlib
import signal

import pytest

from tests.kit.hostile import PARTS, Hostile, site_of, stop
from tests.kit.processes import freeze
from tests.kit.sites import APP, ask
from tests.kit.supervised import graceful

PID_FILE = ('--pid-file', 'site.pid')

#: An application that says who answers, beside the streams.
WHO = """

plain = app


def app(environ, start_response):
    if environ['PATH_INFO'] == '/who':
        start_response('200 OK', [('Content-Type', 'application/json')])
        return [b'{"pid": %d}' % os.getpid()]
    return plain(environ, start_response)


def at_site(bus, global_conf, **conf):
    say('site plugin opened')
    yield
    say('site plugin closed')

"""


def site(folder, *args, keys='', sections='', **kwargs):
    files = {'webapp.py': APP + PARTS + WHO}
    keys += f'\n\n{sections}' if sections else ''
    return site_of(
        folder, 'waitress', *PID_FILE, *args, keys=keys, files=files, **kwargs
    )


def test_a_worker_that_is_stopped_does_not_make_the_stop_longer(tmp_path):
    with site(tmp_path, workers=2, seconds=7, keys='drain_delay = 5') as served:
        frozen = ask(served, '/who')['pid']
        freeze(frozen)
        assert stop(served, within=7.3) == 70, served.report()
    assert f'(process {frozen}) did not stop in time: it is killed' in served.err.text
    assert served.err.text.count('lifespan closed') == 1


def test_a_worker_that_hangs_does_not_keep_the_site_plugins_from_being_closed(tmp_path):
    sections = '[plugin:once]\nuse = call:webapp:at_site\n'
    with site(
        tmp_path, workers=2, seconds=4, keys='site_plugins = once', sections=sections
    ) as served:
        frozen = ask(served, '/who')['pid']
        freeze(frozen)
        assert stop(served, within=4.3) == 70, served.report()
    assert 'site plugin closed' in served.err.text


def test_a_drain_delay_that_is_too_long_leaves_time_for_the_rest(tmp_path):
    with site(tmp_path, workers=2, seconds=4, keys='drain_delay = 3.9') as served:
        assert stop(served, within=4) == 0, served.report()
    assert served.err.text.count('lifespan closed') == 2


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('seconds', [1, 2])
def test_a_short_stop_timeout_closes_everything_too(tmp_path, workers, seconds):
    with (
        site(tmp_path, workers=workers, seconds=seconds) as served,
        contextlib.ExitStack() as stack,
    ):
        Hostile(served, stack).all('waitress')
        assert stop(served, within=seconds + 0.3) == 0, served.report()
    assert served.err.text.count('lifespan closed') == max(workers, 1)


def test_streams_that_a_graceful_cuts_are_counted_and_are_no_failure(tmp_path):
    with (
        site(tmp_path, workers=2, seconds=3) as served,
        contextlib.ExitStack() as stack,
    ):
        hostile = Hostile(served, stack)
        for _ in range(3):
            hostile.events()
        said = graceful(served)
        assert '3 streams cut' in said
        assert 'Generation 2 serves' in said
        hostile.half_a_body()
        hostile.events()
        assert '1 stream and 1 request cut' in graceful(served)
        assert 'cut' not in graceful(served)
        assert stop(served, within=3) == 0, served.report()
    assert 'did not stop in time' not in served.err.text


def test_a_request_that_computes_does_not_fail_a_graceful(tmp_path):
    with (
        site(tmp_path, workers=2, seconds=3) as served,
        served.connect() as client,
    ):
        client.send('/compute')
        served.expect('computing')
        assert '1 request cut' in graceful(served)
        assert stop(served, within=3) == 0, served.report()


def test_a_reload_cuts_a_stream_and_serves(tmp_path):
    with (
        site(tmp_path, '--reload', seconds=3) as served,
        contextlib.ExitStack() as stack,
    ):
        Hostile(served, stack).events()
        before = ask(served, '/who')['pid']
        served.send(signal.SIGHUP)
        served.expect('lifespan opened', 2)
        assert ask(served, '/who')['pid'] != before
        Hostile(served, stack).events()
        Hostile(served, stack).half_a_body()
        assert stop(served, within=3) == 0, served.report()
    assert served.err.text.count('lifespan closed') == 2
    assert 'GET /events, in flight for' in served.err.text
