"""Kamailio as a carrier's proxy between the server and the phones on both sides.

    phone ── entry[udp, tcp, tls, failover] ── Kamailio ── trunk[udp, tcp, tls] ── server

Which entry a caller chooses decides how its call reaches the server. It records its route in every dialog, twice where
port or transport differ, pings the server by OPTIONS over each transport, and may challenge, refuse or fork the
server's calls. Its own connections prove their names, and it believes nobody else's who does not.
"""

import dataclasses
import glob
import pathlib
import re
import shutil
import time

import processes
import server

REALM = "carrier.example"
USER, PASSWORD = "maskline", "open sesame 1"
PINGED = ("udp", "tcp", "tls")


@dataclasses.dataclass
class Way:
    """Where Kamailio sends the server's calls to a number."""

    number: str
    places: list  # SIP URIs of phones; more than one: all ring
    busy_first: bool = False  # the first gateway port says 503
    challenges: bool = False  # asks for digest credentials


def program():
    return shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")


def modules():
    found = glob.glob("/usr/lib/*/kamailio/modules") + glob.glob("/usr/local/lib*/kamailio/modules")
    if not found:
        raise SystemExit("Kamailio's modules are not where Debian puts them")
    return found[0]


class Carrier:
    def __init__(self, directory, ports, authority):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.ports = ports
        self.trunk = {transport: ports.take() for transport in ("udp", "tcp", "tls", "busy")}
        self.entry = {transport: ports.take() for transport in ("udp", "tcp", "tls", "failover")}
        self.dead = ports.take()  # nobody listens there
        self.chain, self.key, _ = authority.sign("kamailio")
        self.ca = authority.ca
        self.log = self.directory / "kamailio.log"
        self.ways = []
        self.process = None

    def gateway(self, transport):
        """A gateway's URI in the server's configuration."""
        if transport == "busy":
            return f"sip:127.0.0.1:{self.trunk['busy']};transport=udp"
        return f"sip:127.0.0.1:{self.trunk[transport]};transport={transport}"

    def start(self):
        self.write("tls.cfg", TLS)
        self.write("dispatcher.list", "".join(f"1 {self.us(transport)}\n" for transport in PINGED))
        self.write("kamailio.cfg", CONFIG)
        command = [program(), "-DD", "-E", "-e", "-m", "32", "-M", "4", "-w", self.directory, "-Y", self.directory]
        command += ["-f", self.directory / "kamailio.cfg"]
        self.process = processes.ALL.start(command, self.directory, self.log)
        until = time.monotonic() + 20
        wanted = [("udp", self.trunk["udp"]), ("tcp", self.trunk["tcp"]), ("tcp", self.trunk["tls"])]
        while not all(server.is_bound(port, transport) for transport, port in wanted):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"Kamailio does not start:\n{self.read_log()[-3000:]}")
            time.sleep(0.05)

    def stop(self):
        if self.process:
            processes.ALL.end(self.process, 5)

    def read_log(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def complaints(self):
        """Its own errors, such as a message that it cannot read."""
        marks = ("parse", "ERROR", "CRITICAL")
        lines = [line for line in self.read_log().splitlines() if any(mark in line for mark in marks)]
        return "\n".join(lines)[:3000]

    def us(self, transport):
        port = self.ports.sip_tls if transport == "tls" else self.ports.sip
        return f"sip:127.0.0.1:{port};transport={transport}"

    def write(self, name, text):
        values = {
            "modules": modules(),
            "directory": self.directory,
            "chain": self.chain,
            "key": self.key,
            "ca": self.ca,
            "realm": REALM,
            "user": USER,
            "password": PASSWORD,
            "dead": self.dead,
            "ways": "\n".join(map(self.way, self.ways)),
        }
        values |= {f"trunk_{name}": port for name, port in self.trunk.items()}
        values |= {f"entry_{name}": port for name, port in self.entry.items()}
        values |= {f"us_{transport}": self.us(transport) for transport in PINGED}
        filled = re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), text)
        (self.directory / name).write_text(filled, encoding="utf-8")

    def way(self, way):
        lines = [f'    if ($rU == "{way.number}") {{']
        if way.busy_first:
            lines.append('        if ($Rp == @trunk_busy@) { sl_send_reply("503", "Full"); exit; }')
        if way.challenges:
            lines.append("        route(CHALLENGE);")
        lines.append(f'        $du = "{way.places[0]}";')
        for place in way.places[1:]:
            lines.append(f'        append_branch("sip:$rU@$rd:$rp;user=phone"); $(branch(dst_uri)[0]) = "{place}";')
        lines += ["        route(TO_PHONE);", "        exit;", "    }"]
        return "\n".join(lines).replace("@trunk_busy@", str(self.trunk["busy"]))

    def pings(self):
        """Statuses of the server's answers to OPTIONS, by transport, in order."""
        found = {transport: [] for transport in PINGED}
        for transport, status in re.findall(r"PING (\w+) (\d+)", self.read_log()):
            found[transport].append(int(status))
        return found

    def wait_for_pings(self, status, limit=20):
        """Until the last answer over each transport is this one; returns what is missing."""
        until = time.monotonic() + limit
        while time.monotonic() < until:
            if all(statuses[-1:] == [status] for statuses in self.pings().values()):
                return ""
            time.sleep(0.1)
        return f"not all pings are answered with {status}: {self.pings()}"


TLS = """
[server:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
private_key = @key@
certificate = @chain@
ca_list = @ca@

[client:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
private_key = @key@
certificate = @chain@
ca_list = @ca@
"""

CONFIG = """#!KAMAILIO
debug=1
log_stderror=yes
children=1
tcp_children=2
auto_aliases=no
dns=no
rev_dns=no
server_header="Server: carrier-mark"
user_agent_header="User-Agent: carrier-mark"
enable_tls=yes
tcp_connection_lifetime=60
tcp_accept_no_cl=no

listen=udp:127.0.0.1:@trunk_udp@
listen=udp:127.0.0.1:@trunk_busy@
listen=tcp:127.0.0.1:@trunk_tcp@
listen=tls:127.0.0.1:@trunk_tls@
listen=udp:127.0.0.1:@entry_udp@
listen=udp:127.0.0.1:@entry_tcp@
listen=udp:127.0.0.1:@entry_tls@
listen=udp:127.0.0.1:@entry_failover@
listen=tcp:127.0.0.1:@entry_udp@
listen=tcp:127.0.0.1:@entry_tcp@
listen=tcp:127.0.0.1:@entry_tls@

mpath="@modules@/"
loadmodule "tm.so"
loadmodule "tmx.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "corex.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
loadmodule "tls.so"
loadmodule "dispatcher.so"
loadmodule "auth.so"

modparam("tls", "config", "@directory@/tls.cfg")
modparam("rr", "enable_double_rr", 1)
modparam("rr", "append_fromtag", 1)
modparam("tm", "fr_timer", 1000)
modparam("tm", "fr_inv_timer", 60000)
modparam("tm", "auto_inv_100_reason", "Trying")
modparam("tm", "failure_reply_mode", 3)
modparam("dispatcher", "list_file", "@directory@/dispatcher.list")
modparam("dispatcher", "ds_ping_interval", 1)
modparam("dispatcher", "ds_probing_mode", 1)
modparam("dispatcher", "ds_ping_from", "sip:ping@carrier-mark.example")
modparam("auth", "nonce_expire", 60)
modparam("auth", "qop", "auth")

request_route {
    if (!mf_process_maxfwd_header("70")) {
        sl_send_reply("483", "Too Many Hops");
        exit;
    }
    if (has_totag()) {
        if (loose_route()) {
            t_relay();
            exit;
        }
        if (is_method("ACK")) {
            if (t_check_trans()) {
                t_relay();
            }
            exit;
        }
        sl_send_reply("404", "Not Here");
        exit;
    }
    if (is_method("CANCEL")) {
        if (t_check_trans()) {
            t_relay();
        }
        exit;
    }
    t_check_trans();
    if (is_method("OPTIONS")) {
        sl_send_reply("200", "OK");
        exit;
    }
    if (!is_method("INVITE")) {
        sl_send_reply("405", "Method Not Allowed");
        exit;
    }
    record_route();
    # What phones send goes to the server, by the transport that their entry stands for.
    if ($Rp == @entry_udp@) {
        $du = "@us_udp@";
        $fs = "udp:127.0.0.1:@trunk_udp@";
        t_relay();
        exit;
    }
    if ($Rp == @entry_tcp@) {
        $du = "@us_tcp@";
        $fs = "tcp:127.0.0.1:@trunk_tcp@";
        t_relay();
        exit;
    }
    if ($Rp == @entry_tls@) {
        $du = "@us_tls@";
        $fs = "tls:127.0.0.1:@trunk_tls@";
        t_relay();
        exit;
    }
    if ($Rp == @entry_failover@) {
        $du = "sip:127.0.0.1:@dead@";
        $fs = "udp:127.0.0.1:@trunk_udp@";
        t_on_failure("NEXT");
        t_relay();
        exit;
    }
    # What the server sends goes to the phone that has the number.
    xlog("L_NOTICE", "CALL $proto port=$Rp\\n");
@ways@
    sl_send_reply("404", "Not Found");
}

route[TO_PHONE] {
    if ($(du{uri.transport}) == "tcp") {
        $fs = "tcp:127.0.0.1:@entry_udp@";
    } else {
        $fs = "udp:127.0.0.1:@entry_udp@";
    }
    t_relay();
}

route[CHALLENGE] {
    if (!pv_proxy_authenticate("@realm@", "@password@", "0") || $au != "@user@") {
        proxy_challenge("@realm@", "1");
        exit;
    }
    consume_credentials();
}

failure_route[NEXT] {
    if (t_is_canceled()) {
        exit;
    }
    $du = "@us_udp@";
    t_relay();
}

reply_route {
    if (is_method("OPTIONS")) {
        xlog("L_NOTICE", "PING $proto $rs\\n");
    }
}

event_route[dispatcher:dst-down] {
    xlog("L_NOTICE", "DOWN $ru\\n");
}
"""
