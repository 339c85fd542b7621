"""The files of a site, how a process learns that they have changed, and its event loop."""
