"""Commands: parse the flags, then import PyTorch and run; see :mod:`funnel.cli.command`."""
