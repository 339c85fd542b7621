"""`egg:paste_wspbus#otel`: spans reach a collector, and no collector holds up a stop."""

import contextlib
import http.server
import socket
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paste_wspbus.bus.calls import Call
from paste_wspbus.errors import ConfigError
from paste_wspbus.ready.otel import OpenTelemetry, _make_spans
from tests.kit import Site, eventually, free_port, run
from tests.kit.workers import FILES, INI, Workers

#: Seconds of a stop that a collector may take at most, and what a busy machine may add.
FLUSH, BUSY = 1, 8


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    import os

    for name in [one for one in os.environ if one.startswith('OTEL_')]:
        monkeypatch.delenv(name)


class Collector:
    """A collector of OTLP over HTTP; it keeps the spans that it gets."""

    def __init__(self):
        self.spans = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    said = {
                        one.key: one.value.string_value or one.value.int_value
                        for one in resource.resource.attributes
                    }
                    for scope in resource.scope_spans:
                        collector.spans += [(said, span) for span in scope.spans]
                collector.path = self.path
                self.send_response(200)
                self.send_header('Content-Length', '0')
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def names(self, **wanted):
        """The names of the spans of a process."""
        return [
            span.name
            for said, span in self.spans
            if all(said.get(key.replace('_', '.')) == wanted[key] for key in wanted)
        ]


@pytest.fixture
def collector():
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.05])
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def ini(url, more='', keys=''):
    head, _, plugins = INI.partition('plugins = ')
    return (
        f'{head}{keys}\nplugins = otel {plugins}\n[plugin:otel]\n'
        f'use = egg:paste_wspbus#otel\nendpoint = {url}\nflush = {FLUSH}s\n{more}'
    )


def files(*args, **kwargs):
    return {**FILES, 'site.ini': ini(*args, **kwargs)}


def worker_of(site):
    (pid,) = [one['pid'] for one in site.workers() if one['name'] == 'worker 1']
    return pid


# -- for real --------------------------------------------------------------------------


def test_each_process_sends_its_load_start_graceful_and_stop(tmp_path, collector):
    """Also those that are forked when the site is loaded already."""
    made = files(collector.url, 'service_name = shop\n', keys='preload = true')
    with Workers(tmp_path, files=made, count=1) as site:
        old = worker_of(site)
        eventually(lambda: 'wspbus start' in collector.names(process_pid=old))
        site.graceful()
        new = worker_of(site)
        assert site.stop()[0] == 0
        assert 'threads' not in site.err.text  # that it started while it was loaded
    assert collector.path == '/v1/traces'
    for pid in (old, new):
        names = collector.names(
            process_pid=pid, service_name='shop', wspbus_process='worker 1'
        )
        for name in (
            'wspbus load',
            'import [app:main]',
            'factory [app:main]',
            'wspbus start',
            'start resource',
            'wspbus stop',
            'stop resource',
        ):
            assert names.count(name) == 1, (name, names)
    assert 'wspbus graceful' in collector.names(process_pid=old)
    spans = {
        span.name: span for said, span in collector.spans if said['process.pid'] == new
    }
    whole, part = spans['wspbus start'], spans['start resource']
    assert part.parent_span_id == whole.span_id and part.trace_id == whole.trace_id
    assert whole.start_time_unix_nano <= part.start_time_unix_nano
    assert part.end_time_unix_nano <= whole.end_time_unix_nano
    assert abs(whole.start_time_unix_nano / 1e9 - time.time()) < 600


def test_a_start_that_fails_sends_its_spans_too(tmp_path, collector):
    plugins = (
        FILES['webapp.py'] + '\ndef bad(bus, global_conf):\n    1 / 0\n    yield\n'
    )
    text = ini(collector.url).replace('plugins = otel', 'plugins = otel bad')
    text += '\n[plugin:bad]\nuse = call:webapp:bad\n'
    told = run(tmp_path, 'site.ini', files={'webapp.py': plugins, 'site.ini': text})
    assert told.code == 1
    spans = {span.name: span for _, span in collector.spans}
    assert spans['start bad'].status.code == 2
    assert spans['wspbus start'].status.message == 'failed: bad'
    assert collector.names(service_name='site')  # the name of the .ini


@contextlib.contextmanager
def hanging():
    """The URL of a collector that accepts connections and never answers."""
    with socket.create_server(('127.0.0.1', 0), backlog=16) as server:
        yield f'http://127.0.0.1:{server.getsockname()[1]}'


@contextlib.contextmanager
def absent():
    yield f'http://127.0.0.1:{free_port()}'


@pytest.mark.parametrize('collector', [hanging, absent])
def test_no_collector_holds_up_a_stop(tmp_path, collector):
    with collector() as url, Site(tmp_path, None, 'site.ini', files=files(url)) as site:
        assert site.get('/log').status == 200
        began = time.monotonic()
        code = site.stop()[0]
        assert (code, time.monotonic() - began < FLUSH + BUSY) == (0, True)
        if collector is hanging:
            assert 'The last spans were not sent within 1 s (flush)' in site.err.text


def test_the_flush_ends_before_the_deadline_of_the_stop(tmp_path):
    """However long the .ini lets it wait."""
    with hanging() as url:
        text = ini(url, keys='stop_timeout = 3').replace('flush = 1s', 'flush = 60s')
        made = {**FILES, 'site.ini': text}
        with Site(tmp_path, None, 'site.ini', files=made) as site:
            assert site.stop()[0] == 0  # and not 70


def test_a_library_that_is_missing_is_one_line(tmp_path):
    hides = 'import sys\nsys.modules["opentelemetry.exporter"] = None\n'
    made = {**files('http://127.0.0.1:1'), 'sitecustomize.py': hides}
    told = run(tmp_path, 'site.ini', files=made, env={'PYTHONPATH': str(tmp_path)})
    assert told.code == 2
    assert told.err.text == (
        'site.ini [plugin:otel] use: it needs OpenTelemetry, which is not installed: '
        "pip install 'paste_wspbus[otel]'\n"
    )


# -- what is decided -------------------------------------------------------------------


def spans_of(calls, left_out=0):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    _make_spans(provider.get_tracer('test'), 'start', calls, left_out)
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_times_of_spans_are_exact_also_if_the_clock_was_set():
    now = time.monotonic()
    calls = [
        Call('start', 'second', now - 8, 3.0, 'failed', start=1.0),
        Call('start', 'first', now - 10, 2.0, start=1e9),
    ]
    spans = spans_of(calls, left_out=7)
    whole = spans['wspbus start']
    seconds = {
        name: (
            (span.start_time - whole.start_time) / 1e9,
            (span.end_time - span.start_time) / 1e9,
        )
        for name, span in spans.items()
    }
    assert seconds['wspbus start'] == (0, pytest.approx(5))
    assert seconds['start first'] == (0, pytest.approx(2))
    assert seconds['start second'] == (pytest.approx(2), pytest.approx(3))
    assert whole.attributes['wspbus.calls_left_out'] == 7
    assert whole.status.description == 'failed: second'
    assert spans['start second'].attributes['wspbus.outcome'] == 'failed'


class Hangs(SpanExporter):
    """It never returns."""

    def __init__(self):
        self.released = threading.Event()

    def export(self, spans):
        self.released.wait()

    def shutdown(self):
        pass


def plugin(bus, **keys):
    return OpenTelemetry(bus, {'__file__': '/srv/shop.ini'}, **keys)


def provider_with(exporter):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def test_an_exporter_that_hangs_is_left_to_itself(bus, log):
    hangs = Hangs()
    otel = plugin(bus, flush=0.2)
    otel.provider, otel._is_own = provider_with(hangs), True
    bus.subscribe('start', lambda: None)
    otel.subscribe()
    bus.start()
    began = time.monotonic()
    bus.exit()
    assert 0.2 <= time.monotonic() - began < BUSY
    assert any('not sent within 0.2 s (flush)' in str(line) for line in log)
    hangs.released.set()


def test_a_site_starts_also_if_no_spans_can_be_sent(bus, log):
    otel = plugin(bus)
    otel._make_exporter = lambda: 1 / 0
    otel.subscribe()
    bus.start()
    bus.exit()
    assert any('No spans are sent: ZeroDivisionError' in str(line) for line in log)


def test_a_lifespan_that_is_added_late_has_a_span_of_its_own(bus):
    exporter = InMemorySpanExporter()
    otel = plugin(bus)
    otel.provider = TracerProvider(shutdown_on_exit=False)
    otel.provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel.subscribe()
    bus.subscribe('start', lambda: None)
    bus.start()

    @bus.lifespan()
    def late():
        yield

    bus.exit()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names.count('wspbus start') == names.count('wspbus late start') == 1
    assert 'start late' in names and 'stop late' in names


def test_a_hurried_stop_does_not_wait(bus):
    hangs = Hangs()
    otel = plugin(bus, flush=60)
    otel.provider, otel._is_own = provider_with(hangs), True
    otel.subscribe()
    bus.start()
    bus.subscribe('stop', bus.hurry)
    began = time.monotonic()
    bus.exit()
    assert time.monotonic() - began < BUSY
    hangs.released.set()


def test_a_call_becomes_one_span_and_dropped_calls_are_counted(bus):
    exporter = InMemorySpanExporter()
    otel = plugin(bus)
    otel.provider = TracerProvider(shutdown_on_exit=False)
    otel.provider.add_span_processor(SimpleSpanProcessor(exporter))
    bus.calls.record('start', 'one', time.monotonic(), 0.1)
    otel._send_spans()
    otel._send_spans()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ['start one', 'wspbus start']
    exporter.clear()
    for number in range(1500):
        bus.calls.record('start', f'no {number}', time.monotonic(), 0.1)
    otel._send_spans()
    spans = exporter.get_finished_spans()
    assert len(spans) == 1001
    assert spans[-1].attributes['wspbus.calls_left_out'] == 500


def test_the_environment_says_where_spans_go(bus, monkeypatch):
    monkeypatch.setenv('OTEL_TRACES_EXPORTER', 'none')
    assert plugin(bus)._make_exporter is None
    monkeypatch.setenv('OTEL_TRACES_EXPORTER', 'console')
    otel = plugin(bus, endpoint='http://collector.example:4318')
    assert type(otel._make_exporter()).__name__ == 'ConsoleSpanExporter'
    monkeypatch.setenv('OTEL_TRACES_EXPORTER', 'zipkin')
    with pytest.raises(ConfigError, match='asks for zipkin: install the package'):
        plugin(bus)
    monkeypatch.setenv('OTEL_TRACES_EXPORTER', 'otlp')
    monkeypatch.setenv('OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc')
    with pytest.raises(ConfigError, match='asks for otlp_proto_grpc'):
        plugin(bus)
    monkeypatch.delenv('OTEL_EXPORTER_OTLP_PROTOCOL')
    monkeypatch.setenv('OTEL_SDK_DISABLED', 'true')
    otel = plugin(bus)
    otel.begin()
    assert otel.provider is None


def test_the_name_of_the_service_is_that_of_the_ini_if_nothing_else_says_it(
    bus, monkeypatch
):
    assert plugin(bus)._service == 'shop'
    assert plugin(bus, service_name='till')._service == 'till'
    monkeypatch.setenv('OTEL_SERVICE_NAME', 'other')
    assert plugin(bus)._service == ''
