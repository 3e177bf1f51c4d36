"""When one of several processes fails: its traceback first, and the end of the job."""

import os
import signal
import sys
import traceback
from types import TracebackType

from torch.distributed.elastic.multiprocessing.errors import get_error_handler


def fail_fast() -> None:
    """End this process at once on an uncaught exception, without waiting for the others.

    An orderly end could hang: it waits for loader workers, and for a process group whose other
    members wait for us. The launcher sees the exit code and ends the others.
    """
    sys.excepthook = _report_and_exit
    # (tools/dist_train.sh has its launcher ignore it, and we have inherited that)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _report_and_exit(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    who = f'process {os.environ.get("RANK", "?")} of {os.environ.get("WORLD_SIZE", "?")}'
    text = ''.join(traceback.format_exception(kind, error, trace))
    sys.stdout.flush()
    # (torch's own hook for distributed runs, which calls this one, holds sys.stderr back)
    stderr = sys.__stderr__ or sys.stderr
    stderr.write(f'\n{who} failed:\n{text}\n')
    stderr.flush()
    if isinstance(error, Exception):
        get_error_handler().record_exception(error)  # torchrun's summary names it
    os._exit(1)
