"""zdaemon's manager, changed to run a site on the bus, and to show its status.

With ``zdrun PATH-OF-THIS-FILE`` in zdaemon.conf, `zdaemon` starts this manager.
"""

from __future__ import annotations

import os
import sys

if __name__ == '__main__' and not sys.flags.safe_path:
    del sys.path[0]  # it is this folder, which has a module with the name zdaemon

# This module is imported only if zdaemon is installed.
from zdaemon import zdctl, zdrun

from paste_wspbus.control.client import NoAnswer, ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that the manager waits for the answer of a site; it does nothing else meanwhile.
ANSWER = 1.0

#: The beginning of those lines of a status that come from the site.
PREFIX = 'site.'


class Program(zdrun.Subprocess):  # type: ignore[misc]
    """The site: `paste_wspbus.hosts.zdaemon` runs ``program``."""

    args: list[str]

    def __init__(self, options: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(options, *args, **kwargs)  # this finds the program, or raises
        self.filename = sys.executable
        self.socket = f'{options.sockname}.site'

    def spawn(self) -> Any:
        """Start the site; return its process ID, or 0 if that fails."""
        program = self.args
        # -P keeps the working directory out of sys.path, as in a console script.
        self.args = [self.filename, '-P', '-m', 'paste_wspbus.hosts.zdaemon']
        self.args += ['--site', self.socket, *program]
        try:
            return super().spawn()
        finally:
            self.args = program  # zdaemon shows these as its program

    def ask(self) -> dict[str, Any]:
        """Return the answers of the site's 'status' listeners; {} if it does not run."""
        if not self.pid:
            return {}
        try:
            told: dict[str, Any] = ask(self.socket, 'status', ANSWER)['site']
        except NoAnswer as error:
            return {'problem': repr(f'no answer: {error.reason}')}
        return told


class Manager(zdrun.Daemonizer):  # type: ignore[misc]
    """The manager of zdaemon, whose `start` waits until the bus is STARTED."""

    def cmd_status(self, args: list[str]) -> None:
        """Answer `zdaemon` in lines of ``name=value``."""
        told = self.proc.ask()
        if not self.options.starttestprogram:
            starts = self.proc.pid and told.get('state') != repr('STARTED')
            self.proc.testing = {self.proc.pid} if starts else set()
        super().cmd_status(args)
        for name, value in told.items():
            self.sendreply(f'{PREFIX}{name}={value}')


class Command(zdctl.ZDCmd):  # type: ignore[misc]
    """The command line of `zdaemon` with this manager. `status` also shows the site's lines."""

    def __init__(self, options: Any) -> None:
        options.zdrun = options.zdrun or os.path.abspath(__file__)
        super().__init__(options)

    def do_status(self, arg: str = '') -> Any:
        """Print whether the program runs, and the status of the site."""
        code = super().do_status(arg)
        if not arg and self.zd_status:
            for line in self.zd_status.splitlines():
                if line.startswith(PREFIX):
                    print(line.removeprefix(PREFIX))
        return code


def control(argv: list[str]) -> int:
    """Run the command line of `zdaemon`, which exits with its own exit code."""
    zdctl.main(argv, cmdclass=Command)
    return 0


def manage(argv: list[str]) -> None:
    """Run zdaemon's manager, which exits with its own exit code."""
    zdrun.Subprocess = Program  # Daemonizer.run makes an object of this class
    Manager().main(argv)


if __name__ == '__main__':
    manage(sys.argv[1:])
