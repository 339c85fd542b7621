"""Listening sockets: their addresses, their backlog, and those that systemd passes."""
