"""The open requests of waitress, and what each of them waits for."""

from __future__ import annotations

from waitress.task import Task

from paste_wspbus.servers.cutting import (
    RequestInFlight,
    WaitsFor,
    stacks_by_owner,
    text_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from paste_wspbus.servers.cutting import Stack


def open_requests(channels: Iterable[Any]) -> list[RequestInFlight]:
    """List the requests of channels."""
    stacks, found = stacks_by_owner(), []
    for channel in channels:
        request = channel.request
        if channel.requests:
            request = channel.requests[0]
        elif channel.total_outbufs_len:
            request = channel.answered
        if request is not None and not request.empty:
            found.append(_open_request(channel, request, stacks))
    return found


def _open_request(
    channel: Any, request: Any, stacks: Mapping[int, Stack]
) -> RequestInFlight:
    stack = stacks.get(id(channel))
    task = stack.find(Task) if stack is not None else None
    if channel.total_outbufs_len:
        waits_for = WaitsFor.CLIENT_READS
    elif not channel.requests:
        waits_for = WaitsFor.CLIENT_SENDS
    elif stack is None:
        waits_for = WaitsFor.THREAD
    elif getattr(task, 'wrote_header', False):
        waits_for = WaitsFor.STREAM
    else:
        waits_for = WaitsFor.APPLICATION
    # Until the head is complete, waitress has none.
    method = getattr(request, 'command', '')
    target = getattr(request, 'path', '')
    return RequestInFlight(
        text_of(method),
        text_of(target),
        request.since,
        waits_for,
        stack,
        channel,
    )
