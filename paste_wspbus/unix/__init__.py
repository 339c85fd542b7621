"""What a process is, without a site: its PID file, its user, its CPUs, other processes."""
