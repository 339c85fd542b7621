"""Metrics as Prometheus reads them: those of the bus, and those of the site itself."""
