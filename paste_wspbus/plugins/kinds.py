"""Types for the settings of a plugin: its factory's annotations say what the .ini may have.

::

    def cache(bus, global_conf, url: Url, size: Bytes = 10 * 2**20, expires: Seconds = 60):

Further annotations: ``int``, ``float``, ``bool``, ``str``, ``list[str]`` (and of other
types), ``pathlib.Path``, ``Literal['a', 'b']``, each also ``| None``. `CronLine`, `Zone`
and `Function` are what the ready-made plugins take.
"""

from __future__ import annotations

from typing import NewType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo
    from typing import TypeAlias

    Zone: TypeAlias = tzinfo
else:
    #: A time zone; in the .ini its name, as Europe/Berlin, or local: that of the machine.
    Zone = NewType('Zone', object)

#: A duration in seconds; in the .ini 500ms, 5, 5s, 10m, 12h or 7d.
Seconds = NewType('Seconds', float)

#: A size in bytes; in the .ini 4096, 10K, 300M or 2G.
Bytes = NewType('Bytes', int)

#: A URL: it has a scheme, ://, and a host or a path.
Url = NewType('Url', str)

#: The times of a job; in the .ini a cron line, as ``15 3 * * *``. `plugins.schedule` reads it.
CronLine = NewType('CronLine', str)

#: The name of a function, as shop.jobs:nightly. It is checked, but not imported.
Function = NewType('Function', str)
