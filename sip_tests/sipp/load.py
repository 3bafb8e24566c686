"""Load: SIPp's own `uas` as callee, and its own `uac` with a party's number in From as caller."""

import re
import signal
import subprocess
import time

import processes
import server

RATE = 100
SETTLE_SECONDS = 70
RUNS = 3
CALLS = 3000
LARGEST_GROWTH = 0.05


def flow_of_uac(number):
    """SIPp's built-in scenario; only the user of From is a party's number."""
    text = subprocess.run(["sipp", "-sd", "uac"], capture_output=True, text=True, check=False).stdout
    changed = text.replace("sipp <sip:sipp@", f"<sip:{number}@")
    if changed == text:
        raise SystemExit("SIPp's built-in uac is not what it was")
    return changed


class Pair:
    """The ports of a load's two SIPps, and its line."""

    def __init__(self, index, numbers, ports):
        self.numbers = numbers
        self.ports = ports
        self.caller_port, self.callee_port = ports.take(), ports.take()
        self.spare = [ports.take(4) for _ in range(2)], [ports.take(1) for _ in range(2)]
        self.line = server.Line(index, numbers["virtual"], [f"sip:127.0.0.1:{self.callee_port};transport=udp"])

    def make_session(self, maskline):
        parties = {"first_party": self.numbers["first"], "second_party": self.numbers["second"]}
        maskline.make_session(self.line, parties)

    def run(self, directory, calls):
        """Makes the calls; returns SIPp's figures."""
        directory.mkdir()
        (media_a, media_b), (control_a, control_b) = self.spare
        common = ["-i", "127.0.0.1", "-nostdin", "-watchdog_interval", "0"]
        callee = ["sipp", "-sn", "uas", *common, "-p", str(self.callee_port), "-mp", str(media_b), "-cp", str(control_b)]
        flow = directory / "uac.xml"
        flow.write_text(flow_of_uac(self.numbers["first"]), encoding="utf-8")
        statistics, errors = directory / "uac.csv", directory / "uac.errors"
        caller = ["sipp", f"127.0.0.1:{self.ports.sip}", "-sf", str(flow), "-s", self.numbers["virtual"], *common]
        caller += ["-p", str(self.caller_port), "-mp", str(media_a), "-cp", str(control_a)]
        caller += ["-r", str(RATE), "-m", str(calls), "-l", str(calls)]
        caller += ["-timeout", f"{calls // RATE + 60}s", "-timeout_error"]
        caller += ["-trace_stat", "-stf", str(statistics), "-trace_err", "-error_file", str(errors)]
        answering = processes.ALL.start(callee, directory, directory / "uas.screen")
        try:
            until = time.monotonic() + 10
            while not server.is_bound(self.callee_port, "udp") and time.monotonic() < until:
                time.sleep(0.02)
            began = time.monotonic()
            calling = processes.ALL.start(caller, directory, directory / "uac.screen")
            try:
                status = calling.wait(calls // RATE + 70)
            except subprocess.TimeoutExpired:
                status = None
            processes.ALL.end(calling)
            took = time.monotonic() - began
        finally:
            # SIPp's way to end when its calls have.
            answering.send_signal(signal.SIGUSR1)
            try:
                answering.wait(10)
            except subprocess.TimeoutExpired:
                pass
            processes.ALL.end(answering)
        figures = read_statistics(statistics)
        figures |= {"status": status, "seconds": round(took, 1)}
        figures["errors"] = errors.read_bytes()[-2000:].decode("utf-8", "replace") if errors.exists() else ""
        return figures


def read_statistics(path):
    """The last line of SIPp's statistics."""
    if not path.exists():
        return {"ok": 0, "failed": -1, "repeated": -1}
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names, last = rows[0].split(";"), rows[-1].split(";")
    row = dict(zip(names, last))
    return {
        "ok": int(row["SuccessfulCall(C)"]),
        "failed": int(row["FailedCall(C)"]),
        "repeated": int(row["Retransmissions(C)"]),
    }


def complaint(figures, calls):
    """What is wrong with a run; empty when nothing is."""
    if figures["status"] == 0 and figures["ok"] == calls and figures["failed"] == 0:
        return ""
    return (
        f"{figures['ok']} of {calls} calls succeeded, {figures['failed']} failed,"
        f" SIPp ended with {figures['status']}\n{figures['errors']}"
    )


def holdings(maskline):
    """What must be as before, and the memory, which must not grow."""
    metrics = maskline.metrics()
    held = maskline.holdings()
    # The HTTP connection of the last request may still be open for a moment.
    for _ in range(10):
        time.sleep(0.5)
        before, held = held, maskline.holdings()
        if held["kinds"] == before["kinds"]:
            break
    gauges = {name: value for name, value in metrics.items() if re.fullmatch(r"maskline_(calls|call_tasks|tasks)", name)}
    return held, gauges


def endurance(maskline, pair, directory, report):
    """Three runs with a rest after each."""
    pair.make_session(maskline)
    before, gauges_before = holdings(maskline)
    print(f"before: {line(before, gauges_before)}", flush=True)
    memory = []
    for run in range(1, RUNS + 1):
        figures = pair.run(directory / f"load-{run}", CALLS)
        print(
            f"run {run}: {figures['ok']} calls ok, {figures['failed']} failed, {figures['repeated']} repetitions,"
            f" {figures['seconds']} s at {RATE} calls/s",
            flush=True,
        )
        report(f"load_run_{run}_fails_no_call", complaint(figures, CALLS))
        time.sleep(SETTLE_SECONDS)
        after, gauges = holdings(maskline)
        memory.append(after["rss_kib"])
        print(f"{SETTLE_SECONDS} s after run {run}: {line(after, gauges)}", flush=True)
        different = [
            f"{name}: {before[name]} before, {after[name]} after"
            for name in ("descriptors", "udp_sockets")
            if before[name] != after[name]
        ]
        if before["kinds"] != after["kinds"]:
            different.append(f"descriptors by kind: {before['kinds']} before, {after['kinds']} after")
        different += [
            f"{name}: {gauges_before.get(name, 0):g} before, {value:g} after"
            for name, value in gauges.items()
            if value != gauges_before.get(name, 0)
        ]
        report(f"load_run_{run}_leaves_nothing", "\n".join(different))
    growth = memory[-1] / memory[0] - 1
    print(f"memory: {memory[0]} KiB after the first run, {memory[-1]} KiB after the last, {growth:+.1%}", flush=True)
    report("load_does_not_grow", "" if growth <= LARGEST_GROWTH else f"memory grew by {growth:.1%}")


def line(held, gauges):
    text = ", ".join(f"{name} {value:g}" for name, value in sorted(gauges.items()))
    return (
        f"{held['descriptors']} descriptors, {held['udp_sockets']} UDP sockets, {held['threads']} threads,"
        f" {held['rss_kib']} KiB resident, {text}"
    )
