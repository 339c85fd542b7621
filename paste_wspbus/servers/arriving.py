"""What a server tells others of the begin and the end of a request."""

from __future__ import annotations

#: The key in ``environ`` of the time.monotonic() at which the server had the request.
RECEIVED_KEY = 'wspbus.received'

#: How a request has ended that was answered, for an access log.
DONE = 'done'
