"""What the filter counts: the requests in flight, and those that have ended."""

import contextlib
import threading

from paste_wspbus.bus import Bus
from paste_wspbus.process.load import MAX_REQUESTS, load_of
from paste_wspbus.requests.filter import BusFilter, RequestsInFlight
from paste_wspbus.servers.server import Load


def begin(app, path='/', method='GET'):
    """Begin a request; return its body, whose close() ends it."""
    environ = {'REQUEST_METHOD': method, 'PATH_INFO': path}
    return app(environ, lambda *_: None)


def test_a_request_is_an_object_with_its_thread():
    bus = Bus()
    app = BusFilter(lambda *_: [b''], bus)
    body = begin(app, '/report\x1b[2J', 'POST')
    (request,) = bus.plugins['requests'].describe()
    assert request.pop('age') >= 0
    assert request == {
        'method': 'POST',
        'path': '/report\\x1b[2J',
        'thread': threading.current_thread().name,
        'id': None,
    }
    body.close()
    assert bus.plugins['requests'].describe() == []


def test_the_oldest_request_is_first():
    environs = [{'REQUEST_METHOD': 'GET', 'PATH_INFO': f'/{n}'} for n in range(3)]
    requests = RequestsInFlight({n: (environs[n], 10.0 - n, 0) for n in range(3)})
    assert [one['path'] for one in requests.describe()] == ['/2', '/1', '/0']
    assert {one['thread'] for one in requests.describe()} == {None}


def test_what_has_ended_is_counted_whatever_became_of_it():
    def fail(environ, start_response):
        raise LookupError

    bus = Bus()
    app = BusFilter(lambda *_: [b''], bus)
    requests = bus.plugins['requests']
    bodies = [begin(app) for _ in range(3)]
    assert requests.served == 0
    for body in bodies:
        body.close()
        body.close()
    with contextlib.suppress(LookupError):
        begin(BusFilter(fail, bus))
    assert requests.served == 4


def test_no_request_is_counted_twice_or_lost_by_threads():
    bus = Bus()
    app = BusFilter(lambda *_: [b''], bus)

    def run():
        for _ in range(1000):
            begin(app).close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus.plugins['requests'].served == 4000


# -- what a status says of it ---------------------------------------------------------


def test_the_servers_own_figures_count():
    class Server:
        def load(self):
            return Load(threads=4, busy=3, queued=2)

    bus = Bus()
    BusFilter(lambda *_: [b''], bus)
    bus.plugins['server'] = Server()
    told = load_of(bus)
    assert (told['server_threads'], told['busy'], told['queued']) == (4, 3, 2)


def test_of_a_server_that_nobody_knows_the_threads_of_the_requests_are_known():
    bus = Bus()
    app = BusFilter(lambda *_: [b''], bus)
    bodies = [begin(app), begin(app)]
    told = load_of(bus)
    assert (told['in_flight'], told['busy'], told['server_threads']) == (2, 1, None)
    del bodies


def test_not_all_of_many_requests_are_listed():
    environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/'}
    bus = Bus()
    many = {n: (environ, 0.0, 0) for n in range(MAX_REQUESTS + 5)}
    bus.plugins['requests'] = RequestsInFlight(many)
    told = load_of(bus)
    assert (len(told['requests']), told['in_flight']) == (
        MAX_REQUESTS,
        MAX_REQUESTS + 5,
    )


def test_what_a_site_has_put_in_the_place_of_the_plugins_is_no_error():
    bus = Bus()
    bus.plugins['requests'] = range(3)
    bus.plugins['server'] = object()
    assert load_of(bus)['requests'] == []


def test_the_first_request_is_recorded_and_the_others_pass_it_by():
    bus, asked = Bus(), []

    def app(environ, start_response):
        asked.append(environ['PATH_INFO'])
        if len(asked) == 1:
            raise ValueError('the database is away')
        return []

    wrapped = BusFilter(app, bus)
    wrapped.record_first()
    assert bus.timeline == []
    with contextlib.suppress(ValueError):
        begin(wrapped, '/users/7/secret?token=1')
    assert wrapped.app is app  # so the others cost nothing
    begin(wrapped, '/second').close()
    (call,) = bus.timeline
    assert (call.channel, call.name) == ('request', 'GET /users')
    assert asked == ['/users/7/secret?token=1', '/second']
