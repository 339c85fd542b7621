"""How the command finds a site that may run: by its entry among the running sites, or a file."""

from __future__ import annotations

import contextlib
import errno
import os

from paste_wspbus.command.arguments import PID_FILE
from paste_wspbus.command.deaf import is_socket, problem_of_socket
from paste_wspbus.control.client import NoAnswer, ask, connect
from paste_wspbus.control.register import (
    Entry,
    lock_without_entry,
    read_entries,
    socket_out_of_sight,
)
from paste_wspbus.control.status import process_of
from paste_wspbus.errors import WSPBusError, shortage
from paste_wspbus.exits import FAILED, IS_UNKNOWN
from paste_wspbus.process.names import Names, names_of
from paste_wspbus.unix.pid_lock import (
    ForeignPIDFile,
    PIDFileError,
    PIDLock,
    StalePIDFile,
)
from paste_wspbus.unix.processes import (
    listener_of,
    users_of,
    why_silent,
)
from paste_wspbus.unix.users import name_of
from paste_wspbus.values import named_path, printable, real_path, working_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from paste_wspbus.process.options import Options

#: How often the command looks for a site while others take over.
LOOKS = 5

#: The number of descriptors that a look needs at a time; it would take a file that it
#: cannot open for one that is not there.
SPARE = 8

#: What is wrong with a site whose folder a deployment has removed.
LOST = 'its PID file and its control socket were removed: stop it, and start it again'

#: The states of a site, as far as the command knows them.
RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 'RUNNING', 'DEAD', 'NOT RUNNING', 'UNKNOWN'


class NotDone(WSPBusError):
    """A site has not done what it was asked for; ``exit_code`` is that of the command."""

    def __init__(self, problem: str, exit_code: int = FAILED) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


class NotKnown(WSPBusError):
    """Nobody can know whether the site runs, or which site is meant."""

    exit_code = IS_UNKNOWN


class Ambiguous(NotKnown):
    """The command line may mean several sites that run."""


class Blind(NotKnown):
    """This process itself lacks what it needs to look."""


class Found:
    """What the command knows about a site: its ``state``, and the ``problem`` as a text.

    ``control`` is the path of its control socket. ``pid`` is None if it is not known.
    ``lock`` is its PID file, if it has one. ``error`` is the reason why nobody can know
    whether the site runs. ``entry`` is its entry among the running sites, if it has one.
    ``other`` names the site that has the PID file, if it is another one. ``lost`` says which
    files of a running site are missing, without which it can never answer. ``unlocked`` is
    the path of the lock of a running site that has lost it. ``is_gunicorns``: gunicorn runs
    the site, and its process never has a control socket.
    """

    problem = other = lost = unlocked = ''
    is_gunicorns = False
    error: WSPBusError | None = None
    entry: Entry | None = None

    def __init__(
        self, state: str, control: str, pid: int | None, lock: PIDLock | None = None
    ) -> None:
        self.state, self.control, self.pid, self.lock = state, control, pid, lock

    @property
    def who(self) -> str:
        """Its process, in brackets; an empty text if the process is not known."""
        return f' (process {self.pid})' if self.pid else ''

    @property
    def see_log(self) -> str:
        """Where a message sends its reader: the log by its path, if this user can know it."""
        entry = self.entry
        known = entry is not None and entry.log_file and is_own(entry.owner)
        return f'see {entry.log_file}' if known else 'see its log'  # type: ignore[union-attr]

    def is_unknown(self, error: WSPBusError) -> Found:
        """Note that nobody can know whether the site runs."""
        self.state, self.error, self.problem = UNKNOWN, error, str(error)
        return self

    def may_run(self, problem: str) -> None:
        """Note that the site may run in a process that this command cannot ask."""
        line = f'It is not known whether the site runs: {problem}'
        self.is_unknown(NotKnown(line)).problem = problem

    def check_answers(self, lacks: str = '') -> None:
        """Raise NotDone if the site runs, and can never answer.

        :param lacks: what a site of gunicorn lacks: the end of a message.
        """
        if self.is_gunicorns and lacks:
            raise NotDone(f'gunicorn{self.who} serves the site: {lacks}')
        if self.lost:
            raise NotDone(f'The site is running{self.who}, but {self.lost}')

    def is_there(self) -> bool:
        """Whether the site still runs, or another one that has replaced it."""
        if self.lock is None:
            try:
                connect(self.control, 1).close()
            except NoAnswer as error:
                return error.listens
            return True
        try:
            return self.lock.read() is not None
        except PIDFileError:
            return False


def find(
    options: Options, exactly: bool = False, settings: dict[str, Any] | None = None
) -> Found:
    """Find the site: by --pid-file; else by its entry; else by the PID file in this folder.

    It is certain that the site does not run only if this could read each place where its
    entry may be. Otherwise the state is UNKNOWN.

    :param exactly: whether a section that the command line does not name is ``main``. If
        not, it may be any section of a site that runs alone.
    :param settings: those of [wspbus:main]; None if the .ini is not read yet.
    """
    for _ in range(LOOKS):
        before = _holders(options)
        found = _find_now(options, exactly, settings)
        # While one process takes over from another, both change their entries: a look
        # at that moment may find neither. So look again if something has changed.
        if found.state not in (NOT_RUNNING, DEAD) or before == _holders(options):
            break
    if found.state != RUNNING and (lack := _lack_of_descriptors()):
        return found.is_unknown(Blind(str(lack)))
    if found.state == RUNNING and found.pid and not is_socket(found.control):
        found.is_gunicorns = _is_gunicorns(options)
        signals = (_settings(options) if options.config else {}).get('signals', {})
        hangup = signals.get('SIGHUP', 'hangup')
        lost = found.lost or problem_of_socket(found.control, found.pid, hangup)
        found.lost = '' if found.is_gunicorns else lost
        found.problem = found.lost or found.problem
    return found


def _lack_of_descriptors() -> WSPBusError | None:
    """Return the error that says that this process has too few free descriptors."""
    opened: list[int] = []
    try:
        for _ in range(SPARE):
            opened.append(os.dup(0))
    except OSError as error:
        return shortage(error)
    finally:
        for fd in opened:
            os.close(fd)
    return None


def _holders(options: Options) -> list[tuple[str, int]]:
    """Return the entries that the command can read, and the processes that hold them."""
    if not options.config:
        return []
    search = Search(options, exactly=False)
    return sorted((one.path, one.holder or 0) for one in search.entries)


def _find_now(
    options: Options, exactly: bool, settings: dict[str, Any] | None
) -> Found:
    if options.pid_file is not None or not options.config:
        return _find_by_option(options, exactly)
    search = Search(options, exactly)
    known = search.run()
    is_ambiguous = known is not None and isinstance(known.error, Ambiguous)
    if known is not None and not is_ambiguous:
        return known
    settings = _settings(options) if settings is None else settings
    if known is None:
        return _find_by_settings(search, settings)
    # The .ini may say which one is meant, as pid_file = web%(n)s.pid does.
    pid_file = settings.get('pid_file')
    return (search.run_by_pid_file(pid_file) if pid_file else None) or known


def _find_by_option(options: Options, exactly: bool) -> Found:
    """Find the site by --pid-file, or by the PID file in this folder if there is no .ini."""
    found = find_by_pid_file(PIDLock(options.pid_file or PID_FILE))
    if not options.config:
        return found
    if options.pid_file and not (found.state == RUNNING and found.pid):
        search = Search(options, exactly)
        found = search.run_by_pid_file(options.pid_file) or found
    if exactly or options.server_name or options.app_name:
        _refuse_other(found, Names(options, exactly))
    return found


def _find_by_settings(search: Search, settings: dict[str, Any]) -> Found:
    """Find a site that has no entry, by the PID file and the socket that its .ini names."""
    control = settings.get('control')
    found = find_by_pid_file(PIDLock(settings.get('pid_file') or PID_FILE, control))
    if _is_of_another(found, search.names, search.entries):
        name = _short(found.lock.path) if found.lock is not None else PID_FILE
        found.state, found.lock = NOT_RUNNING, None
        found.problem = f'{name} is that of {found.other}{found.who}'
    if found.state == NOT_RUNNING and control:
        found = search.run_by_socket(control) or found
    if found.state == NOT_RUNNING:
        search.judge(found)
    return found


def _settings(options: Options) -> dict[str, Any]:
    """Return the settings of [wspbus:main]; {} if they are wrong."""
    # Imported late: a site that has an entry is found without it.
    from paste_wspbus.ini.config import Config

    try:
        config = Config(options.config, options.vars, working_folder())
    except (WSPBusError, OSError):
        return {}  # if the .ini is wrong, the site is found by its entry
    return config.settings


class Search:
    """The search for a site among the entries of running sites."""

    def __init__(self, options: Options, exactly: bool) -> None:
        self.names = Names(options, exactly)
        #: Running sites of the same .ini with other sections.
        self.others: list[Found] = []
        #: The entries of users who are not trusted.
        self.claims: list[Entry] = []
        uid = options.identity.uid if options.identity is not None else None
        self.users = trusted_users(self.names.file, uid)
        self.is_root = hasattr(os, 'geteuid') and os.geteuid() == 0
        self.entries, self.problems = read_entries(self.users, everybody=self.is_root)

    def run(self) -> Found | None:
        """Return the site that the command line means; None if it has no entry.

        The state is UNKNOWN if it may mean several sites.
        """
        sites: list[Found] = []
        for entry in self.entries:
            if not self.names.has_ini(entry.names):
                continue
            found = find_by_entry(entry)
            if found.state in (NOT_RUNNING, DEAD) and not is_own(entry.owner):
                continue
            if entry.owner not in self.users:
                self.claims.append(entry)
            elif self.names.differ_from(entry.names):
                self.others += [found] if found.state == RUNNING else []
            elif found.state != NOT_RUNNING:
                sites.append(found)
        sites = without_replaced(sites)
        return self._choose([one for one in sites if one.state != DEAD] or sites)

    def run_by_pid_file(self, path: str) -> Found | None:
        """Return the site that was started with this PID file, by the same name.

        A deployment may have changed a link in that name since then.
        """
        named = named_path(path)
        for entry in self.entries:
            is_it = self.names.has_ini(entry.names) and entry.named_pid_file == named
            if is_it and entry.owner in self.users:
                found = find_by_entry(entry)
                if found.state == RUNNING:
                    return found
        return None

    def _choose(self, sites: list[Found]) -> Found | None:
        exact = [one for one in sites if one.entry and self.names.are(one.entry.names)]
        # The entries of the others match only because a deployment has changed a link.
        direct = [one for one in exact if one.entry and self._is_direct(one.entry)]
        for certain in (exact, direct):
            if len(certain) == 1:
                return certain[0]
        here = real_path(PID_FILE)
        for found in exact or sites:
            if found.lock is not None and found.lock.path == here:
                return found
        if not sites or sites[0].state == DEAD:
            return None
        running = [_described(one) for one in exact or sites]
        runs = 'run' if len(running) > 1 else 'runs'
        how = '--pid-file' if exact else '--server-name or --app-name'
        which = f'{" and ".join(running)} {runs} {self.names.ini}'
        problem = f'{which}: say by {how} which one is meant'
        return Found(UNKNOWN, '', None).is_unknown(Ambiguous(problem))

    def _is_direct(self, entry: Entry) -> bool:
        return self.names.ini in (entry.ini, entry.file)

    def run_by_socket(self, control: str) -> Found | None:
        """Return the site whose entry is gone, by the control socket that the .ini names."""
        found = _find_by_socket(control, None)
        if found.state != RUNNING:
            return None
        users = users_of(found.pid) if found.pid else None
        if users is None or not users <= self.users:
            whose = 'another user' if users else 'a user that the system does not name'
            found.may_run(f'a process of {whose} listens at {_short(control)}')
            return found
        with contextlib.suppress(NoAnswer):
            fields = names_of(ask(control, 'status'))
            is_ours = self.names.has_ini(fields) and not self.names.differ_from(fields)
            if all(fields.values()) and not is_ours:
                return None
        return found

    def judge(self, found: Found) -> None:
        """Judge whether it is certain that the site does not run."""
        ini = self.names.ini
        looked_for = self.names.file, self.users, self.is_root, self.entries
        if self.others and not found.other:
            found.problem += (
                f'; {"; ".join(map(_described, self.others))} of {ini} runs'
            )
        if self.claims:
            user = name_of(self.claims[0].owner)
            problem = (
                f'a process of {user} claims to run {ini}: if it may, add --user {user}'
            )
            found.may_run(problem)
        elif self.problems:
            found.may_run(str(self.problems[0]))
        elif path := socket_out_of_sight(*looked_for):
            found.may_run(_out_of_sight(ini, path))
        elif path := lock_without_entry(*looked_for):
            found.may_run(f'a process holds {path}, and its entry beside it is gone')
        elif not ini.startswith('egg:') and not os.path.exists(ini):
            found.problem += f', and there is no {ini}'


def _out_of_sight(ini: str, path: str) -> str:
    """Return what is said of a process whose socket `socket_out_of_sight` names."""
    if path.startswith('@'):
        return f'a process runs {ini}, and has no folder for its entry'
    is_hidden = os.path.isabs(path) and not os.path.lexists(path)
    if is_hidden:
        return f'a process listens at {path}, where this command cannot see it'
    return f'a process listens at {path}, where this command does not look'


def trusted_users(file: str, named: int | None = None) -> set[int]:
    """Return the users whose entries count: root, the caller, the .ini's owner, --user."""
    if not hasattr(os, 'geteuid'):
        return set()
    users = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        users.add(os.stat(file).st_uid)
    return users if named is None else {*users, named}


def is_own(owner: int) -> bool:
    """Whether the entries of a user can be believed without a check."""
    return owner in (0, os.geteuid())


def _described(found: Found) -> str:
    sections = found.entry.sections if found.entry is not None else ''
    return f'process {found.pid or "?"}{sections}'


def _is_of_another(
    found: Found, names: Names, entries: Iterable[Entry] = (), *, with_ini: bool = True
) -> bool:
    """Whether the PID file is that of another site, which ``found.other`` then names."""
    if found.state != RUNNING or found.lock is None:
        return False
    path = real_path(found.lock.path)
    known = [entry.names for entry in entries if entry.pid_file == path]
    with contextlib.suppress(NoAnswer):
        known = known or [names_of(ask(found.control, 'status'))]
    for fields in known:
        if not all(fields.values()):
            continue  # it is of a version that does not say it
        if with_ini and not names.has_ini(fields):
            found.other = printable(fields['ini'])
        elif names.differ_from(fields):
            found.other = f'[server:{fields["server"]}], [app:{fields["app"]}]'
            found.other = printable(found.other)
    return bool(found.other)


def _refuse_other(found: Found, names: Names) -> None:
    """Refuse a PID file that is that of other sections than the command line names."""
    if _is_of_another(found, names, with_ini=False) and found.lock is not None:
        problem = f'{_short(found.lock.path)} is that of {found.other}{found.who}'
        found.is_unknown(NotKnown(problem))


def _is_gunicorns(options: Options) -> bool:
    """Whether the .ini's server is gunicorn, whose process has no control socket."""
    from paste_wspbus.hosts.gunicorn import is_server
    from paste_wspbus.ini.config import Config

    try:
        config = Config(options.config, options.vars, working_folder())
    except (WSPBusError, OSError):
        return False
    return not options.server and is_server(config, options.server_name)


def without_replaced(sites: list[Found]) -> list[Found]:
    """Leave out each site that ends at this moment, because another process replaces it."""

    def holds(found: Found) -> bool:
        return found.entry is not None and found.entry.holder == found.pid

    held = {one.lock.path for one in sites if one.lock is not None and holds(one)}
    return [
        one
        for one in sites
        if one.lock is None or holds(one) or one.lock.path not in held
    ]


def find_by_entry(entry: Entry) -> Found:
    """Return what is known about the site of an entry.

    If another user than root and the caller owns the entry, the site counts only if the
    system says that a process of that user runs it.
    """
    if entry.pid_file is not None:
        lock = PIDLock(entry.pid_file)
        lock.control, lock.known_holder = entry.control, entry.holder
        found = find_by_pid_file(lock)
        # The PID file is another site's now.
        if entry.has_ended and found.state == RUNNING:
            found.state = NOT_RUNNING
        elif found.state != RUNNING and _is_held(entry):
            found = _find_without_lock(entry, lock)
    else:
        found = _find_by_socket(entry.control, entry.holder)
    found.entry = entry
    if not is_own(entry.owner):
        users = users_of(found.pid) if found.pid else None
        if found.state != UNKNOWN and users != {entry.owner}:
            found.state = NOT_RUNNING
    return found


def _is_held(entry: Entry) -> bool:
    """Whether the system names the process that holds the entry, and it still does."""
    return bool(entry.holder) and entry.is_held_by() == entry.holder


def _find_without_lock(entry: Entry, lock: PIDLock) -> Found:
    """Find a site that runs, although it does not hold what is at the path of its lock now.

    Somebody has removed the lock, or put another file there. The site removes its entry
    before it releases its lock.
    """
    found = Found(RUNNING, entry.control, entry.holder)
    found.unlocked = lock.lock_path
    try:
        connect(entry.control, 1).close()
    except NoAnswer as error:
        is_lost = error.code == errno.ENOENT and not lock.exists
        found.lost = LOST if is_lost else ''
        found.problem = found.lost or why(error, entry.holder)
    return found


def _find_by_socket(control: str, holder: int | None) -> Found:
    """Find a site without a PID file.

    :param holder: the process that holds the entry of the site.
    """
    found = Found(RUNNING, control, holder or None)
    try:
        with connect(control, 1) as sock:
            process = listener_of(sock)
            if process is not None:
                found.pid = process.pid
                process.close()
        if found.pid is None:  # the system does not name it
            found.pid = process_of(ask(control, 'status'))
    except NoAnswer as error:
        if holder is None and not error.listens:
            found.state = NOT_RUNNING
        found.problem = why(error, found.pid)
    return found


def find_by_pid_file(lock: PIDLock) -> Found:
    """Return what a PID file says about its site."""
    found = Found(RUNNING, lock.control, None, lock)
    try:
        found.pid = lock.read()
    except (StalePIDFile, ForeignPIDFile) as error:
        found.state, found.pid, found.problem = DEAD, error.pid, str(error)
    except PIDFileError as error:
        found.is_unknown(error)
    else:
        if found.pid is None:
            found.state = NOT_RUNNING
            holds = os.path.exists(lock.path)
            name = _short(lock.path)
            found.problem = (
                f'no process holds {name}' if holds else f'there is no {name}'
            )
    return found


def why(error: NoAnswer, pid: int | None) -> str:
    """Return why a running site does not answer.

    :param pid: its process, if that is known.
    """
    if pid and error.code == errno.ETIMEDOUT and (silent := why_silent(pid)):
        return silent
    if error.code == errno.EACCES and pid and (users := users_of(pid)):
        return f'permission denied: it belongs to {name_of(max(users))}'
    # A starting site may have no socket yet, or no thread that answers there.
    starting = errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT
    folder = os.path.dirname(error.path)
    if error.code == errno.ENOENT and not os.path.isdir(folder):
        return f'there is no folder {folder} for its control socket'
    return (
        'it is still starting, or it hangs'
        if error.code in starting
        else error.reason.lower()
    )


def _short(path: str) -> str:
    with contextlib.suppress(FileNotFoundError, ValueError):
        relative = os.path.relpath(path)
        return relative if len(relative) < len(path) else path
    return path
