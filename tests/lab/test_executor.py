"""Jobs in several processes end, whoever dies when."""

import os
import signal
import time

import pytest

from thrifty.lab.executor import Processes


def pid(seconds: float, tell: object) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_after_its_last_job_does_not_keep_the_others(victim):
    """It holds the lock of the queue that the others wait at."""
    seen = []
    for _, outcome in Processes(2).run(pid, [0.5, 0.8], lambda _: None):
        seen.append(outcome)
        if len(seen) == 2:
            os.kill(seen[victim], signal.SIGKILL)
    assert len(set(seen)) == 2
