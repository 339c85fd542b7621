"""How a process opens what a site needs before the load, in an order that is safe for root."""

from __future__ import annotations

import errno
import io
import os
import sys
import time

from paste_wspbus.errors import BindError, UsageError
from paste_wspbus.ini.settings import FOR_WORKERS, SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.listening.activation import Activated
    from paste_wspbus.listening.sockets import ListeningSocket
    from paste_wspbus.process.process import Process
    from paste_wspbus.servers.server import Server

#: Seconds within which the workers of a killed supervisor notice its end and close the
#: port; and seconds between two checks.
ORPHANS, LOOK = 5.0, 0.02


class Opening:
    """Opens the PID file, the log file and the sockets; then changes the user.

    :param process: holds what is open. If this fails, the caller must close it.
    """

    def __init__(self, process: Process) -> None:
        self.process, self.launch = process, process.launch
        self.config, self.options = process.config, process.options
        #: Whether the previous site ended without removing its PID file.
        self._took_over_from_the_dead = False

    def run(self) -> None:
        """Open everything. No code of the site is imported.

        :raises AlreadyRunning: if the site runs, and this start does not replace it.
        :raises WSPBusError: if something cannot be opened.
        """
        options, process = self.options, self.process
        if options.replaces:  # if the .ini is wrong, the old site keeps serving
            process.known_server(self.config)
        process.entry = process.inheritance.registration()
        if options.pid_file or process.inheritance.pid_file is not None:
            self._open_pid_file(options.pid_file)
        if process.inheritance.control is not None:
            from paste_wspbus.process.registering import Registering

            Registering(process).adopt(process.inheritance.control)
        self.open_log()
        if process.server is None:
            process.server = process.known_server(self.config)
        self._check_workers(process.server)
        self._note_empty_composites()
        if process.server is not None:
            self._open_sockets(process.server)
        else:
            for listening in process.inheritance.take_sockets():
                listening.sock.close()
        if options.ops or self.config.settings['ops']:
            self._open_ops()
        if process.lock is not None:
            process.lock.write()
        process.registers_late &= self._may_register_late()
        if not process.registers_late:
            from paste_wspbus.process.registering import Registering

            Registering(process).open()
        if options.identity is not None:
            from paste_wspbus.process.owners import change_owner

            change_owner(process, options.identity)
            # getaddrinfo imports it late; the new user may be unable to read its file.
            import encodings.idna  # noqa: F401
        if 'privileges' in self.config.settings['defaults']:
            from paste_wspbus.ini.defaults import drop_privileges

            drop_privileges(self.config, options.identity)
        elif options.identity is not None:
            options.identity.take()
        if process.server is not None and process.server.where:
            for listening in process.server.sockets:
                listening.claim()

    def _check_workers(self, server: Server | None) -> None:
        process = self.process
        if process.is_supervised and not hasattr(os, 'fork'):
            raise UsageError(
                'workers, --monitor-restart and restart = child or fork: '
                'this system has no fork(2)'
            )
        self.config.check_workers(process.workers, server)
        settings = self.config.settings
        given = any(settings[key] != SETTINGS[key].default for key in FOR_WORKERS)
        has_cluster = settings['cluster_plugins'] or self.config.section('cluster:main')
        if given or has_cluster:
            from paste_wspbus.process.idle import idle_keys

            process.notes += idle_keys(process)

    def _note_empty_composites(self) -> None:
        if self.config.file and self.config.loader.may_compose():
            from paste_wspbus.ini.composites import empty_composites

            notes = empty_composites(self.config, self.options.app_name)
            self.process.notes += notes

    def _open_pid_file(self, path: str | None) -> None:
        from paste_wspbus.process.locking import open_pid_file

        self._took_over_from_the_dead = open_pid_file(self.process, path)

    # -- the log --------------------------------------------------------------

    def open_log(self) -> None:
        """Open the log file, unless that is done, and let standard output and error lead there.

        :raises UsageError: if it cannot be opened.
        """
        process, launch = self.process, self.launch
        if not self.options.log_file or process.log_file is not None:
            return
        from paste_wspbus.plugins.log_files import append_to, why_not_made

        path = os.path.abspath(self.options.log_file)
        terminal = None if self.options.daemon else os.dup(2)
        try:
            process.made_log = append_to(path, (1, 2))
        except OSError as error:
            if terminal is not None:
                os.close(terminal)
            reason = why_not_made(path, error)
            if not process.inheritance.descriptors:
                raise UsageError(f'log file {path}: {reason}') from None
            # The site has run before, perhaps as another user: this must not end it.
            if error.errno in (errno.EACCES, errno.EPERM):
                reason = 'this user cannot open it'
            process.notes.append(f'log file {path}: {reason}')
            return
        process.log_file, launch.terminal, launch.log = path, terminal, path
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a rotation must not split lines
                stream.reconfigure(line_buffering=True)

    # -- the listening sockets ------------------------------------------------

    def _open_sockets(self, server: Server) -> None:
        """Use the inherited and the passed sockets; bind the others that the site asks for.

        If another program has passed sockets, the site serves on these, unless --listen
        asks for other addresses.
        """
        inherited_sockets = self.process.inheritance.take_sockets()
        for reason in self.process.inheritance.rejected:
            self.process.notes.append(
                f'The old site handed over something else than a socket that listens: '
                f'{reason}; it is not used'
            )
        for listening in inherited_sockets:
            listening.take_new()
        offered = [*inherited_sockets, *_passed()]
        try:
            self._choose_sockets(server, offered, inherited_sockets)
        finally:
            for listening in offered:
                if listening not in server.sockets:
                    listening.close()

    def _choose_sockets(
        self,
        server: Server,
        offered: list[ListeningSocket],
        inherited_sockets: list[ListeningSocket],
    ) -> None:
        inheritance, addresses = self.process.inheritance, server.where.get('listen_on')
        # Only the real addresses of the sockets count, not what another process says.
        is_complete = (
            not inheritance.came_from_another
            and bool(inherited_sockets)
            and all(listening.is_reachable for listening in inherited_sockets)
        )
        passed = [one for one in offered if one.is_passed]
        if passed and addresses is None and not inheritance.came_from_another:
            server.adopt(passed)
        elif is_complete and server.where == inheritance.where:
            server.adopt(inherited_sockets)
        else:
            try:
                self._bind(server, offered)
            except BindError as error:
                if not (is_complete and inheritance.reload):
                    raise
                # Under --reload, a wrong address must not end the command.
                server.where = inheritance.where
                server.adopt(inherited_sockets)
                stays = ', '.join(server.urls)
                self.process.notes.append(f'{error}; until then {stays} stays')
        unused = [one for one in offered if one not in server.sockets]
        if any(one.is_passed for one in unused) and 'fd://' not in (addresses or ''):
            self.process.notes.append(
                f'--listen {addresses}: sockets that systemd passed (LISTEN_FDS) are not '
                f'used: {len(unused)}'
            )

    def _bind(self, server: Server, offered: list[ListeningSocket]) -> None:
        until = time.monotonic() + (ORPHANS if self._took_over_from_the_dead else 0)
        name, listen = self.options.server_name, self.options.listen
        while True:
            try:
                return self.config.bind(server, name, listen, offered)
            except BindError:
                if time.monotonic() > until:
                    raise
            time.sleep(LOOK)

    def _open_ops(self) -> None:
        from paste_wspbus.ops.holding import Ops, inherited_sockets

        process = self.process
        if os.name != 'posix':
            process.notes.append('ops does nothing on this system')
            return
        process.ops = Ops(self.config, self.options.ops)
        of_site = process.server.sockets if process.server is not None else ()
        came = inherited_sockets(process.inheritance.take_ops())
        patience = ORPHANS if self._took_over_from_the_dead else 0
        process.ops.open(came, of_site, patience)

    # -- when it registers ----------------------------------------------------

    def _may_register_late(self) -> bool:
        """Whether this site may register when it serves: before the load, it takes time.

        Nobody asks for one process in the foreground while it starts. A site that changes
        its user registers as the user who has started it.
        """
        process, options = self.process, self.options
        holds = (process.lock, process.entry, process.control)
        is_named = options.control is not None or options.identity is not None
        return not (any(holds) or is_named or process.is_supervised)


def _passed() -> list[ListeningSocket]:
    """Return the sockets that systemd passes to this process."""
    if 'LISTEN_PID' not in os.environ:
        return []
    from paste_wspbus.listening.activation import activated

    return [_adopted(one) for one in activated()]


def _adopted(one: Activated) -> ListeningSocket:
    try:
        from paste_wspbus.listening.passed import inherited

        return inherited(one.fd, [f'fd://{one.name}'])
    finally:
        os.close(one.fd)
