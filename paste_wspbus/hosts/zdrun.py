"""zdaemon's manager, but that it runs a site on the bus, and `status` shows what that tells.

``zdrun PATH-OF-THIS-FILE`` in zdaemon.conf has `zdaemon` start it instead of its own.
"""

from __future__ import annotations

import os
import sys

if __name__ == '__main__' and not sys.flags.safe_path:
    del sys.path[0]  # this folder, where a module is named as zdaemon

# Nobody imports this module but where zdaemon is.
from zdaemon import zdctl, zdrun

from paste_wspbus.control import NoAnswer, ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Seconds that the manager, which has other things to do, waits for a site's answer.
ANSWER = 1.0

#: What the lines of a status that are the site's begin with.
PREFIX = 'site.'


class Program(zdrun.Subprocess):  # type: ignore[misc]
    """The site: ``program``, run by `paste_wspbus.hosts.zdaemon`."""

    args: list[str]

    def __init__(self, options: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(options, *args, **kwargs)  # finds the program, or complains
        self.filename = sys.executable
        self.socket = f'{options.sockname}.site'

    def spawn(self) -> Any:
        """Start it; its process ID, or 0."""
        program = self.args
        # -P: not what stands in the working directory, as for a console script.
        self.args = [self.filename, '-P', '-m', 'paste_wspbus.hosts.zdaemon']
        self.args += ['--site', self.socket, *program]
        try:
            return super().spawn()
        finally:
            self.args = program  # by this, zdaemon knows what it manages

    def ask(self) -> dict[str, Any]:
        """What the site's listeners of 'status' say; of one that is composed, nothing."""
        if not self.pid:
            return {}
        try:
            told: dict[str, Any] = ask(self.socket, 'status', ANSWER)['site']
        except NoAnswer as error:
            return {'problem': repr(f'no answer: {error.reason}')}
        return told


class Manager(zdrun.Daemonizer):  # type: ignore[misc]
    """zdaemon's, whose `start` waits until the bus is STARTED."""

    def cmd_status(self, args: list[str]) -> None:
        """Answer `zdaemon`, in lines of ``name=value``."""
        told = self.proc.ask()
        if not self.options.starttestprogram:
            starts = self.proc.pid and told.get('state') != repr('STARTED')
            self.proc.testing = {self.proc.pid} if starts else set()
        super().cmd_status(args)
        for name, value in told.items():
            self.sendreply(f'{PREFIX}{name}={value}')


class Command(zdctl.ZDCmd):  # type: ignore[misc]
    """`zdaemon`, with that manager; `status` has the site's lines, too."""

    def __init__(self, options: Any) -> None:
        options.zdrun = options.zdrun or os.path.abspath(__file__)
        super().__init__(options)

    def do_status(self, arg: str = '') -> Any:
        """Print whether the program runs, and how it is."""
        code = super().do_status(arg)
        if not arg and self.zd_status:
            for line in self.zd_status.splitlines():
                if line.startswith(PREFIX):
                    print(line.removeprefix(PREFIX))
        return code


def control(argv: list[str]) -> int:
    """Run `zdaemon`'s command line; it leaves with its exit code."""
    zdctl.main(argv, cmdclass=Command)
    return 0


def manage(argv: list[str]) -> None:
    """Run zdaemon's manager; it leaves with its exit code."""
    zdrun.Subprocess = Program  # of which Daemonizer.run makes one
    Manager().main(argv)


if __name__ == '__main__':
    manage(sys.argv[1:])
