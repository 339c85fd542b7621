"""Listening sockets: their addresses, their backlogs, and the sockets that systemd passes."""
