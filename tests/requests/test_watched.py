"""The filter of requests that are watched: their ids, and what the scoreboard shows."""

import threading

import pytest

from paste_wspbus.bus import Bus
from paste_wspbus.ops.health import checks_of
from paste_wspbus.requests.filter import BusFilter
from paste_wspbus.requests.ids import Ids, request_id
from paste_wspbus.requests.scoreboard import Phase
from paste_wspbus.requests.watched import WatchedFilter, WatchedRequests


@pytest.fixture
def bus():
    bus = Bus()
    bus.plugins['requests'] = WatchedRequests()
    return bus


def shown(bus):
    return [(one.phase, one.path) for one in bus.plugins['requests'].board.read()]


def answer(bus, app, **environ):
    """Begin a request; return its environ and its body."""
    environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', **environ}
    return environ, BusFilter.around(app, bus)(environ, lambda *_: None)


def test_without_a_plugin_the_filter_is_the_plain_one():
    assert type(BusFilter.around(str, Bus())) is BusFilter


def test_a_list_is_shown_until_it_is_closed(bus):
    def app(environ, start_response):
        assert shown(bus) == [(Phase.COMPUTING, '/app/page')]
        return [b'1', b'2']

    _, body = answer(bus, app, SCRIPT_NAME='/app', PATH_INFO='/page')
    assert type(BusFilter.around(app, bus)) is WatchedFilter
    assert isinstance(body, list) and body == [b'1', b'2']
    assert shown(bus) == [(Phase.SENDING, '/app/page')]
    body.close()
    body.close()
    assert shown(bus) == [] and not bus.plugins['requests']


def test_a_body_that_is_closed_twice_ends_no_other_request(bus):
    _, first = answer(bus, lambda *_: [b'1'], PATH_INFO='/1')
    first.close()
    _, second = answer(bus, lambda *_: [b'2'], PATH_INFO='/2')
    first.close()
    assert shown(bus) == [(Phase.SENDING, '/2')]
    second.close()
    assert shown(bus) == []


def test_a_stream_computes_until_its_first_part(bus):
    phases = []

    def app(environ, start_response):
        for part in (b'', b'1', b'2'):
            phases.append(shown(bus)[0][0])
            yield part

    _, body = answer(bus, app)
    assert list(body) == [b'', b'1', b'2']
    assert phases == [Phase.COMPUTING, Phase.COMPUTING, Phase.STREAM]
    body.close()
    assert shown(bus) == []


def test_a_body_with_a_length_keeps_it(bus):
    _, body = answer(bus, lambda *_: (b'1', b'2'))
    assert len(body) == 2
    assert list(body) == [b'1', b'2']
    assert shown(bus) == [(Phase.STREAM, '/')]
    body.close()
    assert shown(bus) == []


def test_a_file_keeps_its_type(bus):
    class Wrapper:
        def close(self):
            self.is_closed = True
            assert shown(bus) == [(Phase.CLOSING, '/')]  # a close() that hangs is found

    _, body = answer(bus, lambda *_: Wrapper(), **{'wsgi.file_wrapper': Wrapper})
    assert type(body) is Wrapper
    assert shown(bus) == [(Phase.SENDING, '/')]
    body.close()
    assert body.is_closed and shown(bus) == []


def test_a_request_that_fails_has_ended(bus):
    def app(environ, start_response):
        raise LookupError

    with pytest.raises(LookupError):
        answer(bus, app)
    assert shown(bus) == [] and bus.plugins['requests'].served == 1


def test_after_request_is_published(bus):
    ended = []
    bus.subscribe('after_request', ended.append)
    environ, body = answer(bus, lambda *_: [b''])
    assert ended == []
    body.close()
    assert ended == [environ]


def test_no_request_is_lost_by_threads(bus):
    app = BusFilter.around(lambda *_: [b''], bus)

    def serve():
        for _ in range(500):
            app({'REQUEST_METHOD': 'GET'}, lambda *_: None).close()

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = bus.plugins['requests']
    assert (requests.served, len(requests), shown(bus)) == (2000, 0, [])


# -- ids -------------------------------------------------------------------------------


def test_the_application_and_the_scoreboard_have_the_same_id(bus):
    environ, body = answer(bus, lambda *_: [b''], HTTP_X_REQUEST_ID='mine-1')
    assert environ['wspbus.request_id'] == 'mine-1'
    assert [one.id for one in bus.plugins['requests'].board.read()] == ['mine-1']
    assert [one['id'] for one in bus.plugins['requests'].describe()] == ['mine-1']
    body.close()


def test_the_thread_has_the_id_while_it_handles_the_request(bus):
    seen = []
    _, body = answer(
        bus, lambda *_: seen.append(request_id.get()) or [b''], HTTP_X_REQUEST_ID='i'
    )
    assert request_id.get() == 'i'
    body.close()
    assert (seen, request_id.get()) == (['i'], '')


def test_ids_that_are_made_differ():
    ids, others = Ids(), Ids()
    made = {one.of({}) for one in (ids, others) for _ in range(500)}
    assert len(made) == 1000
    ids.renew()
    assert ids.of({}) not in made
    assert all(len(one) <= 64 for one in made)


TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'


@pytest.mark.parametrize(
    'header, value, taken',
    [
        ('X_REQUEST_ID', 'A.b_c-9', 'A.b_c-9'),
        ('X_REQUEST_ID', 'x' * 64, 'x' * 64),
        ('X_REQUEST_ID', 'x' * 65, None),
        ('X_REQUEST_ID', '', None),
        ('X_REQUEST_ID', 'a b', None),
        ('X_REQUEST_ID', 'a\n', None),
        ('X_REQUEST_ID', 'a\x1b[2J', None),
        ('X_REQUEST_ID', '\xe9', None),
        ('TRACEPARENT', f'00-{TRACE}-00f067aa0ba902b7-01', TRACE),
        ('TRACEPARENT', f'01-{TRACE}-00f067aa0ba902b7-01-more', TRACE),
        ('TRACEPARENT', f'00-{TRACE}-00f067aa0ba902b7-01-more', None),
        ('TRACEPARENT', f'ff-{TRACE}-00f067aa0ba902b7-01', None),
        ('TRACEPARENT', f'00-{"0" * 32}-00f067aa0ba902b7-01', None),
        ('TRACEPARENT', f'00-{TRACE}-{"0" * 16}-01', None),
        ('TRACEPARENT', f'00-{TRACE.upper()}-00f067aa0ba902b7-01', None),
        ('TRACEPARENT', f'00-{TRACE}-00f067aa0ba902b7-01\n', None),
    ],
)
def test_an_id_that_comes_in_counts_only_if_it_is_one(header, value, taken):
    ids = Ids()
    expected = taken or f'{ids.prefix}100'
    assert ids.of({f'HTTP_{header}': value}) == expected


def test_the_header_counts_more_than_the_trace():
    trace = f'00-{TRACE}-00f067aa0ba902b7-01'
    both = {'HTTP_X_REQUEST_ID': 'mine', 'HTTP_TRACEPARENT': trace}
    assert Ids().of(both) == 'mine'
    assert Ids().of({**both, 'HTTP_X_REQUEST_ID': 'no good'}) == TRACE


def test_requests_past_their_deadline_are_a_health_check_that_fails(bus):
    assert checks_of(bus) == []
    requests = bus.plugins['requests']

    def app(environ, start_response):
        requests.overdue.add(shown_numbers(bus)[-1])
        (check,) = checks_of(bus)
        assert (check['name'], check['ok']) == ('overdue', False)
        assert 'has run for 0.0 s' in check['text']
        assert '/app' not in check['text']  # a page that others see shows it
        return [b'1']

    _, body = answer(bus, app, PATH_INFO='/app')
    assert list(body) == [b'1']
    body.close()
    assert checks_of(bus) == []


def shown_numbers(bus):
    return [one.number for one in bus.plugins['requests'].board.read()]
