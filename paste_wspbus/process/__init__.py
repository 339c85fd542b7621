"""What a process holds before there is a site, and leaves to its successor."""
