"""The server under test: a temporary configuration, its start, its API and what it holds."""

import base64
import http.client
import json
import os
import pathlib
import re
import socket
import sys
import time

import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdefghijklmnopqrstuvwxyzABCD"


class Ports:
    """A block of ports for this run alone, below the kernel's ephemeral ones: another run takes another block.

    Of its 5000 the first so many are for phones, the rest for the server's media.
    """

    def __init__(self, phones=2000):
        for base in (15000, 20000, 25000, 10000):
            self.claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self.claim.bind(("127.0.0.1", base))
            except OSError:
                self.claim.close()
                continue
            self.sip, self.sip_tls, self.http = base + 60, base + 61, base + 80
            if not all(map(is_free, (self.sip, self.sip_tls, self.http))):
                # A server that somebody has left there would answer instead of ours.
                self.claim.close()
                continue
            self.media = (base + phones, base + 4998)
            self.next = base + 100
            self.last = base + phones - 2
            return
        raise SystemExit("all blocks of ports are in use")

    def take(self, count=2):
        """The first of some adjacent ports that nobody has."""
        while self.next + count <= self.last:
            first, self.next = self.next, self.next + count
            if all(is_free(port) for port in range(first, first + count)):
                return first
        raise SystemExit("no port is left in the block")


def is_free(port):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def is_bound(port, transport, host="127.0.0.1"):
    """True once somebody waits at the port."""
    # As the kernel keeps it: the bytes of the address as they lie in memory.
    number = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    wanted = f"{number:08X}:{port:04X}"
    for line in pathlib.Path(f"/proc/net/{transport}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted and (transport == "udp" or fields[3] == "0A"):
            return True
    return False


class Line:
    """A virtual number with its account and its trunk, whose B-legs go to `gateways`.

    `settings` are further lines of the trunk; calls come in as it from `allow`.
    """

    def __init__(self, index, number, gateways, settings="", allow="127.0.0.0/8"):
        self.auth_id = f"MASIPP{index:014}"
        self.trunk = f"trunk-{index}"
        self.number = number
        self.gateways = gateways
        self.settings = settings
        self.allow = allow


class Server:
    def __init__(self, directory, ports, lines, silence_seconds, tls=None, drain_seconds=10):
        self.directory = pathlib.Path(directory)
        self.ports = ports
        # Lines of [sip.tls]; with them it listens on TLS too.
        self.tls = tls
        # A call that nobody ends costs its own case, and not also the drain at the end.
        self.drain_seconds = drain_seconds
        self.binary = os.environ.get("MASKLINE_BIN", str(ROOT / "target/release/maskline"))
        self.config = self.directory / "maskline.toml"
        self.config.write_text(self.configuration(lines, silence_seconds), encoding="utf-8")
        self.log = self.directory / "server.log"
        self.process = None

    def configuration(self, lines, silence_seconds):
        ports, directory = self.ports, self.directory
        listen = [f"udp://127.0.0.1:{ports.sip}", f"tcp://127.0.0.1:{ports.sip}"]
        if self.tls:
            listen.append(f"tls://127.0.0.1:{ports.sip_tls}")
        text = [
            "[sip]\nlisten = [{}]".format(", ".join(f'"{address}"' for address in listen)),
            f"drain_seconds = {self.drain_seconds}",
            f"[sip.tls]\n{self.tls}" if self.tls else "",
            f"[media]\nports = [{ports.media[0]}, {ports.media[1]}]\nsilence_seconds = {silence_seconds}",
            f'[http]\nlisten = "127.0.0.1:{ports.http}"',
            f'[store]\nurl = "sqlite://{directory}/maskline.db"',
            f'[recordings]\ndirectory = "{directory}/rec"',
        ]
        # The first trunk that fits is taken: those for one address come first.
        for line in sorted(lines, key=lambda line: not line.allow.endswith("/32")):
            gateways = ", ".join(f'"{gateway}"' for gateway in line.gateways)
            text += [
                f'[[trunks]]\nname = "{line.trunk}"\ngateways = [{gateways}]\nallow = ["{line.allow}"]'
                f"\n{line.settings}",
                f'[[accounts]]\nauth_id = "{line.auth_id}"\nauth_token = "{TOKEN}"',
                f'[[numbers]]\nnumber = "{line.number}"\ntrunk = "{line.trunk}"\naccount = "{line.auth_id}"',
            ]
        return "\n\n".join(text) + "\n"

    def start(self):
        if not pathlib.Path(self.binary).exists():
            raise SystemExit(f"{self.binary} is missing: cargo build --release, or set MASKLINE_BIN")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MASKLINE")}
        command = [self.binary, "serve", "--config", self.config]
        self.process = processes.ALL.start(command, self.directory, self.log, environment)
        until = time.monotonic() + 30
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise SystemExit(f"the server does not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self):
        """SIGTERM, the drain, and last words. Returns the exit status, or None when it had to be killed."""
        return processes.ALL.end(self.process, self.drain_seconds + 20)

    def log_tail(self, size=3000):
        return self.log.read_bytes()[-size:].decode("utf-8", "replace")

    def request(self, method, path, user=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=10)
        headers = {"Connection": "close"}
        if user:
            secret = base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
            headers |= {"Authorization": f"Basic {secret}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def is_ready(self):
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def make_session(self, line, parameters):
        """A session on the line's number, which is its account's only one."""
        body = {name: value for name, value in parameters.items() if value is not None} | {"geomatch": False}
        status, answer = self.request("POST", f"/v1/Account/{line.auth_id}/Masking/Session/", line.auth_id, body)
        if status != 201:
            raise AssertionError(f"the session was not made: {status} {answer}")
        number = json.loads(answer)["virtual_number"]
        if number != line.number:
            raise AssertionError(f"the session is on {number} instead of {line.number}")

    def causes(self, line):
        """Hang-up codes of the A-leg and of each B-leg of the account's only call; None while one is not over."""
        status, answer = self.request("GET", f"/v1/Account/{line.auth_id}/Call/", line.auth_id)
        if status != 200:
            raise AssertionError(f"no list of calls: {status} {answer}")
        legs = json.loads(answer)["objects"]
        legs.sort(key=lambda leg: (leg["call_direction"] == "outbound", leg["attempt"]))
        return tuple(leg["hangup_cause_code"] if leg["end_time"] else None for leg in legs)

    def wrong_causes(self, line, expected):
        """What is wrong when these are not the causes of the legs; they are written when the media has closed."""
        until = time.monotonic() + 5
        while (causes := self.causes(line)) != expected and time.monotonic() < until:
            time.sleep(0.1)
        return [] if causes == expected else [f"the records' hang-up codes are {causes}, not {expected}"]

    def metrics(self):
        """Sum of all series of each metric."""
        sums = {}
        for line in self.request("GET", "/metrics")[1].splitlines():
            found = re.match(r"([a-z_]+)(?:\{[^}]*\})? (\S+)$", line)
            if found:
                sums[found[1]] = sums.get(found[1], 0.0) + float(found[2])
        return sums

    def holdings(self):
        """Descriptors by kind, UDP sockets, threads (some come and go as they are needed), resident memory in KiB."""
        process = pathlib.Path(f"/proc/{self.process.pid}")
        kinds, sockets = {}, set()
        for descriptor in (process / "fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except FileNotFoundError:
                continue
            if target.startswith("socket:"):
                sockets.add(target[8:-1])
            kind = re.sub(r"[:\[(].*|^/.*/", "", target) or target
            kinds[kind] = kinds.get(kind, 0) + 1
        udp = 0
        for table in ("udp", "udp6"):
            rows = pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            udp += sum(1 for row in rows if row.split()[9] in sockets)
        status = (process / "status").read_text()
        return {
            "descriptors": sum(kinds.values()),
            "kinds": kinds,
            "udp_sockets": udp,
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "rss_kib": int(re.search(r"VmRSS:\s+(\d+)", status)[1]),
        }
