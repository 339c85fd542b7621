"""The titles of processes, which ps(1) and top(1) show in the place of their command lines."""

from __future__ import annotations

import os


def set_title(what: str, ini: str) -> None:
    """Show what a process is for, if `setproctitle` is installed: 'wspserve: worker 2 site.ini'.

    :param what: the name of its role, such as 'worker 2'; 'site' for the only process.
    :param ini: the .ini of the site, whose folder is left out.
    """
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    name = os.path.basename(ini)
    setproctitle(f'wspserve: {name}' if what == 'site' else f'wspserve: {what} {name}')
