"""baresip: a phone that speaks from a file, keeps what it hears, and does what it is told over its control port."""

import array
import collections
import glob
import json
import pathlib
import re
import shutil
import socket
import threading
import time

import processes
import sound


def program():
    return shutil.which("baresip")


def modules():
    found = glob.glob("/usr/lib/baresip/modules") + glob.glob("/usr/lib/*/baresip/modules")
    if not found:
        raise SystemExit("baresip's modules are not where Debian puts them")
    return found[0]


class Softphone:
    """One baresip with one number. `outbound` is where its requests go, `transport` how."""

    def __init__(self, directory, name, number, said, ports, port, transport, outbound, certificate, ca, account="", host="127.0.0.1"):
        self.directory = pathlib.Path(directory) / name
        self.directory.mkdir()
        self.name, self.number, self.said = name, number, said
        self.transport = transport
        # UDP and TCP; TLS takes the port after it.
        self.port = port
        self.control_port = ports.take(1)
        media = ports.take(12)
        media += media % 2
        self.log = self.directory / "baresip.log"
        self.events = collections.deque()
        self.changed = threading.Condition()
        self.process = self.control = None
        speech = self.directory / "speech.wav"
        sound.write(speech, said)
        config = CONFIG.format(
            host=host,
            port=self.port,
            certificate=certificate,
            ca=ca,
            speech=speech,
            media=f"{media}-{media + 10}",
            modules=modules(),
            control=self.control_port,
            heard=self.directory,
        )
        (self.directory / "config").write_text(config, encoding="utf-8")
        (self.directory / "contacts").write_text("", encoding="utf-8")
        uri = f'"{name}-mark" <sip:{number}@{name}-mark.example;transport={transport}>'
        account = f'{uri};regint=0;answermode=manual;ptime=20;outbound="{outbound};transport={transport}"{account}'
        (self.directory / "accounts").write_text(account + "\n", encoding="utf-8")

    def start(self):
        command = [program(), "-4", "-f", self.directory, "-s"]
        self.process = processes.ALL.start(command, self.directory, self.log)
        until = time.monotonic() + 20
        while True:
            try:
                self.control = socket.create_connection(("127.0.0.1", self.control_port), 1)
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"{self.name} does not start:\n{self.read_log()[-2000:]}") from None
                time.sleep(0.05)
        self.control.settimeout(None)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        """Takes netstrings of JSON: events, and answers to commands."""
        data = b""
        while True:
            try:
                chunk = self.control.recv(65536)
            except OSError:
                return
            if not chunk:
                return
            data += chunk
            while (colon := data.find(b":")) > 0:
                size = int(data[:colon])
                if len(data) < colon + size + 2:
                    break
                message = json.loads(data[colon + 1 : colon + 1 + size])
                data = data[colon + size + 2 :]
                with self.changed:
                    self.events.append(message)
                    self.changed.notify_all()

    def tell(self, command, parameters=""):
        text = json.dumps({"command": command, "params": parameters}).encode()
        self.control.sendall(b"%d:%s," % (len(text), text))

    def wait_for(self, kind, limit=15):
        """The next event of that kind; those before it count as seen."""
        until = time.monotonic() + limit
        with self.changed:
            while True:
                while self.events:
                    event = self.events.popleft()
                    if event.get("type") == kind:
                        return event
                left = until - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    raise AssertionError(f"{self.name} saw no {kind}")

    def dial(self, number):
        self.tell("dial", f"sip:{number}@masking.example")

    def read_log(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def heard(self):
        """What it decoded, over all its calls."""
        whole = array.array("h")
        for path in sorted(self.directory.glob("dump-*-dec.wav")):
            whole.extend(sound.read(path))
        return whole

    def packets_received(self):
        """RTP packets of its last call."""
        found = re.findall(r"^packets:\s+\d+\s+(\d+)", COLOUR.sub("", self.read_log()), re.MULTILINE)
        return int(found[-1]) if found else 0

    def stop(self):
        if self.control:
            try:
                self.tell("quit")
            except OSError:
                pass
        if self.process:
            processes.ALL.end(self.process, 2)
        if self.control:
            self.control.close()

    def story(self):
        return f"---- {self.name}\n{COLOUR.sub('', self.read_log())[-6000:]}"


COLOUR = re.compile(r"\x1b\[[0-9;]*m")

CONFIG = """
poll_method epoll
sip_listen {host}:{port}
sip_certificate {certificate}
sip_cafile {ca}
call_local_timeout 120
call_max_calls 4
audio_player aubridge,nowhere
audio_source aufile,{speech}
audio_alert aubridge,nobody
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
audio_level no
rtp_ports {media}
rtcp_mux no
rtp_stats yes
jitter_buffer_delay 2-10
net_interface {host}
module_path {modules}
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
snd_path {heard}
ringback_disabled yes
menu_bell no
"""
