"""What each carrier's messages look like, beside what every SIP message has: the data of the packs.

The texts follow what the carriers publish of their interfaces. Each plants the caller's and the callee's marks wherever
a carrier tells who calls or who is called, so that a pack fails when any of it crosses.
"""

import dataclasses

AUDIO = "a=rtpmap:0 PCMU/8000\na=rtpmap:8 PCMA/8000"


def audio(media, payload_types="0 8 101", event=101, more=""):
    """An offer's or answer's audio line with telephone-event at that number."""
    text = f"m=audio {{{{{media}}}}} RTP/AVP {payload_types}\n{AUDIO}\na=rtpmap:{event} telephone-event/8000"
    return f"{text}\na=fmtp:{event} 0-15" + (f"\n{more}" if more else "")


@dataclasses.dataclass
class Habits:
    """One carrier. `profile` names its file in deploy/trunks."""

    profile: str
    caller_says: str  # headers of its INVITEs
    callee_says: str  # headers of its answers to ours
    number: str = "+e164"  # how it writes the dialled number
    transport: str = "udp"
    from_uri: str = "sip:{{from}}@caller-mark.example"
    caller_is_at: str = "<sip:{{from}}@[local_ip]:[local_port];transport=[transport]>"
    callee_is_at: str = "<sip:{{callee}}@[local_ip]:[local_port];transport=[transport]>"
    offer: str = audio("caller_media")
    answer: str = audio("callee_media")

    def values(self):
        return {
            "caller_says": self.caller_says,
            "callee_says": self.callee_says,
            "from_uri": self.from_uri,
            "caller_is_at": self.caller_is_at,
            "callee_is_at": self.callee_is_at,
            "media_line": self.offer,
            "callee_media_line": self.answer,
        }


CARRIERS = [
    Habits(
        "plivo",
        # No INFO, MESSAGE, NOTIFY, PRACK, REGISTER.
        caller_says="""P-Asserted-Identity: <sip:{{from}}@caller-mark.example>
X-PH-Caller: caller-mark
Allow: ACK, BYE, CANCEL, INVITE, OPTIONS, REFER, UPDATE
Supported: timer
User-Agent: Plivo caller-mark""",
        callee_says="""P-Asserted-Identity: <sip:{{callee}}@callee-mark.example>
X-PH-Leg: callee-mark
Allow: ACK, BYE, CANCEL, INVITE, OPTIONS, REFER, UPDATE
Server: Plivo callee-mark""",
        offer=audio("caller_media", more="a=ptime:20\na=maxptime:20"),
    ),
    Habits(
        "twilio",
        caller_says="""P-Asserted-Identity: <sip:{{from}}@pstn.caller-mark.example:5060>
Diversion: <sip:{{from}}@twilio.caller-mark.example>;reason=unconditional
X-Twilio-AccountSid: AC-caller-mark
X-Twilio-CallSid: CA-caller-mark
Allow: INVITE,ACK,CANCEL,OPTIONS,BYE
User-Agent: Twilio Gateway caller-mark""",
        callee_says="""X-Twilio-CallSid: CA-callee-mark
X-Twilio-Error: 32011 callee-mark
P-Asserted-Identity: <sip:{{callee}}@pstn.callee-mark.example>
Allow: INVITE,ACK,CANCEL,OPTIONS,BYE
Server: Twilio callee-mark""",
        from_uri="sip:{{from}}@pstn.caller-mark.example",
        answer=audio("callee_media", "0 101"),
    ),
    Habits(
        "telnyx",
        caller_says="""P-Charge-Info: <sip:{{from}}@caller-mark.example>;npi=ISDN;noa=2
X-Telnyx-Token: caller-mark
X-Telnyx-Session-ID: caller-mark
X-Telnyx-Leg-ID: caller-mark
P-Asserted-Identity: "CALLER caller-mark" <sip:{{from}}@caller-mark.example;user=phone>
Remote-Party-ID: "caller-mark" <sip:{{from}}@caller-mark.example>;party=calling;screen=yes;privacy=off
Identity: caller-mark.caller-mark.caller-mark;info=<https://caller-mark.example/cert.pem>;alg=ES256;ppt=shaken
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, UPDATE, PRACK
Supported: timer, path, replaces, 100rel
User-Agent: Telnyx caller-mark""",
        callee_says="""X-Telnyx-Session-ID: callee-mark
P-Asserted-Identity: "callee-mark" <sip:{{callee}}@callee-mark.example>
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE, INFO, UPDATE, PRACK
Supported: timer, 100rel
Server: Telnyx callee-mark""",
        number="e164",
        offer=audio("caller_media", "0 8 101 13", more="a=rtpmap:13 CN/8000\na=rtcp:40001 IN IP4 [local_ip]"),
    ),
    Habits(
        "bandwidth",
        # Who calls stands in P-Asserted-Identity alone (RFC 3325).
        caller_says="""P-Asserted-Identity: "caller-mark" <sip:{{from}}@caller-mark.example:5060;user=phone>
Privacy: id
P-Charging-Vector: icid-value=caller-mark;orig-ioi=caller-mark.example
Accept: application/sdp, application/isup, application/dtmf, application/dtmf-relay, multipart/mixed
Allow: INVITE,ACK,CANCEL,BYE,REGISTER,REFER,INFO,SUBSCRIBE,NOTIFY,PRACK,UPDATE,OPTIONS,MESSAGE,PUBLISH""",
        callee_says="""P-Asserted-Identity: <sip:{{callee}}@callee-mark.example:5060;user=phone>
Accept: application/sdp, application/isup, multipart/mixed
P-Early-Media: sendrecv
Allow: INVITE,ACK,CANCEL,BYE,PRACK,UPDATE,OPTIONS""",
        from_uri="sip:anonymous@anonymous.invalid",
        offer=audio("caller_media", "0 8 18 100", 100, "a=rtpmap:18 G729/8000\na=fmtp:18 annexb=no\na=maxptime:20"),
    ),
    Habits(
        "didww",
        caller_says="""Diversion: "caller-mark" <sip:{{from}}@caller-mark.example>;reason=unconditional;counter=1
Identity: caller-mark.caller-mark.caller-mark;info=<https://caller-mark.example/c.cer>;alg=ES256;ppt=div
P-Asserted-Identity: <tel:{{from}}>
X-DIDWW-Caller: caller-mark
Allow: INVITE,ACK,BYE,CANCEL,OPTIONS,UPDATE
User-Agent: DIDWW caller-mark""",
        callee_says="""P-Asserted-Identity: <tel:{{callee}}>
Reason: Q.850;cause=16;text="callee-mark"
Allow: INVITE,ACK,BYE,CANCEL,OPTIONS
Server: DIDWW callee-mark""",
        number="e164",
        transport="tcp",
        offer=audio("caller_media", "0 8 18 4 101", 101, "a=rtpmap:18 G729/8000\na=rtpmap:4 G723/8000"),
    ),
    Habits(
        "teams",
        # Contacts are names that resolve nowhere here; Record-Route says how its proxy is reached.
        caller_says="""Record-Route: <sip:[local_ip]:[local_port];transport=[transport];lr>
P-Asserted-Identity: <tel:{{from}}>,<sip:caller-mark@caller-mark.example>
Privacy: id
History-Info: <sip:{{from}}@caller-mark.example;user=phone?Privacy=id>;index=1
X-MS-ConversationID: caller-mark
MS-CV: caller-mark
Referred-By: <sip:{{from}}@caller-mark.example>
Allow: INVITE,ACK,CANCEL,BYE,INFO,NOTIFY,PRACK,UPDATE,OPTIONS,REFER
Supported: timer,histinfo,norefersub
User-Agent: Microsoft.PSTNHub.SIPProxy caller-mark""",
        callee_says="""P-Asserted-Identity: <tel:{{callee}}>,<sip:callee-mark@callee-mark.example>
Privacy: id
X-MS-ConversationID: callee-mark
Allow: INVITE,ACK,CANCEL,BYE,INFO,NOTIFY,PRACK,UPDATE,OPTIONS,REFER
Server: Microsoft.PSTNHub.SIPProxy callee-mark""",
        transport="tcp",
        caller_is_at="<sip:api-du-a-caller-mark.pstnhub.example:443;x-i=caller-mark;x-c=caller-mark/d/8>",
        callee_is_at="<sip:callee-mark@[local_ip]:[local_port];transport=[transport];x-c=callee-mark>",
        offer=audio(
            "caller_media",
            "104 9 103 111 18 0 8 97 101 13 118",
            101,
            "a=rtpmap:104 SILK/16000\na=rtpmap:9 G722/8000\na=rtpmap:103 SILK/8000\na=rtpmap:111 SIREN/16000\n"
            "a=rtpmap:97 RED/8000\na=rtpmap:13 CN/8000\na=rtpmap:118 CN/16000\na=rtcp-mux\na=label:main-audio\n"
            "a=mid:caller-mark\na=ice-ufrag:caller-mark\na=ice-pwd:caller-mark-caller-mark-0\n"
            "a=candidate:1 1 UDP 2130706431 [local_ip] {{caller_media}} typ host\na=ptime:20",
        ),
    ),
]
