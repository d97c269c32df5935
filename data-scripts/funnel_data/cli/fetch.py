"""Download data sets and released checkpoints, with resuming and checks, and unpack them.

    {program} glue --only RTE MRPC       # what download_glue.sh calls
    {program} squad --list               # addresses, without downloading
    FUNNEL_MIRROR=/copies {program} race # from a directory, or another server

Needs Python 3.11 and no packages. Proxies are taken from the environment (http_proxy, https_proxy,
no_proxy), certificates from SSL_CERT_FILE if set. A mirror has each file under the host and path of
its address, as `wget -x` writes it; a directory may also have it under its name alone. An
interrupted download continues when the command is given again. Checksums are not published: the
first download that passes every check writes download-manifest.json, and later ones must match it.
The exit status is 1 if a set failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from funnel.cli.command import entry_point, fill_in
from funnel.utils.errors import ConfigError
from funnel_data.downloads.catalog import (
    CHECKPOINT_FORMATS,
    CHECKPOINT_SIZES,
    GROUPS,
    DownloadSet,
    checkpoint_name,
)
from funnel_data.downloads.fetch import DownloadConfig, mirror_address
from funnel_data.downloads.session import (
    MANIFEST_NAME,
    ConsoleProgress,
    Outcome,
    SessionConfig,
    download_sets,
)

MIRROR_VARIABLE = "FUNNEL_MIRROR"
FAILED = 1

# Default of --dest and description by group.
_GROUPS = {
    "glue": ("data/glue", "GLUE: nine tasks and the diagnostic set (download_glue.sh)"),
    "textcls": ("data", "IMDB, AG, DBpedia, Yelp and Amazon reviews (download_textcls.sh)"),
    "squad": ("data", "SQuAD 1.1 and 2.0 (download_squad.sh)"),
    "race": ("data", "RACE (download_race.sh)"),
    "wikipedia": ("data", "the latest dump of the English Wikipedia, for prepare_wikipedia.py"),
    "ckpts": ("ckpts", "released checkpoints (download_all_ckpts.sh)"),
}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser, with a subcommand for each group of sets."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = parser.add_subparsers(dest="group", required=True, metavar="GROUP")
    for group, (dest, about) in _GROUPS.items():
        sub = groups.add_parser(group, help=about, description=f"Download {about}.")
        _add_selection_flags(sub, group)
        _add_path_flags(sub, dest)
        _add_transfer_flags(sub)
    return parser


def _add_selection_flags(parser: argparse.ArgumentParser, group: str) -> None:
    flag = parser.add_argument_group("selection").add_argument
    if group == "ckpts":
        sizes, formats = ", ".join(CHECKPOINT_SIZES), ", ".join(CHECKPOINT_FORMATS)
        flag("--sizes", nargs="+", metavar="SIZE", help=f"{sizes} (default: all)")
        flag("--formats", nargs="+", metavar="F", help=f"{formats} (default: all)")
    else:
        names = ", ".join(dataset.name for dataset in GROUPS[group])
        flag("--only", nargs="+", metavar="SET", help=f"{names} (default: all)")
    flag("--list", action="store_true", help="print sizes and addresses, and exit")
    flag("--dry-run", action="store_true", help="print what would be done, and exit")


def _add_path_flags(parser: argparse.ArgumentParser, dest: str) -> None:
    flag = parser.add_argument_group("paths").add_argument
    flag(
        "--dest",
        type=Path,
        default=Path(dest),
        help="folder that gets one folder per set (default: %(default)s)",
    )
    flag(
        "--mirror",
        default=os.environ.get(MIRROR_VARIABLE),
        help="URL or directory to download everything from; it has each file under the host and "
        f"path of its address (default: the environment variable {MIRROR_VARIABLE})",
    )
    flag("--manifest", type=Path, help=f"file of checksums (default: {MANIFEST_NAME} in --dest)")
    flag("--keep-archives", action="store_true", help="keep the downloads in --dest/.downloads")


def _add_transfer_flags(parser: argparse.ArgumentParser) -> None:
    default = DownloadConfig()
    flag = parser.add_argument_group("download").add_argument
    flag(
        "--attempts",
        type=int,
        default=default.attempts,
        help="consecutive failures after which a download fails (default: %(default)s)",
    )
    flag(
        "--stall-seconds",
        type=float,
        default=default.stall_seconds,
        help="abort and retry a transfer that stalls for this long (default: %(default)s)",
    )
    flag(
        "--any-size",
        action="store_true",
        help="accept a number of records other than the published one",
    )
    flag("--force", action="store_true", help="replace existing folders that are incomplete")


def choose_sets(flags: argparse.Namespace) -> list[DownloadSet]:
    """Return the sets of the group that the flags select.

    Raises:
        ConfigError: a flag names an unknown set, size or format.
    """
    sets = GROUPS[flags.group]
    if flags.group == "ckpts":
        sizes = _select("--sizes", flags.sizes, list(CHECKPOINT_SIZES))
        formats = _select("--formats", flags.formats, list(CHECKPOINT_FORMATS))
        names = [checkpoint_name(size, form) for size in sizes for form in formats]
    else:
        names = _select("--only", flags.only, [dataset.name for dataset in sets])
    return [dataset for dataset in sets if dataset.name in names]


def _select(flag: str, given: Sequence[str] | None, known: list[str]) -> list[str]:
    """Return the known names among ``given`` (separated by commas too), all if none is given."""
    by_key = {name.lower(): name for name in known}
    words = [word for text in given or () for word in text.replace(",", " ").split()]
    for word in words:
        if word.lower() not in by_key:
            raise ConfigError(f"{flag} {word}: one of {', '.join(known)} is expected")
    return [by_key[word.lower()] for word in words] or known


def make_config(flags: argparse.Namespace) -> SessionConfig:
    """Return the settings of the session.

    Raises:
        ConfigError: a flag is out of range.
    """
    if flags.attempts < 1 or flags.stall_seconds <= 0:
        raise ConfigError("--attempts must be at least 1 and --stall-seconds more than 0")
    return SessionConfig(
        dest=flags.dest,
        manifest=flags.manifest,
        any_size=flags.any_size,
        keep_archives=flags.keep_archives,
        force=flags.force,
        download=DownloadConfig(
            mirror=flags.mirror, attempts=flags.attempts, stall_seconds=flags.stall_seconds
        ),
    )


def print_list(sets: Sequence[DownloadSet], config: SessionConfig, *, is_plan: bool) -> None:
    """Print one line per address, the address last."""
    for dataset in sets:
        sizes = f"{dataset.download_mb:>9,.1f} MB, {dataset.disk_mb:>9,.1f} MB unpacked"
        folder = config.dest / dataset.name
        exists = folder.is_dir() and any(folder.iterdir())
        plan = f"{folder}: {'only checked' if exists else 'to download'}  " if is_plan else ""
        for url in dataset.urls:
            address = mirror_address(url, config.download.mirror)
            print(f"{dataset.name:24} {sizes}  {plan}{address}")
            sizes = " " * len(sizes)
    total, disk = sum(s.download_mb for s in sets), sum(s.disk_mb for s in sets)
    print(f"about {total:,.0f} MB to download, {disk:,.0f} MB unpacked", file=sys.stderr)


def report(outcomes: Sequence[Outcome], config: SessionConfig) -> None:
    """Print the summary, and exit with status 1 if a set failed."""
    failures = [outcome for outcome in outcomes if outcome.is_failure]
    states = [outcome.state for outcome in outcomes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{config.dest}: {counts}")
    for outcome in failures:
        print(f"  {outcome.name}: {outcome.detail}")
    if failures:
        sys.exit(FAILED)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    logging.basicConfig(format="%(message)s")
    flags = make_parser(fill_in(__doc__)).parse_args(argv)
    sets, config = choose_sets(flags), make_config(flags)
    if flags.list or flags.dry_run:
        print_list(sets, config, is_plan=flags.dry_run)
        return
    report(download_sets(sets, config, ConsoleProgress()), config)


command = entry_point(main)
