"""Imports PasteDeploy without `importlib.metadata`, which only ``egg:`` entries need.

PasteDeploy imports it with its first line. With Python's parser of e-mails and zip files,
that takes as long as the import of the whole package and more.
"""

from __future__ import annotations

import importlib
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = 'importlib.metadata'


class _Metadata(types.ModuleType):
    """What PasteDeploy has as ``importlib_metadata``: its first use imports the module."""

    def __getattr__(self, name: str) -> Any:
        self.remove()  # another thread may import it just now
        return getattr(importlib.import_module(_NAME), name)

    def remove(self) -> None:
        """Leave the place to the module itself."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        if vars(importlib).get('metadata') is self:
            del importlib.metadata


def _import() -> types.ModuleType:
    """Return `paste.deploy.loadwsgi`."""
    stand_in = _Metadata(_NAME)
    if sys.modules.setdefault(_NAME, stand_in) is stand_in:
        importlib.metadata = stand_in  # for other threads, which may import it just now
    try:
        from paste.deploy import loadwsgi
    finally:
        stand_in.remove()
    return loadwsgi  # type: ignore[no-any-return]


loadwsgi: Any = _import()
importlib_metadata: Any = loadwsgi.importlib_metadata
