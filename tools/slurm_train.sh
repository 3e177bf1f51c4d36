#!/usr/bin/env bash
# Train on Slurm:  tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]
# From the environment: GPUS (8, all together), GPUS_PER_NODE (8 at most), CPUS_PER_TASK (5),
# SRUN_ARGS (more arguments of srun), PORT (29500).
# On SIGTERM or SIGUSR1 all processes finish their step and save, and this script exits with 0; a
# batch job is put into the queue again and goes on where it was (docs/resuming.md has the command).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [arguments of train.py]" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3
shift 3
if [ $# -gt 0 ] && [ "${1:0:1}" != - ]; then
    set -- --work-dir "$@"
fi
case " $* " in
*' --resume'*) ;;
*) set -- --resume auto "$@" ;;
esac
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
read -ra more <<<"${SRUN_ARGS:-}"

export MASTER_PORT=${PORT:-29500} PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
srun --partition="$partition" --job-name="$job_name" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${more[@]+"${more[@]}"} \
    "${PYTHON:-python}" -u "$root/tools/train.py" "$config" --launcher slurm "$@" &
steps=$! asked=
trap 'asked=1; kill -TERM "$steps" || true' TERM USR1 # srun hands it to all processes
while kill -0 "$steps" 2>/dev/null; do
    wait "$steps" || true # a signal ends the waiting, not srun
done
wait "$steps"
if [ -n "$asked" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "job $SLURM_JOB_ID goes into the queue again"
    scontrol requeue "$SLURM_JOB_ID"
elif [ -n "$asked" ]; then
    echo "stopped and saved: the same command goes on"
fi
