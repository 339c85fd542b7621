"""What a supervisor and its processes say to each other, in lines over a connection."""
