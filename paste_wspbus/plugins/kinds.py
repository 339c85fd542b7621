"""Types for the settings of a plugin: its factory's annotations say what the .ini may have.

::

    def cache(bus, global_conf, url: Url, size: Bytes = 10 * 2**20, expires: Seconds = 60):

Further annotations: ``int``, ``float``, ``bool``, ``str``, ``list[str]`` (and of other
types), ``pathlib.Path``, ``Literal['a', 'b']``, each also ``| None``.
"""

from __future__ import annotations

from typing import NewType

#: A duration in seconds; in the .ini 500ms, 5, 5s, 10m or 12h.
Seconds = NewType('Seconds', float)

#: A size in bytes; in the .ini 4096, 10K, 300M or 2G.
Bytes = NewType('Bytes', int)

#: A URL: it has a scheme, ://, and a host or a path.
Url = NewType('Url', str)
