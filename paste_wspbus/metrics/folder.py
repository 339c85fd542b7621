"""The folder of the site's own metrics, which a supervisor makes for its processes."""

from __future__ import annotations

import os
import shutil
import tempfile

from paste_wspbus.errors import ConfigError, WSPBusError
from paste_wspbus.metrics.page import MISSING, is_installed
from paste_wspbus.metrics.site import VARIABLE

#: The variable of systemd's RuntimeDirectory=: it removes that folder after a stop.
RUNTIME = 'RUNTIME_DIRECTORY'


def check(file: str | None, section: str | None) -> None:
    """Check that the site's own metrics can be shown: the section has ``site_metrics``.

    :raises ConfigError: if prometheus_client is not installed.
    """
    if not is_installed():
        raise ConfigError(file, f'it {MISSING}', section=section, key='site_metrics')


class MetricsFolder:
    """A folder for prometheus_client: that of the environment, or else a new one.

    :raises WSPBusError: if no folder can be made.
    """

    def __init__(self) -> None:
        self.path = os.environ.get(VARIABLE, '')
        #: Whether this has made it, and removes it.
        self.is_own = not self.path
        place = os.environ.get(RUNTIME, '').partition(':')[0] or None
        try:
            if self.is_own:
                self.path = tempfile.mkdtemp(prefix='wspbus-metrics-', dir=place)
            else:
                os.makedirs(self.path, 0o700, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(13, 'Permission denied', self.path)
        except OSError as error:
            why = error.strerror or str(error)
            what = f'there is no folder for the metrics of the site: {why}'
            named, value = (RUNTIME, place) if self.is_own else (VARIABLE, self.path)
            if value:
                what += f' ({named} is {value})'
            raise WSPBusError(f'[wspbus:main] site_metrics: {what}') from None

    def use(self) -> None:
        """Let prometheus_client use it in this process, a child of the supervisor."""
        os.environ[VARIABLE] = self.path

    def remove(self) -> None:
        """Remove it at the end of the supervisor, if this has made it."""
        if self.is_own:
            shutil.rmtree(self.path, ignore_errors=True)
