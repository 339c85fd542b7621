"""What a process holds before there is a site, and hands to its successor."""
