"""The command: arguments, subcommands, and the site it runs."""
