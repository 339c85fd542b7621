"""The command `wspserve`: its arguments, its subcommands, and the runners of the site."""
