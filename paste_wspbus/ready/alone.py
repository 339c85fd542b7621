"""A process of its own for a function of the site: both ends of it.

The parent keeps the standard input of the child open. The child first reads from it what it
is to run. When it ends, the child sets the event of the function: the parent has closed it,
or is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

from paste_wspbus.errors import WSPBusError
from paste_wspbus.forks import close_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds that a function has to end when its parent is gone.
ORPHAN = 10.0


class Alone:
    """The parent's end.

    :param function: MODULE:FUNCTION.
    :param file: the .ini, which may set up logging; None if there is none.
    :param vars: the variables of that .ini.
    """

    def __init__(
        self, function: str, file: str | None, vars: Mapping[str, str]
    ) -> None:
        self._order = {'function': function, 'file': file, 'vars': dict(vars)}
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the process.

        :raises OSError: if the system starts no more processes.
        """
        words = [python(), '-P', '-m', 'paste_wspbus.ready.alone']
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE)
        self.pid = self._process.pid
        # A child that the site forks would keep it open after the end of this process.
        close_in_child(self, Alone.ask_to_end)
        line = json.dumps({**self._order, 'path': sys.path, 'parent': os.getpid()})
        self._send(line.encode() + b'\n')

    def _send(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:  # it has ended already
            pass

    def ask_to_end(self) -> None:
        """Let the child set the event of the function."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()

    def wait(self) -> str:
        """Wait for its end; return how it ended."""
        assert self._process is not None
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if code < 0:
            try:
                return f'its process ended by {signal.Signals(-code).name}'
            except ValueError:
                return f'its process ended by signal {-code}'
        return f'its process ended with exit code {code}'


def python() -> str:
    """Return the program of Python; under uWSGI, `sys.executable` is that of uWSGI."""
    name = os.path.basename(sys.executable or '')
    if name.lower().startswith(('python', 'pypy')):
        return sys.executable
    return os.path.join(sys.prefix, 'bin', 'python3')


def main() -> int:
    """Run the function that the first line of the standard input names; return an exit code."""
    source = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(source, 'rb', buffering=0) as stream:
        return _run(stream)


def _run(stream) -> int:  # type: ignore[no-untyped-def]
    line = b''
    while not line.endswith(b'\n'):
        came = stream.read(1 << 16)
        if not came:
            return 0
        line += came
    order = json.loads(line)
    sys.path[:] = order['path']
    stops = threading.Event()
    # Ctrl-C reaches all processes of a terminal: the parent says when this one ends.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stops.set())

    def watch() -> None:
        while stream.read(1):
            pass
        stops.set()
        while os.getppid() == order['parent']:
            time.sleep(0.5)  # the parent decides how long it waits
        time.sleep(ORPHAN)
        os._exit(1)

    threading.Thread(target=watch, name='parent', daemon=True).start()
    if order['file'] is not None:
        try:
            _configure_logging(order['file'], order['vars'])
        except WSPBusError as error:  # a deployment has left a wrong .ini
            print(error, file=sys.stderr)
    return _call(order['function'], stops)


def _configure_logging(file: str, vars: Mapping[str, str]) -> None:
    from paste_wspbus.ini.file import ConfigLoader
    from paste_wspbus.ini.logging import configure_logging

    loader = ConfigLoader(file, vars)
    if loader.parser.has_section('loggers'):
        configure_logging(file, loader.text, vars)


def _call(name: str, stops: threading.Event) -> int:
    import logging
    from importlib import import_module

    from paste_wspbus.ready.part import bound, no_function

    log = logging.getLogger('paste_wspbus')
    try:
        module, _, path = name.partition(':')
        function = import_module(module)
        for attribute in path.split('.'):
            function = getattr(function, attribute)
        if problem := no_function(function):
            log.error('%s is %s', name, problem)
            return 1
        bound(function, stops)()  # type: ignore[arg-type]
    except Exception:
        log.exception('%s failed:', name)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
