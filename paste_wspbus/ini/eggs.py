"""The loader of eggs: the entry points of installed distributions, as ``egg:NAME`` names them."""

from __future__ import annotations

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import NO_NAME, one_line
from paste_wspbus.ini.pastedeploy import importlib_metadata, loadwsgi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class EggLoader(loadwsgi.EggLoader):  # type: ignore[misc]
    """PasteDeploy's loader of eggs, but its errors say what is wrong."""

    def get_context(
        self, object_type: Any, name: str | None = None, global_conf: Any = None
    ) -> Any:
        """Find an entry point.

        :raises ConfigError: if the distribution or the entry point is missing.
        """
        where = f'egg:{self.spec}'
        if not self.spec:
            raise ConfigError(where, NO_NAME)
        try:
            context = super().get_context(object_type, name, global_conf)
        except importlib_metadata.PackageNotFoundError:
            from paste_wspbus.ini.hints import distribution_hint

            problem = f'the distribution {self.spec!r} is not installed'
            problem += distribution_hint(self.spec)
            raise ConfigError(where, problem) from None
        except LookupError as error:
            if object_type is loadwsgi.SERVER and not name:
                raise ConfigError(where, 'there is no section [server:main]') from None
            from paste_wspbus.ini.hints import entry_points

            raise ConfigError(where, entry_points(str(error).strip('"'))) from None
        except Exception as error:
            raise ConfigError(where, one_line(error)) from error
        context.file = where
        return context

    def factory_name(self, kind: Any, name: str | None) -> str | None:
        """Return the factory of an entry point as 'module:function', without importing it."""
        if not self.spec:
            return None
        groups = loadwsgi._flatten(kind.egg_protocols)
        try:
            known = importlib_metadata.distribution(self.spec).entry_points
        except importlib_metadata.PackageNotFoundError:
            return None
        for entry in known:
            if entry.group in groups and entry.name == (name or 'main'):
                return str(entry.value).partition(' ')[0]
        return None
