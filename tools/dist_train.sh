#!/usr/bin/env bash
# Train on GPUS processes of each node:  tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT, the last two the same on all of them.
# On SIGTERM all processes finish their step and save, and this script exits with 0.
# MAX_RESTARTS=k: after a failure all processes start again, up to k times, with --resume auto.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1 gpus=$2 restarts=${MAX_RESTARTS:-0}
shift 2
case $restarts in
*[!0-9]* | ?????????*)
    echo "error: MAX_RESTARTS must be a whole number, from 0 to 99999999, got '$restarts'" >&2
    exit 1
    ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/check_port.sh
source "$root/tools/check_port.sh"

rank=${NODE_RANK:-0} master=${MASTER_ADDR:-127.0.0.1}
meet=(--node_rank="$rank" --master_addr="$master" --master_port="${PORT:-29500}")
if [ "$restarts" -gt 0 ]; then
    # Who starts again must not find in a store what the former processes wrote there: each attempt
    # gets a new one, on any free port of the first node. That node has to come first in the order
    # of the names, by which ranks are given; the others' names are for that alone.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    [ "$rank" = 0 ] && name=$master || name=$(printf '~%06d' "$rank")
    meet=(--max-restarts="$restarts" --rdzv-backend=c10d --rdzv-endpoint="$master:${PORT:-29500}"
        --rdzv-conf="is_host=$((rank == 0))" --local-addr="$name")
    case " $* " in
    *' --resume'*) ;;
    *) set -- --resume auto "$@" ;;
    esac
fi

PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" "$root/tools/torchrun.py" \
    --nnodes="${NNODES:-1}" "${meet[@]}" --nproc_per_node="$gpus" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
