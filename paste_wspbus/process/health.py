"""The health checks of this process: which resources are asked, and what others learn of it."""

from __future__ import annotations

from paste_wspbus.ini.masking import secrets_of
from paste_wspbus.ops.health import Checked, checks_of, masked, rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.bus import Bus
    from paste_wspbus.ini.config import Config


def find_resources(bus: Bus) -> None:
    """Check what plugins yield, if it has a method health() or is of a known class."""
    from paste_wspbus.ops.found import check_of

    if hasattr(bus, 'make_checks'):
        bus.make_checks().find = check_of


class Masked:
    """The checks of a bus, without the secrets of the .ini in their texts."""

    def __init__(self, config: Config) -> None:
        self._secrets = secrets_of(config)

    def checks_of(self, bus: Bus) -> list[dict[str, Any]]:
        """Return the checks as they are now: see `ops.health.checks_of`."""
        return self.mask(checks_of(bus))

    def mask(self, checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return checks without secrets in their texts."""
        return masked(checks, self._secrets)


def reporter(
    config: Config, report: Callable[[list[dict[str, Any]]], object]
) -> Callable[[list[dict[str, Any]]], object]:
    """Return a function that reports checks, without the secrets of the .ini."""
    own: list[Masked] = []  # made when there is something to report

    def report_masked(checks: list[dict[str, Any]]) -> None:
        if not own:
            own.append(Masked(config))
        report(own[0].mask(checks))

    return report_masked


def rows_of(bus: Bus, config: Config) -> list[dict[str, Any]]:
    """Return what `status` shows of the checks of a site of one process."""
    return rows([Checked('site', True, Masked(config).checks_of(bus))])
