"""The options of the command line, parsed."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.unix.users import Identity


class Options:
    """The command line, parsed; see `arguments.parse`. `Launch` has the state of the run."""

    args: list[str]
    verbose = 0
    quiet = 0
    app_name: str | None = None
    server: str | None = None
    server_name: str | None = None
    log_file: str | None = None
    pid_file: str | None = None
    #: The name that was given for ``pid_file``, if a link in it leads elsewhere by now.
    named_pid_file: str | None = None
    #: The path of the control socket, if the .ini names one.
    control: str | None = None
    daemon = False
    monitor_restart = False
    user: str | None = None
    group: str | None = None
    status = False
    stop_daemon = False
    #: The addresses to listen on; None stands for those of the .ini.
    listen: list[str] | None = None
    #: The addresses of the ops listener; None stands for those of the .ini.
    ops: list[str] | None = None
    #: The number of workers; None stands for that of the .ini.
    workers: int | None = None
    #: Whether `graceful` returns at once.
    no_wait = False
    #: Whether `graceful` asks for a restart without a soak.
    no_soak = False
    #: Whether `status` prints JSON.
    json = False
    #: Whether a subcommand loads the site in another process.
    load = False
    #: The file in which a timeline is drawn.
    timeline: str | None = None
    #: Whether a subcommand is about all machines of the cluster.
    cluster = False
    #: The machine with which `graceful --cluster` begins.
    machine: str | None = None
    #: Whether `status` goes on showing it, and how many seconds pass between two looks.
    watch = False
    interval: float | None = None
    #: Whether the site is restarted when a file of it changes.
    reload = False
    #: 'fork', 'child' or 'execv'. None stands for that of the .ini; without one, it is
    #: fork if the system can do that.
    reloader: str | None = None
    #: Seconds between two checks of the files, if the system does not report changes.
    reload_interval = 1.0
    #: Whether the files are checked so often in any case.
    reload_poll = False
    #: Whether a browser shows the site as soon as it serves.
    browser = False
    check = False
    #: Whether --check loads the site, too.
    compose = False
    version = False
    #: The file of uWSGI that --from names.
    from_file: str | None = None
    #: The shell that --completion names.
    completion: str | None = None
    #: The .ini is the first of ``args``; the others are its variables.
    config: str
    vars: dict[str, str]
    #: 0 prints nothing, 1 the usual lines, 2 and more tracebacks, too.
    verbosity: int
    #: One of SUBCOMMANDS.
    subcommand: str | None = None
    #: Whether a running site stops, and hands its sockets to this process.
    replaces = False
    #: The user and the group that --user and --group name.
    identity: Identity | None = None
