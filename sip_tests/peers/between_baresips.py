"""Calls between two baresips: what one says the other hears, and the recording holds; nobody sees too much."""

import dataclasses
import json
import pathlib
import re
import time

import carrier
import cases
import server
import softphone
import sound

SPEECH_SECONDS = 45
TALK_SECONDS = 3.2
HEARD_SECONDS = 1.6


@dataclasses.dataclass
class Talk:
    """One call. The phones speak `by` one transport to the server, or to Kamailio who brings it there."""

    name: str
    by: str = "udp"
    who: str = "first"  # who calls: first or stranger
    session: dict = dataclasses.field(default_factory=dict)
    pin: str = ""
    through_kamailio: bool = False
    holder: str = ""  # caller or callee
    types: bool = False  # each types keys that the other is to get
    ends: str = "caller"  # who hangs up
    # "cancelled" by the caller while it rings, "refused" then by the callee, or what the caller is told: 488.
    instead: str = ""
    settings: str = ""  # of the trunk
    # Parameters of the phones' accounts.
    calling: str = ""
    called: str = ""
    alone: str = ""  # the caller's own address: calls from it come in by a trunk with these settings
    encrypted: bool = False  # the SDP of both legs has keys
    causes: tuple = (4000, 4000)


PIN = {
    "is_pin_authentication_required": True,
    "first_party_pin": "1397",
    "second_party_pin": "2864",
    "pin_prompt_play": "https://prompts.example/pin.wav",
}

TALKS = [
    Talk("stranger_types_the_pin_at_a_baresip", who="stranger", session=PIN, pin="1397"),
    Talk("baresip_holds_and_resumes", holder="caller", ends="callee"),
    Talk("called_baresip_holds_and_resumes_over_tls", by="tls", holder="callee"),
    Talk("baresips_talk_and_type_over_udp", ends="callee", types=True),
    Talk("called_baresip_refuses", instead="refused", causes=(3010, 3010)),
    Talk("calling_baresip_gives_up_over_tls", by="tls", instead="cancelled", causes=(1000, 1000)),
    Talk("baresips_talk_over_tcp", by="tcp"),
    Talk("baresips_talk_over_tls", by="tls", ends="callee"),
    Talk("baresips_talk_through_kamailio_over_tls", by="tls", through_kamailio=True),
    Talk("pin_through_kamailio_over_tcp", by="tcp", who="stranger", session=PIN, pin="2864", through_kamailio=True),
]


SDES = ";mediaenc=srtp-mand"
ENCRYPTED = [
    Talk(
        "baresips_talk_encrypted_over_tls",
        by="tls",
        settings='srtp = "required"',
        calling=SDES,
        called=SDES,
        encrypted=True,
    ),
    Talk("encrypted_baresip_talks_to_a_plain_one", by="tls", calling=SDES),
    # Keys with the profile of plain RTP (RFC 8643): what is encrypted is up to the answer.
    Talk(
        "plain_baresip_talks_to_one_that_likes_keys",
        by="tls",
        settings='srtp = "optional"',
        called=";mediaenc=srtp",
        ends="callee",
    ),
    Talk(
        "encrypted_pin",
        by="tls",
        who="stranger",
        session=PIN,
        pin="1397",
        settings='srtp = "required"',
        calling=SDES,
        called=SDES,
        encrypted=True,
    ),
    Talk(
        "plain_caller_is_refused_where_keys_are_required",
        settings='srtp = "required"',
        alone="127.0.0.2",
        instead="488",
        causes=(3020,),
    ),
    Talk(
        "plain_callee_gets_no_call_where_keys_are_required",
        settings='srtp = "required"',
        instead="488",
        causes=(3020, 3020),
    ),
]

TALKS += ENCRYPTED


class Play:
    """One talk with its numbers, phones and line."""

    def __init__(self, index, case, ports, kamailio, certificate, ca):
        self.index, self.case, self.ports, self.kamailio = index, case, ports, kamailio
        self.certificate, self.ca = certificate, ca
        self.numbers = cases.numbers(index)
        # The first party's PIN leads to the second, and the other way round.
        self.callee_role = "first" if case.pin == "2864" else "second"
        self.phones = {}
        self.port = {"caller": ports.take(2), "callee": ports.take(2)}
        self.line = self.make_line()

    def make_line(self):
        case = self.case
        callee = f"sip:127.0.0.1:{self.listens('callee')};transport={case.by}"
        if case.through_kamailio:
            # Kamailio reaches phones over UDP and TCP.
            place = f"sip:127.0.0.1:{self.port['callee']};transport=tcp"
            self.kamailio.ways.append(carrier.Way(self.numbers[self.callee_role], [place]))
            callee = self.kamailio.gateway(case.by)
        return server.Line(
            self.index, self.numbers["virtual"], [callee], case.settings, f"{case.alone}/32" if case.alone else "127.0.0.0/8"
        )

    def listens(self, side):
        return self.port[side] + (1 if self.case.by == "tls" else 0)

    def make_phone(self, directory, side, number, seed):
        case = self.case
        port = self.ports.sip_tls if case.by == "tls" else self.ports.sip
        transport = case.by
        if case.through_kamailio:
            port, transport = self.kamailio.entry[case.by], "tcp"
        return softphone.Softphone(
            directory,
            side,
            number,
            sound.speech(seed, SPEECH_SECONDS),
            self.ports,
            self.port[side],
            transport,
            f"sip:127.0.0.1:{port}",
            self.certificate,
            self.ca,
            case.calling if side == "caller" else case.called,
            case.alone if side == "caller" and case.alone else "127.0.0.1",
        )

    def run(self, maskline, directory):
        case, numbers = self.case, self.numbers
        directory.mkdir()
        parties = {"first_party": numbers["first"], "second_party": numbers["second"], "record": True}
        maskline.make_session(self.line, parties | case.session)
        caller = self.make_phone(directory, "caller", numbers[case.who], 2 * self.index)
        callee = self.make_phone(directory, "callee", numbers[self.callee_role], 2 * self.index + 1)
        both = (caller, callee)
        wrong = []
        try:
            for phone in both:
                phone.start()
            self.talk(caller, callee)
        except AssertionError as error:
            wrong.append(str(error))
        finally:
            for phone in both:
                phone.stop()
        if not wrong and not case.instead:
            wrong += self.audit_sound(maskline, caller, callee)
        wrong += self.audit_logs(caller, callee)
        if not wrong:
            wrong += maskline.wrong_causes(self.line, case.causes)
        if wrong:
            wrong += [phone.story() for phone in both]
        return wrong

    def talk(self, caller, callee):
        case = self.case
        caller.dial(self.line.number)
        if case.instead.isdigit():
            closed = caller.wait_for("CALL_CLOSED")["param"]
            if case.instead not in closed:
                raise AssertionError(f"the caller is told {closed!r}, not {case.instead}")
            return
        if case.pin:
            caller.wait_for("CALL_ESTABLISHED")
            # The prompt may be interrupted.
            time.sleep(1)
            caller.tell("sndcode", case.pin)
        callee.wait_for("CALL_INCOMING", 20)
        if case.instead:
            self.end_before_it_begins(caller, callee)
            return
        callee.tell("accept")
        callee.wait_for("CALL_ESTABLISHED")
        if not case.pin:
            caller.wait_for("CALL_ESTABLISHED")
        # Not synchronisation: this long they talk.
        time.sleep(TALK_SECONDS)
        if case.types:
            for phone, other, keys in ((caller, callee, "147*"), (callee, caller, "036#")):
                phone.tell("sndcode", keys)
                typed = "".join(other.wait_for("CALL_DTMF_START")["param"] for _ in keys)
                if typed != keys:
                    raise AssertionError(f"{other.name} gets {typed}, not {keys}")
        if case.holder:
            holder = caller if case.holder == "caller" else callee
            holder.tell("hold")
            time.sleep(1.5)
            holder.tell("resume")
            time.sleep(TALK_SECONDS)
        ends, other = (caller, callee) if case.ends == "caller" else (callee, caller)
        ends.tell("hangup")
        other.wait_for("CALL_CLOSED")

    def end_before_it_begins(self, caller, callee):
        caller.wait_for("CALL_RINGING")
        if self.case.instead == "cancelled":
            caller.tell("hangup")
            callee.wait_for("CALL_CLOSED")
            return
        callee.tell("hangup")
        closed = caller.wait_for("CALL_CLOSED")["param"]
        if "486" not in closed:
            raise AssertionError(f"the caller is told {closed!r}, not 486")

    def audit_sound(self, maskline, caller, callee):
        seconds = HEARD_SECONDS * (2 if self.case.holder else 1)
        wrong = self.audit_heard(callee, caller) + self.audit_heard(caller, callee)
        wrong += sound.foreign("what the callee hears", callee.said, callee.heard())
        folder = self.recording(maskline)
        if not folder:
            return [*wrong, "there is no recording"]
        for leg, phone, other in (("a", caller, callee), ("b", callee, caller)):
            samples = sound.read(folder / f"{leg}-leg.wav")
            wrong += sound.complaint(f"{leg}-leg.wav", phone.said, samples, seconds)
            wrong += sound.foreign(f"{leg}-leg.wav", other.said, samples)
        return wrong

    def audit_heard(self, listener, speaker):
        """What one baresip decoded is what the other said, before the hold and after it."""
        what, heard, length = f"the {listener.name} hears the {speaker.name}", listener.heard(), int(TALK_SECONDS * sound.RATE)
        if not self.case.holder:
            # Before that the prompt, if there was one.
            return sound.complaint(what, speaker.said, heard[-length:], HEARD_SECONDS)
        wrong = sound.complaint(f"{what} at first", speaker.said, heard[:length], HEARD_SECONDS)
        if self.case.holder == listener.name:
            # baresip 1.0 decodes nothing more after a hold of its own, whoever the peer is; but the packets come.
            wanted = int(1.6 * TALK_SECONDS * 50)
            if listener.packets_received() < wanted:
                wrong.append(f"{what}: {listener.packets_received()} packets came, not {wanted}")
        else:
            wrong += sound.complaint(f"{what} after the hold", speaker.said, heard[-length:], HEARD_SECONDS)
        return wrong

    def recording(self, maskline):
        """The folder of the call's recording, once it is complete."""
        path = f"/v1/Account/{self.line.auth_id}/Recording/"
        until = time.monotonic() + 20
        while time.monotonic() < until:
            status, answer = maskline.request("GET", path, self.line.auth_id)
            if status == 200:
                for recording in json.loads(answer)["objects"]:
                    for folder in pathlib.Path(maskline.directory, "rec").glob(f"*/*/*/{recording['recording_id']}"):
                        if (folder / "call.json").exists():
                            return folder
            time.sleep(0.1)
        return None

    def audit_logs(self, caller, callee):
        """All that a baresip was sent and has printed, against what it must not know."""
        wrong = []
        for phone, other in ((caller, callee), (callee, caller)):
            log = phone.read_log()
            hidden = {number.removeprefix("+1") for role, number in self.numbers.items() if role != "virtual"}
            hidden.discard(phone.number.removeprefix("+1"))
            for pattern in [*hidden, f"{other.name}-mark", rf"127\.0\.0\.1:{other.port}\b"]:
                found = re.search(pattern, log)
                if found and not (self.case.through_kamailio and pattern.startswith("127")):
                    wrong.append(f"{phone.name} sees {found[0]!r} of the other side")
            if self.line.number.removeprefix("+") not in log and not self.case.instead.isdigit():
                wrong.append(f"{phone.name} does not see the virtual number")
            if self.case.encrypted and log.count("a=crypto:") < 2:
                wrong.append(f"{phone.name} has no keys of both sides in its SDP")
        if self.case.pin and re.search(r"CALL_DTMF|telephone-event.*start", callee.read_log()):
            wrong.append("the callee is told the digits of the PIN")
        return wrong
