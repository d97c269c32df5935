#!/usr/bin/env bash
# Everything that needs a GPU, most important first, in at most nine minutes.
#
#   benchmarks/gpu.sh               environment, GPU tests, table of encoders, pretraining
#   benchmarks/gpu.sh --dry_run     the same on the CPU with tiny sizes, to see that it works
#
# Results are written as they come: to $OUT if set, else to benchmarks/results, of a dry run to a new
# temporary folder, since its figures say nothing. PYTHON names the interpreter; by default it is the
# first of .venv/bin/python, python3 and python that has PyTorch. Nothing is installed.
# SECONDS_ALLOWED (540) is the time for everything.
set -u
cd "$(dirname "$0")/.." || exit
out=${OUT:-}
allowed=${SECONDS_ALLOWED:-540}
flags=()
case "${1:-}" in
    "") ;;
    --dry_run) flags=(--dry_run); out=${out:-$(mktemp -d)} ;;
    *) echo "error: $1: the only flag is --dry_run" >&2; exit 2 ;;
esac
out=${out:-benchmarks/results}
mkdir -p "$out"

python=
for candidate in "${PYTHON:-}" .venv/bin/python python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import torch' 2> /dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python with PyTorch here; pip install -r requirements/torch.txt, or set PYTHON" >&2
    exit 2
fi
echo "$python, results in $out"

failed=0
# run NAME SECONDS COMMAND...: run a part within its time and what is left of the total.
run() {
    local name=$1 limit=$2 left=$((allowed - SECONDS)) code start=$SECONDS
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "== $name: no time left"
        failed=1
        return
    fi
    if [ "$limit" -gt "$left" ]; then limit=$left; fi
    echo "== $name, at most $limit seconds"
    timeout -k 5 "$limit" "$@" 2>&1 | tee "$out/gpu_$name.log"
    code=${PIPESTATUS[0]}
    echo "== $name: exit status $code after $((SECONDS - start)) seconds" | tee -a "$out/gpu_$name.log"
    if [ "$code" -ne 0 ]; then failed=1; fi
}

measure=("$python" benchmarks/gpu.py)
run environment 40 "${measure[@]}" environment --output_dir="$out" "${flags[@]}"
if "$python" -c 'import pytest' 2> /dev/null; then
    if [ ${#flags[@]} -gt 0 ]; then export FUNNEL_GPU_TESTS=cpu TRITON_INTERPRET=1; fi
    run tests 130 "$python" -m pytest -q -n 0 -p no:cacheprovider -m gpu tests/gpu
else
    echo "== tests: left out, pytest is not installed"
fi
run table 250 "${measure[@]}" table --seconds=230 --output_dir="$out" "${flags[@]}"
left=$((allowed - SECONDS))
run pretraining "$left" "${measure[@]}" pretraining --seconds=$((left - 40)) --output_dir="$out" "${flags[@]}"
exit "$failed"
