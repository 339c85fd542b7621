"""A health check: whether the disk of a folder has room. ops.ini uses it."""

import shutil


def plugin(bus, global_conf, folder, megabytes):
    """Add the check 'disk', which is shown on /health, and does not make the site unready."""

    @bus.health('disk', group='health', every=30)
    def disk():
        free = shutil.disk_usage(folder).free >> 20
        if free < int(megabytes):
            raise OSError(f'{folder} has {free} MB left')
        return {'free': f'{free} MB'}
