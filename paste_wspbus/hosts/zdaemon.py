"""zdaemon: what its manager runs in the place of ``program``, a site that tells it how it is.

``python -m paste_wspbus.hosts.zdaemon`` is `zdaemon` with such a manager (see `zdrun`).
"""

from __future__ import annotations

import sys
from functools import partial

from paste_wspbus import serve
from paste_wspbus.channels import ChannelFailures
from paste_wspbus.control import Control
from paste_wspbus.frameworks.guests import version_of
from paste_wspbus.hosts import CAPABILITIES, Host
from paste_wspbus.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.arguments import Options
    from paste_wspbus.bus import Bus
    from paste_wspbus.inheritance import Inheritance
    from paste_wspbus.loader import Config

#: The first argument of the process that runs the site.
SITE = '--site'


class SiteProcess(Process):
    """A process that zdaemon's manager started, and asks for its status.

    :param path: of the socket that it asks at.
    """

    def __init__(
        self, path: str, config: Config, options: Options, inheritance: Inheritance
    ) -> None:
        super().__init__(config, options, inheritance)
        self._path = path
        self._status_socket: Control | None = None

    def plug_in(self, bus: Bus) -> None:
        """Before anything is composed: the bus is zdaemon's."""
        super().plug_in(bus)
        bus.host = Host('zdaemon', version_of('zdaemon'), CAPABILITIES)

    def ride(self, bus: Bus) -> None:
        """The bus is about to start: from now on there is an answer."""
        super().ride(bus)
        if self.is_worker:
            return  # its supervisor answers
        commands = {'status': lambda _: {'site': status_of(bus)}}
        self._status_socket = Control(self._path, commands)
        try:
            self._status_socket.open()
        except OSError as error:
            bus.log(f'zdaemon is told nothing: {self._path}: {error.strerror}', 30)
        else:
            self._status_socket.serve(bus)

    def close(self) -> None:
        """Close what is open."""
        super().close()
        if self._status_socket is not None:
            self._status_socket.close()


def status_of(bus: Bus) -> dict[str, Any]:
    """What the listeners of 'status' say, and the state: each value as Python writes it."""
    told: dict[str, Any] = {'state': bus.state.name}
    try:
        answers = bus.publish('status')
    except ChannelFailures as failures:
        answers = [{'problem': str(failures)}]
    for answer in answers:
        told.update(answer if isinstance(answer, dict) else {'status': answer})
    return {' '.join(str(key).split()): repr(value) for key, value in told.items()}


def run_site(path: str, program: list[str]) -> int:
    """Make the bus, start it and block on it, as `wspserve` does.

    :param path: of the socket that the manager asks for the status at.
    :param program: the words of zdaemon.conf's ``program``.
    :returns: the exit code; see `serve.main`.
    """
    make_process = partial(SiteProcess, path)
    code = serve.main(program[1:], program[0], make_process)
    serve.limit_the_end()
    return code


def main(argv: list[str]) -> int:
    """`zdaemon`'s own command line; or what its manager starts."""
    if argv[:1] == [SITE]:
        return run_site(argv[1], argv[2:])
    from paste_wspbus.hosts.zdrun import control

    return control(argv)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
