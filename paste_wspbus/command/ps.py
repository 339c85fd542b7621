"""The subcommand ``ps``: all running sites that this user may see."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import time

from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.command.finding import (
    NOT_RUNNING,
    RUNNING,
    Found,
    find_by_entry,
    is_own,
    trusted_users,
    without_replaced,
)
from paste_wspbus.control.client import NoAnswer, connect, receive, send
from paste_wspbus.control.register import Entry, read_entries
from paste_wspbus.control.status import number, text, texts
from paste_wspbus.exits import DONE, IS_UNKNOWN
from paste_wspbus.unix.processes import listener_of, users_of
from paste_wspbus.unix.users import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from paste_wspbus.process.options import Options

#: Seconds that a site has to answer; and the number of sites that are asked at a time.
PATIENCE, AT_A_TIME = 1.0, 16

#: The same if it says what all machines of its cluster do: its engine may be slow.
MACHINES_PATIENCE = 8.0

#: The states that are shown for a site that does not report its own.
SILENT, FORBIDDEN = 'does not answer', 'not permitted'

#: The states in which a site serves nowhere.
IDLE = ('STARTING', 'STOPPED', 'STOPPING', 'EXITING')

HEADING = ('PROCESS', 'USER', 'STATE', 'GENERATION', 'SINCE', 'SERVING', 'SITE')


def ps(options: Options) -> int:
    """Print the running sites of this user; those of all users, if this is root.

    :returns: 0; 4 if there is a place that cannot be read.
    """
    # A site that hangs holds up no other.
    from concurrent.futures import ThreadPoolExecutor

    is_root = hasattr(os, 'geteuid') and os.geteuid() == 0
    entries, problems = read_entries((), everybody=is_root)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = without_replaced(list(pool.map(find_by_entry, entries)))
        describe_one = functools.partial(_describe, machines=options.cluster)
        sites = [site for site in pool.map(describe_one, found) if site is not None]
    sites.sort(key=lambda site: (site['ini'], site['pid'] or 0))
    if options.cluster:
        from paste_wspbus.command.ps_cluster import show

        show(sites, options.json)
    elif options.json:
        print_answer(json.dumps(sites, indent=2), absolute=True)
    else:
        print_answer('\n'.join(in_columns([HEADING, *map(_row, sites)])), absolute=True)
    for problem in problems:
        print(f'Not all sites are known: {problem}', file=sys.stderr)
    if not sites and not problems and not options.json and not options.cluster:
        print_answer(f'No site of {"any" if is_root else "this"} user is running.')
    return IS_UNKNOWN if problems else DONE


def _describe(found: Found, machines: bool) -> dict[str, Any] | None:
    """Return what is known of a site; None if it has ended."""
    entry = found.entry
    if entry is None:
        return None
    if found.state != RUNNING and (found.state == NOT_RUNNING or not entry.holder):
        return None
    status, state = _ask(entry, found, machines)
    return {
        'pid': found.pid or entry.holder or None,
        'user': name_of(entry.owner if not is_own(entry.owner) else _runs_as(found)),
        'state': text(status.get('state')) if status else state,
        'generation': status.get('generation'),
        'since': number(status, 'since'),
        'urls': texts(status, 'urls'),
        **entry.names,
        'pid_file': entry.pid_file,
        'log_file': entry.log_file,
        'control': entry.control,
        **({'cluster': status.get('cluster')} if machines else {}),
        # Another user says so, who has no right to this .ini.
        'is_claim': entry.owner not in trusted_users(entry.file),
    }


def _runs_as(found: Found) -> int:
    """Return the user of the process."""
    users = users_of(found.pid) if found.pid else None
    return max(users) if users else os.geteuid()


def _ask(entry: Entry, found: Found, machines: bool) -> tuple[dict[str, Any], str]:
    """Return the status that the site reports; or {}, and the state that is shown instead."""
    try:
        patience = MACHINES_PATIENCE if machines else PATIENCE
        with connect(found.control, PATIENCE) as sock:
            if not is_own(entry.owner) and not _is_of(sock, entry.owner):
                return {}, SILENT
            send(sock, 'status', machines=machines)
            return receive(sock, patience) or {}, SILENT
    except NoAnswer as error:
        return {}, FORBIDDEN if error.code == errno.EACCES else SILENT


def _is_of(sock: socket.socket, user: int) -> bool:
    """Whether a process of this user listens at the other end."""
    process = listener_of(sock)
    if process is None:
        return False
    try:
        return users_of(process.pid) == {user}
    finally:
        process.close()


def _row(site: dict[str, Any]) -> tuple[str, ...]:
    since = '?'
    if site['since'] is not None:
        try:
            moment = time.localtime(site['since'])
            since = time.strftime('%Y-%m-%d %H:%M:%S', moment)
        except (OverflowError, ValueError, OSError):
            pass
    sections = ''.join(
        f' [{kind}:{site[kind]}]' for kind in ('server', 'app') if site[kind] != 'main'
    )
    return tuple(
        text(cell)
        for cell in (
            site['pid'] or '?',
            site['user'],
            site['state'],
            '?' if site['generation'] is None else site['generation'],
            since,
            '-' if site['state'] in IDLE else ' '.join(site['urls']) or '?',
            f'{"claims to be " * site["is_claim"]}{site["ini"]}{sections}',
        )
    )
