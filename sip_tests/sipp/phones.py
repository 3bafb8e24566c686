"""SIPp processes of one case, what they saw, and the verdict."""

import pathlib
import re
import socket
import struct
import subprocess
import threading
import time

import cases
import processes
import scenario
import server

RTP_PER_SECOND = 50


class Phone:
    """One SIPp for one call."""

    def __init__(
        self, directory, side, text, port, ports, transport, limit, repetitions=False, remote=None, host="127.0.0.1"
    ):
        self.side = side
        self.host, self.port = host, port
        self.transport = transport
        base = pathlib.Path(directory) / side
        base.with_suffix(".xml").write_text(text, encoding="utf-8")
        self.errors, self.log = base.with_suffix(".errors"), base.with_suffix(".messages")
        self.screen = base.with_suffix(".screen")
        mark = side.split("-")[0]
        self.command = ["sipp", *([remote] if remote else []), "-sf", str(base.with_suffix(".xml"))]
        self.command += ["-i", host, "-p", str(port), "-m", "1", "-nostdin", "-watchdog_interval", "0"]
        self.command += ["-t", {"udp": "u1", "tcp": "t1"}[transport]]
        # SIPp opens media ports and a control port, which are not used here.
        self.command += ["-mp", str(ports.take(4)), "-cp", str(ports.take(1))]
        self.command += ["-cid_str", f"%u-%p-{mark}-mark@{mark}-mark.example"]
        self.command += ["-timeout", f"{limit}s", "-timeout_error"]
        self.command += ["-trace_err", "-error_file", str(self.errors)]
        self.command += ["-trace_msg", "-message_file", str(self.log)]
        if repetitions:
            self.command += ["-nr"]
        self.process = None

    def start(self):
        self.process = processes.ALL.start(self.command, self.screen.parent, self.screen)

    def wait_until_bound(self, limit=10):
        until = time.monotonic() + limit
        while not server.is_bound(self.port, self.transport, self.host):
            if self.process.poll() is not None or time.monotonic() > until:
                return
            time.sleep(0.02)

    def wait(self, limit):
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return None

    def end(self):
        if self.process:
            processes.ALL.end(self.process)

    def received(self):
        return [message for way, message in scenario.messages(self.log) if way == "received"]

    def story(self):
        """What SIPp complains of, and the last messages."""
        lines = [f"---- {self.side}: {' '.join(self.command)}", f"exit status {self.process.poll()}"]
        for path in (self.errors, self.screen):
            text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
            if path == self.errors or not self.errors.exists():
                lines.append(text[-3000:])
        for way, message in scenario.messages(self.log)[-6:]:
            lines.append(f"-- {way}\n{message}")
        return "\n".join(lines)


class Listener:
    """A UDP port at which everything is counted: audio, or calls that should not come.

    One that speaks sends silence as PCMU to whoever sent first, like a phone in a quiet room.
    """

    def __init__(self, port, speaks=False, host="127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, port))
        self.socket.settimeout(0.2)
        self.datagrams = []
        self.count = 0
        self.open = True
        self.peer = None
        self.threads = [threading.Thread(target=self.listen, daemon=True)]
        if speaks:
            self.threads.append(threading.Thread(target=self.speak, daemon=True))
        for thread in self.threads:
            thread.start()

    def listen(self):
        while self.open:
            try:
                datagram, self.peer = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            self.count += 1
            if len(self.datagrams) < 3:
                self.datagrams.append(datagram)

    def speak(self):
        number, due = 0, time.monotonic()
        while self.open:
            if self.peer:
                header = struct.pack("!BBHII", 0x80, 0, number % 65536, number * 160 % 2**32, 0x4711)
                self.socket.sendto(header + b"\xff" * 160, self.peer)
                number += 1
            due += 1 / RTP_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))

    def close(self):
        self.open = False
        for thread in self.threads:
            thread.join()
        self.socket.close()


class Play:
    """One case with its numbers and ports."""

    # Where the phones of both sides are.
    host = "127.0.0.1"

    def __init__(self, index, case, ports):
        self.case = case
        self.ports = ports
        self.numbers = cases.numbers(index)
        self.caller_port, self.callee_port = ports.take(), ports.take()
        self.first_port = ports.take() if case.first_gateway else None
        self.caller_media, self.callee_media = ports.take(), ports.take()
        self.line = self.make_line(index)

    def make_line(self, index):
        gateways = [self.first_port, self.callee_port] if self.first_port else [self.callee_port]
        addresses = [f"sip:{self.host}:{port};transport={self.case.callee_transport}" for port in gateways]
        return server.Line(index, self.numbers["virtual"], addresses, self.case.settings)

    def remote(self):
        """Where the caller calls."""
        return f"127.0.0.1:{self.ports.sip}"

    def values(self, callee_port):
        case, numbers = self.case, self.numbers
        callee = "first" if case.who == "second" else "second"
        hidden_from_callee = [numbers[role] for role in ("first", "second", "stranger") if role != callee]
        hidden_from_caller = [numbers[role] for role in ("first", "second", "stranger") if role != case.who]
        caller = numbers[case.who]
        return {
            "case": case.name,
            "dialled": numbers["virtual"],
            "virtual_digits": numbers["virtual"].removeprefix("+"),
            "from": caller,
            "caller": caller,
            "from_uri": f"sip:{caller}@caller-mark.example",
            "asserted_uri": f"sip:{caller}@caller-mark.example",
            "callee": numbers[callee],
            "callee_digits": numbers[callee].removeprefix("+"),
            "callee_port": str(callee_port),
            "caller_media": str(self.caller_media),
            "callee_media": str(self.callee_media),
            "sip_port": str(self.ports.sip),
            "caller_marks": cases.marks("caller", hidden_from_callee, self.caller_port, self.caller_media, self.host),
            "callee_marks": cases.marks("callee", hidden_from_caller, self.callee_port, self.callee_media, self.host),
        } | case.values

    def run(self, maskline, directory):
        """Returns what is wrong, in words; nothing when all is well."""
        case = self.case
        directory.mkdir()
        limit = case.limit
        if case.session is not None:
            parties = {"first_party": self.numbers["first"], "second_party": self.numbers["second"]}
            maskline.make_session(self.line, parties | case.session)
        phones, listeners, wrong = [], {}, []
        try:
            listeners["caller_media"] = Listener(self.caller_media, case.speaks, self.host)
            listeners["callee_media"] = Listener(self.callee_media, host=self.host)
            for side, file, port in (
                ("callee-first", case.first_gateway, self.first_port),
                ("callee", case.callee, self.callee_port),
            ):
                if file:
                    text = scenario.scenario("callee", file, self.values(port))
                    phone = Phone(
                        directory,
                        side,
                        text,
                        port,
                        self.ports,
                        case.callee_transport,
                        limit,
                        case.repetitions,
                        host=self.host,
                    )
                    phones.append(phone)
            if not case.callee:
                listeners["rung"] = Listener(self.callee_port, host=self.host)
            for phone in phones:
                phone.start()
            for phone in phones:
                phone.wait_until_bound()
            text = scenario.scenario("caller", case.caller, self.values(self.callee_port))
            caller = Phone(
                directory,
                "caller",
                text,
                self.caller_port,
                self.ports,
                case.caller_transport,
                limit,
                case.repetitions,
                self.remote(),
                self.host,
            )
            phones.append(caller)
            caller.start()
            until = time.monotonic() + limit + 5
            while any(phone.process.poll() is None for phone in phones) and time.monotonic() < until:
                failed = [phone for phone in phones if phone.process.poll() not in (None, 0)]
                if failed:
                    # The others get a moment to see how it ends.
                    until = min(until, time.monotonic() + 1)
                elif caller.process.poll() is not None:
                    until = min(until, time.monotonic() + 5)
                time.sleep(0.05)
            wrong = [f"{phone.side} ended with {phone.process.poll()}" for phone in phones if phone.process.poll() != 0]
            wrong += self.audit(phones, listeners)
            wrong += self.audit_records(maskline)
        except (AssertionError, KeyError, OSError) as error:
            wrong.append(f"{type(error).__name__}: {error}")
        finally:
            for phone in phones:
                phone.end()
            for listener in listeners.values():
                listener.close()
        if wrong:
            wrong += [phone.story() for phone in phones if phone.process]
        return wrong

    def audit(self, phones, listeners):
        """What a scenario cannot say: all messages together, and what arrived elsewhere."""
        case, wrong = self.case, []
        values = self.values(self.callee_port)
        for phone in phones:
            hidden = values["callee_marks" if phone.side == "caller" else "caller_marks"]
            for message in phone.received():
                leak = re.search(hidden, message)
                if leak:
                    wrong.append(f"{phone.side} sees {leak[0]!r} of the other side")
            branches = set()
            for message in phone.received():
                if message.startswith("INVITE "):
                    branches.update(re.findall(r"^Via:.*;branch=([^;\s]+)", message, re.MULTILINE)[:1])
            if len(branches) > case.invites:
                wrong.append(f"{phone.side} gets {len(branches)} INVITEs")
            if phone.side == "caller":
                wrong += self.audit_caller(phone)
        rung = listeners.get("rung")
        if rung and rung.count:
            wrong.append(f"the callee is rung: {rung.datagrams[0].decode('utf-8', 'replace')}")
        packets = listeners["caller_media"].count
        if packets < case.hears_ms * RTP_PER_SECOND / 1000:
            wrong.append(f"the caller hears {packets} packets, not {case.hears_ms} ms")
        return wrong

    def audit_records(self, maskline):
        return maskline.wrong_causes(self.line, self.case.causes)

    def audit_caller(self, caller):
        wrong = []
        least, most = self.case.lasts_s
        took = scenario.span_s(caller.log)
        if not least <= took <= most:
            wrong.append(f"it lasted {took:.1f} s, not {least} to {most}")
        answers = [m for m in caller.received() if re.search(r"^CSeq: 1 INVITE", m, re.MULTILINE)]
        tags = set()
        for answer in answers:
            if not answer.startswith("SIP/2.0 100"):
                tags.update(re.findall(r"^To:.*;tag=([^;\s]+)", answer, re.MULTILINE))
        if len(tags) > 1:
            wrong.append(f"the caller sees {len(tags)} To tags")
        if self.case.same:
            start, count = self.case.same
            found = [answer for answer in answers if answer.startswith(start)]
            if len(found) < count:
                wrong.append(f"{start} came {len(found)} times, not {count}")
            if len(set(found)) > 1:
                wrong.append(f"{start} did not come byte for byte the same")
        return wrong
