"""zdaemon: the site that its manager runs in the place of ``program``, and its status.

``python -m paste_wspbus.hosts.zdaemon`` is `zdaemon` with such a manager (see `zdrun`).
"""

from __future__ import annotations

import atexit
import sys
from functools import partial

from paste_wspbus.bus.channels import ChannelFailures
from paste_wspbus.command.leaving import finish
from paste_wspbus.command.main import main as run_command
from paste_wspbus.control.server import Control
from paste_wspbus.frameworks.guests import version_of
from paste_wspbus.hosts import CAPABILITIES, Host
from paste_wspbus.process.early_signals import ignore
from paste_wspbus.process.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.launch import Launch

#: The first argument of the process that runs the site.
SITE = '--site'


class SiteProcess(Process):
    """The process of a site that zdaemon's manager has started, and asks for its status.

    :param path: the path of the Unix socket for these requests.
    """

    def __init__(
        self, path: str, config: Config, launch: Launch, inheritance: Inheritance
    ) -> None:
        super().__init__(config, launch, inheritance)
        self._path = path
        self._status_socket: Control | None = None

    def plug_in(self, bus: Bus) -> None:
        """Make zdaemon the host of the bus, before anything is composed."""
        super().plug_in(bus)
        bus.host = Host('zdaemon', version_of('zdaemon'), CAPABILITIES)

    def ride(self, bus: Bus) -> None:
        """Attach to the bus, and answer requests for the status from now on."""
        super().ride(bus)
        if self.is_worker:
            return  # the supervisor answers
        commands = {'status': lambda _: {'site': status_of(bus)}}
        self._status_socket = Control(self._path, commands)
        try:
            self._status_socket.open()
        except OSError as error:
            bus.log(f'zdaemon gets no status: {self._path}: {error.strerror}', 30)
        else:
            self._status_socket.serve(bus)

    def close(self) -> None:
        """Close what every process of a site closes, and the socket for the status."""
        super().close()
        if self._status_socket is not None:
            self._status_socket.close()


def status_of(bus: Bus) -> dict[str, Any]:
    """Return the state and the answers of the 'status' listeners, each value as its repr()."""
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

    :param path: the path of the Unix socket at which the manager asks for the status.
    :param program: the command line ``program`` of zdaemon.conf.
    :returns: the exit code; see `exits`.
    """
    make_process = partial(SiteProcess, path)
    atexit.register(ignore)
    return finish(run_command(program[1:], program[0], make_process, owns_process=True))


def main(argv: list[str]) -> int:
    """Run the command line of `zdaemon`, or the site if its manager calls this."""
    if argv[:1] == [SITE]:
        return run_site(argv[1], argv[2:])
    from paste_wspbus.hosts.zdrun import control

    return control(argv)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
