"""How an application learns when the server had its request."""

from __future__ import annotations

#: The key in ``environ`` of the time.monotonic() at which the server had the request.
RECEIVED_KEY = 'wspbus.received'
