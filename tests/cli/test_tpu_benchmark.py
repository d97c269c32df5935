"""benchmarks/tpu.py keeps what it measured, and docs/tpu.md shows it."""

import json
import sys

import pytest

import repo_layout

pytest.importorskip("numpy")
sys.path.append(str(repo_layout.ROOT / "benchmarks"))

import tpu
import tpu_tables
from funnel.utils.errors import DataError
from harness import timing

CASE = tpu.list_cases()[0]
SECONDS = 0.2


def _row(case=CASE, **changes):
    row = {
        "case": case.name, "size": case.size, "program": case.program, "seq_len": case.seq_len,
        "topology": case.topology, "batch_per_core": case.batch_per_core, "devices": 8,
        "date": "2026-11-30 10:00 UTC", "source": "abc", "versions": {"libtpu": "0.0.52"},
        "fits": True, "memory_of_device": 16 * tpu.GIB, "memory_gib": 4.04, "teraflops": 7.0,
        "gigabytes": 45.0, "hbm_gigabytes": 40.0, "milliseconds": 1e3 * SECONDS,
        "cycle_milliseconds": 100.0, "sequences_per_second": 640.0,
    }  # fmt: skip
    return row | changes


def _report(topology):
    figures = {
        "memory": 4 * tpu.GIB, "flops": 7e12, "bytes_accessed": 45e9, "hbm_bytes": 40e9,
        "seconds": SECONDS, "cycle_seconds": 0.25,
    }  # fmt: skip
    return {
        "settings": {"topology": topology, "devices": 8}, "fits": True,
        "figures": figures | {"operations": [1]}, "memory_of_device": 16 * tpu.GIB,
        "sequences_per_second": 640.0, "compile_seconds": 20.0, "compile_cpu_seconds": 30.0,
    }  # fmt: skip


def _program(tmp_path, reports, code=0, wait=0.0):
    """Return a stand-in for ``tpu_compile.py`` that writes reports, one more at a time."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys, time\n"
        "path = [f for f in sys.argv if f.startswith('--output=')][0].partition('=')[2]\n"
        f"reports = json.loads({json.dumps(reports)!r})\n"
        "for count in range(1, len(reports) + 1):\n"
        "    with open(path + '.new', 'w') as file:\n"
        "        json.dump(reports[:count], file)\n"
        "    os.replace(path + '.new', path)\n"
        f"time.sleep({wait})\n"
        "print('a\\nerror: no compiler', file=sys.stderr)\n"
        f"sys.exit({code})\n"
    )
    return program


def test_the_list_has_every_size_program_and_topology_once():
    cases = tpu.list_cases()
    assert len({case.name for case in cases}) == len(cases)
    electra = {(case.size, case.topology) for case in cases if case.program == "electra"}
    assert len(electra) == len(tpu.SIZES) * len(tpu.TOPOLOGIES) == 20
    assert {case.program for case in cases[:9]} >= {"electra", "classifier", "squad"}
    assert all((repo_layout.ROOT / "configs" / f"{size}.json").exists() for size in tpu.SIZES)


def test_results_are_kept_as_they_come(tmp_path, monkeypatch, capsys):
    """A failed case is tried again, one that is there is not."""
    output = tmp_path / "results" / "tpu.json"
    flags = ["tpu.py", f"--output={output}", f"--only={CASE.name}"]
    monkeypatch.setattr(sys, "argv", flags)
    monkeypatch.setattr(tpu, "PROGRAM", _program(tmp_path, [], code=2))
    tpu.main()
    assert "exit code 2: error: no compiler" in tpu.load_rows(output)[CASE.name]["error"]
    monkeypatch.setattr(tpu, "PROGRAM", _program(tmp_path, [_report(CASE.topology)]))
    tpu.main()
    row = tpu.load_rows(output)[CASE.name]
    assert (row["memory_gib"], row["milliseconds"], row["gigabytes"]) == (4.0, 200.0, 45.0)
    assert (row["hbm_gigabytes"], row["cycle_milliseconds"]) == (40.0, 250.0)
    assert "error" not in row and "operations" not in row["figures"]
    monkeypatch.setattr(tpu, "PROGRAM", _program(tmp_path, [], code=1))
    tpu.main()
    assert tpu.load_rows(output)[CASE.name] == row
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*flags, "--list"])
    tpu.main()
    assert capsys.readouterr().out == f"there     {CASE.name}\n"


def test_a_step_is_lowered_once_for_all_its_tpus(tmp_path, monkeypatch):
    """What was ready before a failure or the time limit is kept."""
    groups = tpu.group_cases(tpu.list_cases())
    assert sum(map(len, groups)) == len(tpu.list_cases()) and CASE in groups[0]
    assert {case.topology for case in groups[0]} == set(tpu.TOPOLOGIES)
    assert all(len({case.batch_per_core for case in group}) == 1 for group in groups)
    three = groups[0][:3]
    reports = [_report(case.topology) for case in three[:2]]
    for settings, message in (({"code": 3}, "exit code 3"), ({"wait": 60}, "not ready after 5 s")):
        monkeypatch.setattr(tpu, "PROGRAM", _program(tmp_path, reports, **settings))
        rows = list(tpu.compile_cases(three, timeout=5, nice=0))
        assert [row["case"] for row in rows] == [case.name for case in three]
        assert [row["options"]["topology"] for row in rows[:2]] == ["v3-8", "v4-8"]
        assert message in rows[2]["error"] and "error" not in rows[1]


def test_merging_prefers_later_figures_to_earlier_ones_and_to_failures():
    old, new = _row(), _row(date="2026-12-01 10:00 UTC", gigabytes=40.0)
    failed = {"case": CASE.name, "date": "2026-12-02 10:00 UTC", "error": "not ready"}
    for parts in ([old, new, failed], [failed, new, old], [new, failed, old]):
        assert tpu.merge_rows(*({CASE.name: row} for row in parts)) == {CASE.name: new}
    assert tpu.find_state(new, "abc") == "there" and tpu.find_state(new, "abd") == "outdated"
    assert tpu.find_state(failed, "abc") == "failed" and tpu.find_state(None, "abc") == "missing"


def test_wrong_files_and_filters_are_named(tmp_path, monkeypatch):
    wrong = tmp_path / "tpu.json"
    wrong.write_text('{"rows": [1]}')
    with pytest.raises(DataError, match=r"tpu.json: not what benchmarks/tpu.py writes"):
        tpu.load_rows(wrong)
    for flag, message in (("--only=B5*", "no such case"), ("--merge=nowhere", "no such file")):
        monkeypatch.setattr(sys, "argv", ["tpu.py", f"--output={tmp_path / 'none.json'}", flag])
        with pytest.raises(DataError, match=message):
            tpu.main()


def test_days_and_dollars():
    """256 million sequences at 16 in 0.2 s on 8 cores: 4.63 days; 4 chips of a v3-8."""
    (found,) = tpu_tables.cost_table([_row()], {"v3": 2.0})
    assert found["base_days"] == pytest.approx(256e6 / 16 * SECONDS / 8 / 86400)
    assert found["base_cost"] == pytest.approx(found["base_days"] * 24 * 4 * 2.0, abs=5)
    assert found["large_days"] == pytest.approx(16 * found["base_days"])
    row = _row(topology="v5e-4", devices=4, sequences_per_second=320.0)
    (one,) = tpu_tables.cost_table([row], {"v5e": 1.0})
    assert one["base_cost"] == pytest.approx(one["base_days"] * 24 * 4, abs=5)
    assert not tpu_tables.cost_table([_row(fits=False)], {})
    table = tpu_tables.format_tables([_row(), _row(fits=False)], tpu_tables.PRICES)
    assert "4.0 of 16" in table and "more than 16" in table and "v3 $2.00" in table


def test_prices():
    assert tpu_tables.parse_prices("v3=1.5")["v3"] == 1.5
    for wrong in ("v3", "v3=x", "v9=1", "v3=-1", "v3=nan"):
        with pytest.raises(DataError, match="--price"):
            tpu_tables.parse_prices(wrong)


def test_the_page_shows_the_results():
    rows = list(tpu.load_rows(timing.RESULTS / "tpu.json").values())
    page = tpu_tables.PAGE.read_text(encoding="utf-8")
    tables = tpu_tables.format_tables(rows, tpu_tables.PRICES)
    shown = page.split(tpu_tables.BEGIN)[1].split(tpu_tables.END)[0].strip()
    assert shown == tables, "run `python benchmarks/tpu_tables.py --write`"
    with pytest.raises(DataError, match="needs one line"):
        tpu_tables.replace_block("no markers", tables)
