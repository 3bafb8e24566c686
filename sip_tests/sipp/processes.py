"""Programs that a driver starts, so that none outlives it, however it ends."""

import os
import signal
import subprocess
import threading


class Processes:
    """Each program has a process group of its own, which ends as a whole."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running = set()
        self.closed = False

    def start(self, command, directory, log, environment=None):
        """Starts a program whose output goes to the file `log`."""
        with self.lock, open(log, "wb") as output:
            if self.closed:
                raise OSError("this run has been given up")
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.running.add(process)
            return process

    def end(self, process, patience_s=0.0):
        """Ends it and all its children; with patience it is asked first. Returns its exit status, None if killed."""
        status = process.poll()
        if status is None and patience_s:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(patience_s)
            except subprocess.TimeoutExpired:
                pass
        try:
            # The group may outlive its first process.
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        with self.lock:
            self.running.discard(process)
        return status

    def end_all(self):
        with self.lock:
            self.closed = True
            left = list(self.running)
        for process in left:
            self.end(process)


ALL = Processes()


def end_with_the_driver():
    """SIGTERM and SIGHUP end the driver as SIGINT does: through its `finally`, where `ALL.end_all` is called."""

    def give_up(number, _):
        # Threads that wait for a phone see it end, and find that no other may be started.
        threading.Thread(target=ALL.end_all).start()
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, give_up)
