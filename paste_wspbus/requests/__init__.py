"""Requests on the bus: the filter around the application, and the requests in flight."""
