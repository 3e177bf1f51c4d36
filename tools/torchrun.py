"""torchrun, as dist_train.sh and dist_test.sh start it: it hands SIGTERM on to its processes.

Those that train save then and exit with 0, and so does this one. Where it has none, as it waits for
other nodes, it ends at once. It imports torch alone: it lives as long as the training.
"""

import os
import signal
from contextlib import suppress

from torch.distributed.elastic.agent.server.api import WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api
from torch.distributed.run import main


class Agent(LocalElasticAgent):
    """Of torchrun's agent: what happens on SIGTERM."""

    asked = False

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, int]:
        self.pids = {}
        signal.signal(signal.SIGTERM, self._hand_on)
        self.pids = super()._start_workers(worker_group)
        if self.asked:  # meanwhile
            self._hand_on()
        return self.pids

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if not self.asked:  # after SIGTERM, another node's restart is not ours
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            super()._restart_workers(worker_group)

    def _hand_on(self, *_: object) -> None:
        self.asked, self._remaining_restarts = True, 0
        for pid in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


if __name__ == '__main__':
    os.environ['MIRL_LAUNCHER'] = str(os.getpid())  # for follow_launcher() of its processes
    # torchrun would end its processes, and itself with an error, on all that it handles
    os.environ.setdefault('PET_SIGNALS_TO_HANDLE', 'SIGINT,SIGHUP,SIGQUIT')
    api.LocalElasticAgent = Agent
    main()
