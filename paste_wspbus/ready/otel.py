"""`egg:paste_wspbus#otel`: the start, the stop and each listener as spans of OpenTelemetry."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from importlib import metadata

from paste_wspbus.errors import ConfigError, SettingError
from paste_wspbus.ini.factories import making
from paste_wspbus.plugins import Plugin, on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.bus.calls import Call
    from paste_wspbus.plugins.kinds import Seconds, Url

#: The name of the instrumentation in each span.
SCOPE = 'paste_wspbus'

#: From a channel to the span around its calls; calls of other channels are no spans.
AROUND = {
    'import': 'load',
    'factory': 'load',
    'start': 'start',
    'graceful': 'graceful',
    'drain': 'stop',
    'stop': 'stop',
    'exit': 'stop',
}

#: The span around lifespans that were added to a site that had started; and the beginning of
#: the names of listeners of this package, which need no such span.
LATE, OURS = 'late start', 'paste_wspbus.'

#: Seconds between two looks, while the last spans are sent, whether the stop must hurry.
LOOK = 0.05

#: The path of traces below the address of a collector (OTLP/HTTP).
TRACES = '/v1/traces'

#: Before everything else of the site, and after it.
FIRST, LAST = 1, float('inf')


class OpenTelemetry(Plugin):
    """Sends spans to a collector: of the load, the start, graceful, the stop, each listener.

    The variables OTEL_* of the environment configure it; the keys here come before them.
    The exporter and its thread are made when the site starts, in each process. The end
    of the stop sends what is left. This takes at most ``flush``, and at most half of what
    remains of stop_timeout.

    :param endpoint: the address of the collector; OTEL_EXPORTER_OTLP_ENDPOINT without it.
    :param service_name: without it OTEL_SERVICE_NAME, or the name of the .ini.
    :param flush: seconds that the end of a stop waits for the collector at most.
    :raises ConfigError: if a library is not installed.
    """

    def __init__(
        self,
        bus: Bus,
        global_conf: dict[str, str],
        endpoint: Url | None = None,
        service_name: str = '',
        flush: Seconds = 2,  # type: ignore[assignment]
    ) -> None:
        super().__init__(bus)
        self._place = making[-1] if making else (None, None)
        self._make_exporter = _exporter(self._wrong, endpoint)
        file = os.path.basename(global_conf.get('__file__', ''))
        self._service = service_name or _service_of(file)
        self._limit = float(flush)
        #: The provider of tracers in this process; None: it has not started, or has stopped.
        self.provider: Any = None
        self._is_own = False
        #: The last call that has become a span, and how many calls there were then.
        self._last: Call | None = None
        self._count = 0
        #: Whether the span of the start was sent.
        self._has_started = False

    def _wrong(self, problem: str) -> ConfigError:
        file, section = self._place
        return ConfigError(file, problem, section=section, key='use')

    # -- when ------------------------------------------------------------------------

    @on('start', priority=FIRST)
    def begin(self) -> None:
        """Make what sends spans, in the process that starts; a failure is only logged."""
        if self.provider is not None or _is_disabled():
            return
        try:
            self.provider, self._is_own = self._provide()
        except Exception as error:  # such as a wrong OTEL_* variable
            self.bus.log(f'No spans are sent: {type(error).__name__}: {error}', 40)

    @on('start', priority=LAST)
    def started(self) -> None:
        """Send the spans of the load and of the start."""
        self._send_spans()
        self._has_started = True

    @on('graceful', priority=LAST)
    def renewed(self) -> None:
        """Send the spans of 'graceful'."""
        self._send_spans()

    @on('exit', priority=LAST)
    def end(self) -> None:
        """Send the spans of the stop, and everything that was not sent yet."""
        if self.provider is None:
            return
        self._send_spans()
        provider, self.provider, self._has_started = self.provider, None, False
        seconds = self._time_to_flush()
        if not self._flush(provider, seconds):
            line = f'The last spans were not sent within {seconds:.3g} s (flush)'
            self.bus.log(line, 30)

    # -- what ------------------------------------------------------------------------

    def _provide(self) -> tuple[Any, bool]:
        """Return the provider of the site, if it has one of the SDK; else make one."""
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        there = trace.get_tracer_provider()
        if isinstance(there, TracerProvider) and not hasattr(there, 'wspbus'):
            return there, False
        resource = Resource.create(_attributes(self._service))
        # An exit handler of the library would wait for the collector without a limit.
        made: Any = TracerProvider(resource=resource, shutdown_on_exit=False)
        made.wspbus = True
        if self._make_exporter is not None:
            made.add_span_processor(BatchSpanProcessor(self._make_exporter()))
        if not isinstance(there, TracerProvider):  # after a second start, it stays
            trace.set_tracer_provider(made)
        return made, True

    def _send_spans(self) -> None:
        """Make spans of the calls that came since the last time."""
        if self.provider is None:
            return
        calls = []
        for call in reversed(self.bus.timeline):
            if call is self._last:
                break
            calls.append(call)
        calls.reverse()
        count = self.bus.calls.count
        left_out = max(count - self._count - len(calls), 0)
        self._count, self._last = count, calls[-1] if calls else self._last
        groups: dict[str, list[Call]] = {}
        for call in calls:
            if call.channel in AROUND and not call.name.startswith(f'{__name__}.'):
                groups.setdefault(self._around(call), []).append(call)
        tracer = self.provider.get_tracer(SCOPE)
        for name, group in groups.items():
            if name != LATE or not all(call.name.startswith(OURS) for call in group):
                _make_spans(tracer, name, group, left_out)

    def _around(self, call: Call) -> str:
        is_late = call.channel == 'start' and self._has_started
        return LATE if is_late else AROUND[call.channel]

    def _time_to_flush(self) -> float:
        """Return the seconds for the last spans; others also need what remains of the stop."""
        if self.bus.hurried:
            return 0.0
        remaining = self.bus.deadline.until - time.monotonic()
        return max(min(self._limit, remaining / 2), 0.0)

    def _flush(self, provider: Any, seconds: float) -> bool:
        """Send everything; return whether that was done in time.

        The library's own limits do not count while it waits for a collector
        (opentelemetry-python#4568): another thread waits, which ends with the process.
        """
        done = threading.Event()

        def flush() -> None:
            try:
                provider.force_flush(int(seconds * 1000))
                if self._is_own:
                    provider.shutdown()
            except Exception as error:
                self.bus.log(f'The last spans were not sent: {error}', 30)
            done.set()

        try:
            threading.Thread(target=flush, name='wspbus spans', daemon=True).start()
        except RuntimeError:  # the interpreter ends: it starts no more threads
            return False
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0 and not self.bus.hurried:
            if done.wait(min(remaining, LOOK)):
                return True
        return done.is_set()


def _make_spans(tracer: Any, name: str, calls: Iterable[Call], left_out: int) -> None:
    """Make a span around calls, and one for each of them."""
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Status, StatusCode

    calls = sorted(calls, key=lambda call: call.since)
    # Both clocks are read now: the one that people set may have been set meanwhile.
    offset = time.time_ns() - time.monotonic_ns()

    def at(moment: float) -> int:
        return int(moment * 1e9) + offset

    whole = tracer.start_span(
        f'wspbus {name}', context=Context(), start_time=at(calls[0].since)
    )
    failed = [call.name for call in calls if call.outcome != 'ok']
    if failed:
        whole.set_status(Status(StatusCode.ERROR, f'failed: {", ".join(failed)}'))
    if left_out:
        whole.set_attribute('wspbus.calls_left_out', left_out)
    context = trace.set_span_in_context(whole, Context())
    for call in calls:
        span = tracer.start_span(
            f'{call.channel} {call.name}',
            context=context,
            start_time=at(call.since),
            attributes={
                'wspbus.channel': call.channel,
                'wspbus.listener': call.name,
                'wspbus.outcome': call.outcome,
                'thread.name': call.thread,
            },
        )
        if call.outcome != 'ok':
            span.set_status(Status(StatusCode.ERROR, call.outcome))
        span.end(at(call.since + call.duration))
    whole.end(at(max(call.since + call.duration for call in calls)))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check that what sends the spans is installed.

    :raises SettingError: if it is not.
    """
    _exporter(lambda problem: SettingError('use', problem), settings.get('endpoint'))


# -- the environment -------------------------------------------------------------------


def _is_disabled() -> bool:
    return os.environ.get('OTEL_SDK_DISABLED', '').strip().lower() == 'true'


def _exporter(
    wrong: Callable[[str], Exception], endpoint: str | None
) -> Callable[[], Any] | None:
    """Return what makes the exporter that the environment names; None if there is none.

    :param wrong: makes the error for a problem.
    :raises Exception: if it is not installed: what ``wrong`` makes.
    """
    name = os.environ.get('OTEL_TRACES_EXPORTER', '').strip() or 'otlp'
    if name == 'none':
        return None
    protocol = 'http'
    if name == 'otlp':
        for key in (
            'OTEL_EXPORTER_OTLP_TRACES_PROTOCOL',
            'OTEL_EXPORTER_OTLP_PROTOCOL',
        ):
            if (said := os.environ.get(key, '').strip()) == 'grpc':
                protocol = said
            if said:
                break
        name = f'otlp_proto_{protocol}'
    try:
        metadata.distribution('opentelemetry-sdk')
        found = metadata.entry_points(group='opentelemetry_traces_exporter', name=name)
        exporter: Any = next(iter(found)).load()
    except (metadata.PackageNotFoundError, StopIteration, ImportError):
        if name in ('otlp_proto_http', 'console'):
            how = "pip install 'paste_wspbus[otel]'"
        else:
            how = f'OTEL_* asks for {name}: install the package that has this exporter'
        raise wrong(f'it needs OpenTelemetry, which is not installed: {how}') from None
    if endpoint is None or not name.startswith('otlp_'):
        return exporter  # type: ignore[no-any-return]
    url = endpoint.rstrip('/')
    if protocol == 'http' and not url.endswith(TRACES):
        url += TRACES
    return lambda: exporter(endpoint=url)


def _service_of(file: str) -> str:
    """Return the name of the service; '' if the environment has it."""
    named = 'service.name=' in os.environ.get('OTEL_RESOURCE_ATTRIBUTES', '')
    if os.environ.get('OTEL_SERVICE_NAME') or named:
        return ''
    return os.path.splitext(file)[0] or 'wspserve'


def _attributes(service: str) -> dict[str, Any]:
    """Return what each span says of this process."""
    said = {'process.pid': os.getpid(), 'service.instance.id': str(uuid.uuid4())}
    if 'service.instance.id=' in os.environ.get('OTEL_RESOURCE_ATTRIBUTES', ''):
        del said['service.instance.id']
    if service:
        said['service.name'] = service
    name = logging.makeLogRecord({}).processName  # such as 'worker 2'
    if name not in (None, 'MainProcess'):
        said['wspbus.process'] = name
    return said
