"""The flags of absl's log, in every program whose original had them."""

import logging

import pytest

from funnel.cli.ckpt_to_pt import CheckpointPaths
from funnel.cli.create_pretrain_data import CreateDataSettings
from funnel.cli.flags import parse_settings
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging

FLAGS = ["--alsologtostderr", "--logtostderr=false"]
SPELLINGS = [["--verbosity=1"], ["--verbosity", "1"], ["-v=1"], ["-v", "1"], ["--v=1"]]


def _check(parse):
    assert not parse().absl.verbose and not parse().absl.quiet
    assert parse(*FLAGS).absl.alsologtostderr
    for spelling in SPELLINGS:
        assert parse(*FLAGS, *spelling).absl.verbose, spelling
        assert parse(*(part.replace("1", "-1") for part in spelling)).absl.quiet
    with pytest.raises(ConfigError, match="many"):
        parse("--verbosity=many")


def test_programs_of_argparse():
    classes = [CheckpointPaths, CreateDataSettings]
    pytest.importorskip("absl")
    from funnel_tf.cli.programs import ModifySettings

    for settings in (*classes, ModifySettings):
        _check(lambda *argv, s=settings: parse_settings(s, "", argv, absl_booleans=True))


def test_programs_of_absl():
    pytest.importorskip("absl")
    import tf_program_runs
    from funnel_tf.cli.programs import PROGRAMS

    for name in PROGRAMS:
        _check(lambda *argv, n=name: tf_program_runs.parse_settings(n, *argv))
        settings = tf_program_runs.parse_settings(name, "-v=1")
        assert settings.verbose and settings.given == {"verbosity"}


def test_levels():
    try:
        for arguments, level in (
            ({"quiet": True}, logging.WARNING),
            ({"verbose": True}, logging.DEBUG),
            ({}, logging.INFO),
        ):
            configure_logging(**arguments)
            assert logging.getLogger("funnel").level == level
    finally:
        configure_logging()
