"""The start of a daemon: it waits for its turn among commands, and keeps the user of the site."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from paste_wspbus.ini.config import Config
    from paste_wspbus.process.inheritance import Inheritance
    from paste_wspbus.process.launch import Launch

#: Seconds that another command may take to restart the site, in addition to its deadlines.
TURN = 10.0


def become_daemon(
    launch: Launch,
    config: Config,
    inheritance: Inheritance,
    gunicorns: dict[str, Any] | None,
) -> str:
    """Become a daemon when no other command starts or restarts the site.

    :param gunicorns: the settings of a server that owns its process; None if it does not.
    :returns: a line for the log, or ''.
    """
    options, settings, note = launch.options, config.settings, ''
    try:
        with launch.early.raising():  # the other command may take a long time
            launch.take_turn(
                settings['start_timeout'] + settings['stop_timeout'] + TURN
            )
        if options.replaces:
            from paste_wspbus.process import predecessor

            if gunicorns is None:
                note = predecessor.keep_user(options)
            else:
                predecessor.keep_user_of_workers(options, gunicorns)
        launch.daemonize(inheritance.kept, config)
    finally:
        launch.end_turn()
    return note
