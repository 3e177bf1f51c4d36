# For dist_train.sh and dist_test.sh: the port that the first node opens is free, or one line says it.
# shellcheck shell=bash
if [ "${NODE_RANK:-0}" = 0 ] && ! reason=$("${PYTHON:-python}" -c '
import socket, sys
try:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", int(sys.argv[1])))
except (OSError, OverflowError, ValueError) as error:
    sys.exit(str(getattr(error, "strerror", None) or error))' "${PORT:-29500}" 2>&1); then
    echo "error: port ${PORT:-29500} cannot be opened ($reason); choose another: PORT=29501 $0 ..." >&2
    exit 1
fi
