"""The ops listener: HTTP pages on the state of the site, for probes, monitors and operators."""
