"""What the command line says, and nothing else."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.unix.users import Identity


class Options:
    """The command line, parsed; see `arguments.parse`. What a run adds is in `Launch`."""

    args: list[str]
    verbose = 0
    quiet = 0
    app_name: str | None = None
    server: str | None = None
    server_name: str | None = None
    log_file: str | None = None
    pid_file: str | None = None
    daemon = False
    monitor_restart = False
    user: str | None = None
    group: str | None = None
    status = False
    stop_daemon = False
    #: Where to listen, instead of what the .ini says.
    listen: list[str] | None = None
    #: How many worker processes serve; None: the .ini says it.
    workers: int | None = None
    #: Whether `graceful` returns at once.
    no_wait = False
    #: Whether `status` prints JSON.
    json = False
    #: Whether the site is restarted when a file of it changes.
    reload = False
    #: 'fork', 'child' or 'execv'; None: the .ini says it, or fork if the system can.
    reloader: str | None = None
    #: Seconds between two looks at the files, if the system does not report changes.
    reload_interval = 1.0
    #: Whether a browser shows the site once it serves.
    browser = False
    check = False
    version = False
    #: The .ini, which is the first of ``args``, and its variables, which are the others.
    config: str
    vars: dict[str, str]
    #: 0: nothing is printed; 1: the usual; 2 and more: tracebacks, too.
    verbosity: int
    #: One of SUBCOMMANDS.
    subcommand: str | None = None
    #: Whether a running site stops, and hands its sockets to this process.
    replaces = False
    #: The user and the group that --user and --group name.
    identity: Identity | None = None
