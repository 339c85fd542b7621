"""The keys and sections that do nothing in this process, because it has no workers."""

from __future__ import annotations

from paste_wspbus.ini.listed import check_cluster_plugins, is_clustered
from paste_wspbus.ini.settings import FOR_WORKERS, SETTINGS, section_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.process import Process


def idle_keys(process: Process) -> list[str]:
    """Return a sentence on each key or section that does nothing in this process.

    The same .ini may serve one process by ``--workers 0`` or ``--reload``: whoever writes
    that knows that such keys do nothing.

    :raises ConfigError: if cluster plugins have no process here.
    """
    name = process.options.server_name
    check_cluster_plugins(process.config, process.workers, process.server, name)
    settings = process.config.settings
    if settings['workers'] or process.workers or process.options.reload:
        return []
    lines = []
    # A site with cluster plugins gets here only under gunicorn: see
    # `listed.check_cluster_plugins`.
    if is_clustered(process.config) and not settings['cluster_plugins']:
        lines.append(
            '[cluster:main] does nothing without workers: this site is no machine of a cluster'
        )
    for key in FOR_WORKERS:
        value = settings[key]
        if not value or value == SETTINGS[key].default:
            continue
        if key == 'request_deadline' and not any(value.values()):
            continue
        if key != 'preload' and process.is_supervised:
            continue
        does = 'only logs' if key == 'request_deadline' else 'does nothing'
        more = '' if key == 'preload' else ' or --monitor-restart'
        section = section_of(process.config.loader)
        lines.append(f'[{section}] {key} {does} without workers{more}')
    return lines
