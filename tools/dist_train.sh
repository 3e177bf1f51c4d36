#!/usr/bin/env bash
# Train on GPUS processes of each node:  tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT, the last two the same on all of them.
# On SIGTERM all processes finish their step and save, and this script exits with 0.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/check_port.sh
source "$root/tools/check_port.sh"

# torchrun would end the processes, and itself with an error: SIGTERM is not for it.
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGINT,SIGHUP,SIGQUIT}"
(
    trap '' TERM
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" \
        -m torch.distributed.run \
        --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
        --nproc_per_node="$gpus" \
        "$root/tools/train.py" "$config" --launcher pytorch "$@"
) &
launcher=$!
# (it has no processes while it waits for the other nodes: then it ends, by a signal it knows)
trap 'pkill -TERM -P "$launcher" || kill -HUP "$launcher" || true' TERM
while kill -0 "$launcher" 2>/dev/null; do
    wait "$launcher" || true # a signal ends the waiting, not the launcher
done
wait "$launcher"
