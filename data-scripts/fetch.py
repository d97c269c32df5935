"""Download data sets and released checkpoints: resumed, checked, unpacked, in their places.

    python data-scripts/fetch.py glue --only RTE MRPC       # what download_glue.sh calls
    python data-scripts/fetch.py squad --list               # addresses, without downloading
    FUNNEL_MIRROR=/copies python data-scripts/fetch.py race # from a directory, or another server

Needs Python 3.11 and nothing else. Proxies are taken from http_proxy and https_proxy. A mirror has
each file under the host and path of its address, as `wget -x` writes it; in a directory the file
names alone will do. An interrupted download continues when the same command is given again.
Checksums are not published: the first download that passes every check writes
download-manifest.json, later ones are compared with it. The exit status is 1 if a set failed.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - a system's own python3 may be older
    sys.exit("error: Python 3.11 or newer is needed: PYTHON=python3.11 bash ...")

import _paths  # noqa: F401

from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_data.downloads.catalog import (
    CHECKPOINT_FORMATS,
    CHECKPOINT_SIZES,
    GROUPS,
    DownloadSet,
    checkpoint_name,
)
from funnel_data.downloads.fetch import DownloadConfig, mirrored
from funnel_data.downloads.session import (
    MANIFEST_NAME,
    ConsoleProgress,
    Outcome,
    SessionConfig,
    provide_all,
)

MIRROR_VARIABLE = "FUNNEL_MIRROR"
FAILED = 1

# Group -> where it goes, and what it is.
ABOUT = {
    "glue": ("data/glue", "GLUE: nine tasks and the diagnostic set (download_glue.sh)"),
    "textcls": ("data", "IMDB, AG, DBpedia, Yelp and Amazon reviews (download_textcls.sh)"),
    "squad": ("data", "SQuAD 1.1 and 2.0 (download_squad.sh)"),
    "race": ("data", "RACE (download_race.sh)"),
    "wikipedia": ("data", "the latest dump of the English Wikipedia, for prepare_wikipedia.py"),
    "ckpts": ("ckpts", "released checkpoints (download_all_ckpts.sh)"),
}


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = parser.add_subparsers(dest="group", required=True, metavar="GROUP")
    for group, (dest, about) in ABOUT.items():
        sub = groups.add_parser(group, help=about, description=f"Download {about}.")
        names = ", ".join(chosen.name for chosen in GROUPS[group])
        what = sub.add_argument_group("what")
        if group == "ckpts":
            sizes, formats = ", ".join(CHECKPOINT_SIZES), ", ".join(CHECKPOINT_FORMATS)
            what.add_argument("--sizes", nargs="+", metavar="SIZE", help=f"{sizes} (default: all)")
            what.add_argument("--formats", nargs="+", metavar="F", help=f"{formats} (default: all)")
        else:
            what.add_argument("--only", nargs="+", metavar="SET", help=f"{names} (default: all)")
        what.add_argument("--list", action="store_true", help="print sizes and addresses, and end")
        what.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
        add_places(sub, dest)
        add_manner(sub)
    return parser.parse_args()


def add_places(parser: argparse.ArgumentParser, dest: str) -> None:
    where = parser.add_argument_group("where")
    where.add_argument(
        "--dest",
        type=Path,
        default=Path(dest),
        help="folder that gets one folder per set (default: %(default)s)",
    )
    where.add_argument(
        "--mirror",
        default=os.environ.get(MIRROR_VARIABLE),
        help="URL or directory to take everything from; files are looked for under host and path "
        f"of their address (default: the variable {MIRROR_VARIABLE})",
    )
    where.add_argument(
        "--manifest", type=Path, help=f"file of checksums (default: {MANIFEST_NAME} in --dest)"
    )
    where.add_argument(
        "--keep-archives", action="store_true", help="leave the downloads in --dest/.downloads"
    )


def add_manner(parser: argparse.ArgumentParser) -> None:
    default = DownloadConfig()
    how = parser.add_argument_group("how")
    how.add_argument(
        "--attempts",
        type=int,
        default=default.attempts,
        help="failures in a row after which a file is given up (default: %(default)s)",
    )
    how.add_argument(
        "--stall-seconds",
        type=float,
        default=default.stall_seconds,
        help="break off and retry a transfer that stands still for so long (default: %(default)s)",
    )
    how.add_argument(
        "--any-size",
        action="store_true",
        help="accept another number of records than the published one",
    )
    how.add_argument(
        "--force", action="store_true", help="replace folders that are there but not whole"
    )


def choose_sets(flags: argparse.Namespace) -> list[DownloadSet]:
    """Return the sets of the group that the flags leave."""
    sets = GROUPS[flags.group]
    if flags.group == "ckpts":
        sizes = _selected("--sizes", flags.sizes, list(CHECKPOINT_SIZES))
        formats = _selected("--formats", flags.formats, list(CHECKPOINT_FORMATS))
        wanted = [checkpoint_name(size, form) for size in sizes for form in formats]
    else:
        wanted = _selected("--only", flags.only, [chosen.name for chosen in sets])
    return [chosen for chosen in sets if chosen.name in wanted]


def _selected(flag: str, given: Sequence[str] | None, known: list[str]) -> list[str]:
    """Return the known names among ``given`` (commas separate too), or all if none is given."""
    by_key = {name.lower(): name for name in known}
    words = [word for text in given or () for word in text.replace(",", " ").split()]
    for word in words:
        if word.lower() not in by_key:
            raise ConfigError(f"{flag} {word}: one of {', '.join(known)} is expected")
    return [by_key[word.lower()] for word in words] or known


def make_config(flags: argparse.Namespace) -> SessionConfig:
    if flags.attempts < 1 or flags.stall_seconds <= 0:
        raise ConfigError("--attempts must be at least 1 and --stall-seconds more than 0")
    return SessionConfig(
        dest=flags.dest,
        manifest=flags.manifest,
        any_size=flags.any_size,
        keep_archives=flags.keep_archives,
        force=flags.force,
        download=DownloadConfig(
            mirror=flags.mirror,
            attempts=flags.attempts,
            stall_seconds=flags.stall_seconds,
        ),
    )


def print_list(sets: Sequence[DownloadSet], config: SessionConfig, *, is_plan: bool) -> None:
    """Print one line per address, the address last."""
    for chosen in sets:
        sizes = f"{chosen.download_mb:>9,.1f} MB, {chosen.disk_mb:>9,.1f} MB unpacked"
        folder = config.dest / chosen.name
        is_there = folder.is_dir() and any(folder.iterdir())
        plan = f"{folder}: {'only checked' if is_there else 'to download'}  " if is_plan else ""
        for url in chosen.urls:
            print(f"{chosen.name:24} {sizes}  {plan}{mirrored(url, config.download.mirror)}")
            sizes = " " * len(sizes)
    total, disk = sum(s.download_mb for s in sets), sum(s.disk_mb for s in sets)
    print(f"about {total:,.0f} MB to download, {disk:,.0f} MB unpacked", file=sys.stderr)


def report(outcomes: Sequence[Outcome], config: SessionConfig) -> None:
    """Print the summary and end the program with 1 if a set is missing."""
    failures = [outcome for outcome in outcomes if outcome.is_failure]
    states = [outcome.state for outcome in outcomes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{config.dest}: {counts}")
    for outcome in failures:
        print(f"  {outcome.name}: {outcome.detail}")
    if failures:
        sys.exit(FAILED)


def main() -> None:
    logging.basicConfig(format="%(message)s")
    flags = parse_flags()
    sets, config = choose_sets(flags), make_config(flags)
    if flags.list or flags.dry_run:
        print_list(sets, config, is_plan=flags.dry_run)
        return
    report(provide_all(sets, config, ConsoleProgress()), config)


if __name__ == "__main__":
    run_main(main)
