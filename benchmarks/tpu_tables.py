"""Tables of docs/tpu.md from benchmarks/results/tpu.json: compiled steps, and cost of pretraining.

python benchmarks/tpu_tables.py                             # print them
python benchmarks/tpu_tables.py --price=v3=1.10,v5e=0.60    # with your own price of a chip-hour
python benchmarks/tpu_tables.py --write                     # put them into docs/tpu.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import _paths  # noqa: F401

import tpu
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text
from funnel.utils.main import run_main
from harness import timing

PAGE = timing.REPOSITORY / "docs" / "tpu.md"
BEGIN, END = "<!-- begin: benchmarks/tpu_tables.py -->", "<!-- end: benchmarks/tpu_tables.py -->"
# Dollars of a chip for an hour, an assumption to replace: nothing here looks prices up.
PRICES = {"v2": 1.125, "v3": 2.0, "v4": 3.22, "v5e": 1.2, "v5p": 4.2, "v6e": 2.7}
# Sequences of the published pretraining: batch times steps.
BASE_SCALE, LARGE_SCALE = 256 * 10**6, 8192 * 500_000
# Devices of the compiler, cores, of a chip: 1 where it is not here.
DEVICES_PER_CHIP = {"v2": 2, "v3": 2}
STEP_COLUMNS = {
    "size": "size", "step": "step", "topology": "TPU", "batch": "batch per core",
    "memory": "memory, GiB", "teraflops": "TFLOP", "gigabytes": "GB accessed",
    "hbm_gigabytes": "of HBM", "milliseconds": "ms by peak", "cycle_milliseconds": "ms by cycles",
    "sequences_per_second": "sequences/s",
}  # fmt: skip
COST_COLUMNS = {
    "size": "size", "topology": "TPU", "base_days": "base scale, days", "base_cost": "$",
    "large_days": "large scale, days", "large_cost": "$",
}  # fmt: skip


def step_table(rows: Sequence[timing.Row]) -> list[timing.Row]:
    """Return the table of compiled steps; one that does not fit has its memory limit only."""
    table = []
    for row in rows:
        shown = {key: row.get(key) for key in STEP_COLUMNS}
        shown["step"] = f"{row['program']}, {row['seq_len']}"
        shown["batch"] = row["batch_per_core"]
        limit = f"{row['memory_of_device'] / tpu.GIB:.0f}"
        fits = f"{row['memory_gib']:.1f} of {limit}" if row["fits"] else f"more than {limit}"
        table.append(shown | {"memory": fits})
    return table


def cost_table(rows: Sequence[timing.Row], prices: Mapping[str, float]) -> list[timing.Row]:
    """Return days on the TPU of a row, and dollars, for the published pretraining of its size."""
    table = []
    for row in rows:
        if row["program"] != "electra" or not row["fits"]:
            continue
        chip = row["topology"].split("-")[0]
        seconds = row["devices"] / row["sequences_per_second"]  # of a core, per sequence
        shown = {"size": row["size"], "topology": row["topology"]}
        for scale, sequences in (("base", BASE_SCALE), ("large", LARGE_SCALE)):
            device_hours = sequences * seconds / 3600
            shown[f"{scale}_days"] = device_hours / row["devices"] / 24
            chip_hours = device_hours / DEVICES_PER_CHIP.get(chip, 1)
            shown[f"{scale}_cost"] = round(chip_hours * prices[chip], -1)
        table.append(shown)
    return table


def format_tables(rows: Sequence[timing.Row], prices: Mapping[str, float]) -> str:
    """Return both tables as Markdown, with the versions and prices that they depend on."""
    good = [row for row in rows if "error" not in row]
    if not good:
        return "Nothing has been compiled yet."
    versions = sorted({f"{n} {v}" for row in good for n, v in row["versions"].items()})
    chips = dict.fromkeys(row["topology"].split("-")[0] for row in good)
    assumed = ", ".join(f"{chip} ${prices[chip]:.2f}" for chip in chips)
    missing = len(tpu.list_cases()) - len(good)
    return "\n\n".join(
        [
            f"Compiled with {', '.join(versions)}. Not compiled yet: {missing} of "
            f"{len(tpu.list_cases())} (`python benchmarks/tpu.py --list`).",
            timing.markdown(step_table(good), STEP_COLUMNS),
            f"Cost, at these prices of a chip-hour: {assumed}.",
            timing.markdown(cost_table(good, prices), COST_COLUMNS),
        ]
    )


def replace_block(page: str, tables: str) -> str:
    """Return a page with the text between the markers replaced.

    Raises:
        DataError: the markers are not in the page.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise DataError(f"{PAGE}: needs one line {BEGIN} and one line {END}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def parse_prices(text: str) -> dict[str, float]:
    """Return the prices, those of ``v3=1.10,v5e=0.60`` in place of the assumed ones.

    Raises:
        DataError: a part is not a TPU and a positive number.
    """
    prices = dict(PRICES)
    for part in filter(None, text.split(",")):
        chip, _, value = part.partition("=")
        try:
            prices[chip], known = float(value), chip in PRICES
        except ValueError:
            known = False
        if not known or not 0 < prices[chip] < float("inf"):
            raise DataError(f"--price={text}: {part!r} is not one of {', '.join(PRICES)}=DOLLARS")
    return prices


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = timing.RESULTS / "tpu.json"
    parser.add_argument("--results", type=Path, default=path, help="results of benchmarks/tpu.py")
    parser.add_argument("--price", default="", help="dollars of a chip-hour, e.g. v3=1.10,v5e=0.60")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/tpu.md")
    args = parser.parse_args()
    tables = format_tables(list(tpu.load_rows(args.results).values()), parse_prices(args.price))
    print(tables)
    if args.write:
        page = replace_block(PAGE.read_text(encoding="utf-8"), tables)
        atomic_write_text(PAGE, page)


if __name__ == "__main__":
    run_main(main)
