"""Requests are counted once, with their route, before the client can know the answer."""

import io

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.requests.filter import BusFilter
from paste_wspbus.requests.ledger import Series
from paste_wspbus.requests.metered import UNKNOWN, cut, meter_of

BUSES = []


@pytest.fixture(autouse=True)
def stop():
    yield
    while BUSES:
        BUSES.pop().exit()


def start_response(status, headers, exc_info=None):
    pass


class Site:
    """An application that is counted; it answers with ``body`` and ``headers``."""

    def __init__(self, body, status='200 OK', headers=()):
        self.body, self.status, self.headers = body, status, headers
        self.bus = Bus()
        self.meter = meter_of(self.bus)
        self.bus.start()
        BUSES.append(self.bus)
        self.filter = BusFilter.around(self.app, self.bus)

    def app(self, environ, start_response):
        if isinstance(self.body, BaseException):
            raise self.body
        start_response(self.status, list(self.headers))
        return self.body

    def ask(self, path='/', method='GET', **environ):
        environ |= {'PATH_INFO': path, 'SCRIPT_NAME': '', 'REQUEST_METHOD': method}
        return self.filter(environ, start_response)

    def counts(self):
        found = self.meter.ledger.read()
        return {
            series: sum(numbers[:-1])
            for series, numbers in found.items()
            if series.status != 'start'
        }


HOME = Series('GET', '2xx', '/')


@pytest.mark.parametrize('body', [[b'a'], (b'a', b'b'), []])
def test_a_body_that_is_complete_is_counted_before_the_server_gets_it(body):
    site = Site(body)
    answer = site.ask()
    assert site.counts() == {HOME: 1}
    assert list(answer) == list(body)
    answer.close()
    answer.close()
    assert site.counts() == {HOME: 1}


@pytest.mark.parametrize(
    ('method', 'status'),
    [('HEAD', '200 OK'), ('GET', '304 Not Modified'), ('PUT', '204 No Content')],
)
def test_a_response_without_a_body_is_counted_before_its_headers_are_sent(
    method, status
):
    site = Site(iter([b'']), status)
    site.ask(method=method)
    assert site.counts() == {Series(method, f'{status[0]}xx', '/'): 1}


def test_a_stream_of_known_length_is_counted_before_its_last_part():
    site = Site(iter([b'ab', b'', b'c', b'']), headers=[('content-LENGTH', '3')])
    parts = iter(site.ask())
    assert [next(parts), next(parts)] == [b'ab', b'']
    assert site.counts() == {}
    assert next(parts) == b'c'
    assert site.counts() == {HOME: 1}
    assert list(parts) == [b'']
    assert site.counts() == {HOME: 1}


def test_a_stream_of_unknown_length_is_counted_at_its_end():
    site = Site(iter([b'a', b'b']))
    answer = site.ask()
    parts = iter(answer)
    assert [next(parts), next(parts)] == [b'a', b'b']
    assert site.counts() == {}
    assert list(parts) == []
    assert site.counts() == {HOME: 1}
    answer.close()
    assert site.counts() == {HOME: 1}


def test_a_stream_that_the_client_leaves_is_counted_when_it_is_closed():
    closed = []

    class Body:
        def __iter__(self):
            return iter([b'a', b'b'])

        def close(self):
            closed.append(True)

    site = Site(Body())
    answer = site.ask()
    next(iter(answer))
    answer.close()
    assert closed == [True]
    assert site.counts() == {HOME: 1}


def test_an_application_that_fails_is_counted_as_5xx():
    site = Site(ValueError('no'))
    with pytest.raises(ValueError):
        site.ask()
    assert site.counts() == {Series('GET', '5xx', '/'): 1}


def test_a_generator_that_says_its_status_late_is_counted_with_it():
    site = Site(None)

    def app(environ, start_response):
        start_response('201 Created', [('Content-Length', '1')])
        yield b'a'

    answer = site.meter.around(app)(
        {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', 'SCRIPT_NAME': ''}, start_response
    )
    parts = iter(answer)
    assert next(parts) == b'a'
    assert site.counts() == {HOME: 1}


def test_a_file_is_counted_before_the_server_gets_it_and_stays_a_file():
    class File:
        def __init__(self, file):
            self.file = file

        def __iter__(self):
            return iter([self.file.read()])

    body = File(io.BytesIO(b'a'))
    site = Site(body)
    answer = site.ask(**{'wsgi.file_wrapper': File})
    assert answer is body
    assert site.counts() == {HOME: 1}


def test_a_request_that_passes_two_layers_is_counted_once():
    site = Site([b'a'])
    site.filter = BusFilter.around(site.filter, site.bus)
    site.ask()
    assert site.counts() == {HOME: 1}


def test_an_application_that_changes_the_method_and_the_path_is_counted_as_asked():
    site = Site([b'a'])

    def app(environ, start_response):
        environ['REQUEST_METHOD'] = 'PUT'
        environ['SCRIPT_NAME'], environ['PATH_INFO'] = '/shop', '/item'
        return site.app(environ, start_response)

    site.filter = BusFilter.around(app, site.bus)
    site.ask('/shop/item', 'POST')
    assert site.counts() == {Series('POST', '2xx', '/shop/...'): 1}


@pytest.mark.parametrize('status', ['404 Not Found', '405 Method Not Allowed'])
def test_paths_that_the_site_does_not_have_are_one_route(status):
    site = Site([b''], status)
    for number in range(5):
        site.ask(f'/wp-{number}.php')
    assert site.counts() == {Series('GET', '4xx', UNKNOWN): 5}


def test_a_route_with_a_newline_and_quotes_is_kept_as_it_is():
    site = Site([b''])
    site.ask('/a"\\\n')
    assert site.counts() == {Series('GET', '2xx', '/a"\\\n'): 1}


@pytest.mark.parametrize(
    ('path', 'shown'),
    [
        ('/', '/'),
        ('', ''),
        ('/a', '/a'),
        ('/a/', '/a/'),
        ('/reset/token-123', '/reset/...'),
        ('/reset/user/token-123', '/reset/...'),
        ('//a/b', '//...'),
    ],
)
def test_an_unknown_path_is_cut_after_its_first_segment(path, shown):
    assert cut(path) == shown


def test_a_request_is_answered_although_it_cannot_be_counted():
    site = Site([b'a'])
    lines = []
    site.bus.subscribe('log', lambda line, level: lines.append(line))

    def fail(*args):
        raise ValueError('the sink\nfails')

    site.meter.sinks.append(fail)
    assert list(site.ask()) == [b'a']
    assert list(site.ask()) == [b'a']
    assert [line for line in lines if 'Metrics' in line] == [
        "Metrics: a request was not counted: 'ValueError: the sink\\nfails'"
    ]


def test_too_many_routes_are_told_once():
    site = Site([b''])
    lines = []
    site.bus.subscribe('log', lambda line, level: lines.append(line))
    for number in range(1500):
        site.ask(f'/{number}')
    told = [line for line in lines if 'Metrics' in line]
    assert len(told) == 1 and 'more than 850 combinations' in told[0]


def test_the_starts_of_components_are_counted():
    bus = Bus()
    bus.subscribe('start', lambda: None)
    meter = meter_of(bus)

    @bus.lifespan(name='pool')
    def pool():
        yield

    bus.start()
    started = {one.route for one in meter.ledger.read() if one.status == 'start'}
    assert 'pool' in started
    assert not any('Meter' in name for name in started)
    bus.exit()


def test_a_second_start_counts_each_component_once_more():
    bus = Bus()
    meter = meter_of(bus)
    meter.around(lambda environ, start_response: [])
    bus.lifespan(lambda: iter([None]), name='pool')
    for _ in range(3):
        bus.start()
        bus.stop()
    bus.exit()
    pool = Series('', 'start', 'pool')
    assert sum(meter.ledger.read()[pool][:-1]) == 3


def test_an_application_that_was_wrapped_before_somebody_wants_metrics_is_counted():
    bus = Bus()
    site = Site([b'a'])
    filtered = BusFilter.around(site.app, bus)
    meter = meter_of(bus)
    bus.start()
    BUSES.append(bus)
    environ = {'PATH_INFO': '/', 'SCRIPT_NAME': '', 'REQUEST_METHOD': 'GET'}
    assert list(filtered(environ, start_response)) == [b'a']
    assert meter.ledger.read()[HOME]


def test_without_metrics_nothing_is_between_the_filter_and_the_application():
    bus = Bus()
    app = lambda environ, start_response: []  # noqa: E731
    assert BusFilter.around(app, bus).app is app
