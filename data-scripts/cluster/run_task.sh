#!/usr/bin/env bash
# Run one task of an array job: COMMAND with --num_task and --task appended, unless it is done.
#
#   data-scripts/cluster/run_task.sh TASK NUM_TASK DONE_DIR COMMAND...
#   data-scripts/cluster/run_task.sh 7 128 records/done python pytorch/create_pretrain_data.py \
#       --input_glob='corpus/*/*.txt' --save_dir=records --tokenizer_path=vocab.txt
#
# Called by Slurm, Kubernetes and run_all.sh. A task that succeeds leaves a file with its command in
# DONE_DIR; a task that was killed leaves none and runs again. The exit status is that of the
# command, or 2 for wrong arguments.
set -euo pipefail

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
  exit 0
fi
if (($# < 4)) || [[ ! $1 =~ ^[0-9]+$ || ! $2 =~ ^[0-9]+$ ]] || ((10#$1 >= 10#$2)); then
  echo "error: needs TASK NUM_TASK DONE_DIR COMMAND..., with 0 <= TASK < NUM_TASK; see --help" >&2
  exit 2
fi
task=$((10#$1)) num_task=$((10#$2)) done_dir=$3
shift 3

command="$(printf '%q ' "$@")"
marker="$(printf '%s/%05d-of-%05d.done' "$done_dir" "$task" "$num_task")"
if [[ -e $marker ]]; then
  if [[ "$(<"$marker")" != "$command" ]]; then
    echo "error: $marker: this task was done by another command; use another DONE_DIR" >&2
    exit 2
  fi
  echo "task $task of $num_task is done already"
  exit 0
fi

"$@" --num_task="$num_task" --task="$task"

mkdir -p "$done_dir"
printf '%s\n' "$command" >"$marker.$$.tmp"
mv "$marker.$$.tmp" "$marker"
