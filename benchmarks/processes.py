"""Run a command of a benchmark; measure its time and its memory."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from headswap.runs.workers import ENVIRONMENT

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CORES = len(os.sched_getaffinity(0))


def measure(command, folder):
    """Run a command; return its output, wall-clock seconds, and the peak memory of all it starts.

    What headswap sets for its own processes is not set for it, whatever the shell has.

    Memory is the sum of the processes' proportional set sizes in GiB, five times a second.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment["PATH"] = f"{BIN}:{os.environ['PATH']}"
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    peak, over = [0], threading.Event()

    def watch():
        while not over.wait(0.2):
            peak[0] = max(peak[0], _memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed in {folder}:\n{output}")
    return output, seconds, peak[0] / 2**30


def _memory(pid):
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total
