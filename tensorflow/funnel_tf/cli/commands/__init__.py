"""Commands: parse the flags, then import TensorFlow and run; see :mod:`funnel.cli.command`."""
