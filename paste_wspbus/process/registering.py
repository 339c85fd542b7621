"""How a site opens its control socket and registers, so that commands find it."""

from __future__ import annotations

import contextlib
import errno
import os

from paste_wspbus.control.server import Control
from paste_wspbus.errors import ConfigError, shortage
from paste_wspbus.process.answers import Answers
from paste_wspbus.values import named_path, real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.bus import Bus
    from paste_wspbus.control.register import Registration
    from paste_wspbus.process.process import Process

#: The line for the log about a control socket that somebody had removed.
BOUND_AGAIN = 'The control socket {} was missing: it is bound again'


class Registering:
    """Opens the control socket of a process, and makes its entry among the running sites."""

    def __init__(self, process: Process) -> None:
        self.process, self.options = process, process.options

    def open(self) -> None:
        """Open the control socket, and register the site, so that commands find it."""
        process = self.process
        entry = self.register() if process.entry is None else None
        path = self.control_path()
        if process.control is None and path is not None:
            if process.lock is not None:
                process.lock.control = path
            # If the program before this one has lost it, another site may listen there.
            came = process.inheritance.came_over_execv
            shared = came or path == self.options.control
            control = self.control_at(path)
            if self.listen(control, shared, must=not came) and came:
                process.notes.append(BOUND_AGAIN.format(path))
        if entry is not None and path is not None:
            self.describe(entry, path)

    def control_path(self) -> str | None:
        """Return the path that the control socket has, or gets."""
        process = self.process
        if self.options.control is not None:
            return self.options.control
        if process.lock is not None:
            return process.lock.control
        return None if process.entry is None else process.entry.control

    def adopt(self, fd: int) -> None:
        """Keep the control socket, so that it is removed if the start fails."""
        process = self.process
        path = process.entry.control if process.entry is not None else None
        path = path or self.control_path()
        if path is None:
            os.close(fd)  # its entry was removed: it gets another one
            return
        if process.lock is not None:
            process.lock.control = path
        process.control = self.control_at(path)
        process.control.adopt(fd)

    def control_at(self, path: str) -> Control:
        """Make the object for the control socket at a path."""
        process = self.process
        process.answers = process.answers or Answers(process)
        return Control(path, process.answers.commands)

    def listen(self, control: Control, shared: bool, must: bool = True) -> bool:
        """Open the socket, and return whether that succeeded; if not, note why.

        :param must: whether a start fails without it; not if the site has run before.
        """
        process = self.process
        try:
            control.open(shared=shared)
        except OSError as error:
            if must and shortage(error) is not None:
                raise  # the next steps would fail, too
            # A site that has run here must not end for that. Without a name for it, or on a
            # system without Unix sockets, the site runs without one, too.
            is_named = self.options.control is not None
            is_first = must and not process.inheritance.descriptors
            if is_named and is_first and error.errno != errno.EAFNOSUPPORT:
                raise self._refused(control.path, error) from None
            process.notes.append(
                f'the control socket {control.path} cannot be opened: '
                f'{error.strerror or error}; the site answers no command, only stop works'
            )
            return False
        process.control = control
        return True

    def serve(self, control: Control, bus: Bus) -> None:
        """Answer on a control socket from now on, while the bus runs."""
        try:
            control.serve(bus, at_once=True)
        except RuntimeError:  # the site serves already, and must not end for that
            self.process.close_control()
            line = 'The system starts no more threads: the site answers no command'
            bus.log(line, 30)

    def _refused(self, path: str, error: OSError) -> ConfigError:
        from paste_wspbus.ini.settings import section_of

        path = os.path.abspath(path)
        problem = f'{path}: {error.strerror or error}'
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            problem = f'there is no folder {folder}'
        elif os.path.isdir(path):
            problem = f'{path} is a directory'
        elif os.path.isfile(path):
            problem = f'{path} is another file, and no socket'
        config = self.process.config
        return ConfigError(
            str(config.file), problem, section=section_of(config.loader), key='control'
        )

    def register(self) -> Registration | None:
        """Make the entry, without what it says; return None if that fails."""
        from paste_wspbus.control.register import Registration
        from paste_wspbus.unix.paths import UnsafeFolder, runtime_folder

        process = self.process
        try:
            folder = runtime_folder()
            if folder is not None:
                process.entry = Registration(folder, process.names.file)
                return process.entry
        except (UnsafeFolder, OSError) as error:
            by = '--pid-file' if process.lock is None else 'the same PID file'
            process.notes.append(
                f'status, stop and graceful find this site only with {by}: {error}; '
                'set XDG_RUNTIME_DIR'
            )
            self._show()
        return None

    def _show(self) -> None:
        """Show that the site runs: it has no entry, and commands would not find it."""
        from paste_wspbus.control.register import Beacon

        with contextlib.suppress(OSError):
            self.process.beacon = Beacon(self.process.names.file)

    def describe(self, entry: Registration, control: str) -> None:
        """Write what the entry says."""
        process, options = self.process, self.options
        named = options.named_pid_file or options.pid_file
        try:
            entry.write(
                **process.names.fields,
                control=real_path(control),
                pid_file=process.lock and real_path(process.lock.path),
                named_pid_file=named and named_path(named),
                log_file=process.log_file and real_path(process.log_file),
            )
        except OSError as error:
            process.notes.append(f'{entry.path} cannot be written: {error.strerror}')
