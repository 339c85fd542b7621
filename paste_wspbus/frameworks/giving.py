"""Giving the bus to the applications of frameworks; a failure is a warning."""

from __future__ import annotations

import logging

from paste_wspbus.frameworks.guests import Taken, kept, version_of
from paste_wspbus.frameworks.guests import log as warn
from paste_wspbus.frameworks.inside import applications

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.frameworks import Framework


def give(
    app: Any, bus: Bus, present: list[Framework], log: Callable[..., object] | None
) -> list[str]:
    """Give the bus to each application of these frameworks; see `frameworks.introduce`."""
    introduced: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for one in applications(app):
        for framework in tuple(present):
            try:
                if framework.give(one, bus):
                    introduced[framework.title] = None
            except Taken as error:
                warnings[kept(framework.title, framework.distribution, error)] = None
            except Exception as error:
                present.remove(framework)
                warnings[_moved(framework, error)] = None
    for warning in warnings:
        (warn if log is None else log)(warning, level=logging.WARNING)
    return list(introduced)


def _moved(framework: Framework, error: Exception) -> str:
    """Return the warning that a framework does not keep its globals where it did."""
    problem = ' '.join(f'{type(error).__name__}: {error}'.split())
    return (
        f'{framework.title} {version_of(framework.distribution)}: '
        f'its applications are served without the bus in their globals ({problem})'
    )
