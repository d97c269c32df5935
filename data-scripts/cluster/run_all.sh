#!/usr/bin/env bash
# Run all tasks of an array job on this machine, several at a time; finished ones are skipped.
#
#   data-scripts/cluster/run_all.sh NUM_PROC NUM_TASK DONE_DIR COMMAND...
#   data-scripts/cluster/run_all.sh 16 128 records/done python pytorch/create_pretrain_data.py \
#       --input_glob='corpus/*/*.txt' --save_dir=records --tokenizer_path=vocab.txt
#
# A task that fails does not stop the others, unlike with --num_proc of the programs, so this script
# is for jobs that take days. The exit status is 0 if all tasks are done. The same command again runs
# the remaining tasks.
set -euo pipefail

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
  exit 0
fi
if (($# < 4)) || [[ ! $1 =~ ^[1-9][0-9]*$ || ! $2 =~ ^[1-9][0-9]*$ ]]; then
  echo "error: needs NUM_PROC NUM_TASK DONE_DIR COMMAND...; see --help" >&2
  exit 2
fi
num_proc=$1 num_task=$2
shift 2

# One thread each: the processes fill the cores.
export OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
seq 0 $((num_task - 1)) |
  xargs -P "$num_proc" -I TASK_NUMBER bash "$here/run_task.sh" TASK_NUMBER "$num_task" "$@"
