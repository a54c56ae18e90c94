"""The subcommands of `nattlab`, one module each."""
