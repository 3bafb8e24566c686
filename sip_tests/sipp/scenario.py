"""Scenarios as SIPp reads them: the XML files of caller/ and callee/, with parts and values filled in.

`{{name}}` is a value; `{{>part key=value key="two words"}}` is the file parts/part.xml, in which the keys are values
too. The innermost braces are filled in first, so a part may be chosen by a value: `{{>{{rest}}}}`.
"""

import datetime
import pathlib
import re
import shlex

HERE = pathlib.Path(__file__).resolve().parent
BRACES = re.compile(r"\{\{([^{}]*)\}\}")

# Values that most scenarios have in common; a case or the place that includes a part sets others.
DEFAULTS = {
    "cseq": "1",
    # How the trunk writes numbers, what our Request-URI names, and what our Contact is on either side.
    "written_callee": r"\+{{callee_digits}}",
    "written_virtual": r"\+{{virtual_digits}}",
    "caller_contact": r"127\.0\.0\.1:{{sip_port}}",
    "callee_contact": r"127\.0\.0\.1:{{sip_port}}",
    "branch": "1",
    "version": "1",
    "direction": "sendrecv",
    "answered_direction": "sendrecv",
    "sdp_into": "sdp_1",
    "optional": "false",
    "check": "check_nothing",
    "caller_check": "check_nothing",
    "answered_check": "check_nothing",
    "invite_check": "check_nothing",
    "timer": "",
    "rest": "rest_empty",
    "fork": "1",
    "changed_media": "m=video 40000 RTP/AVP 96",
    "cancel_phrase": "OK",
    "retrans": "500",
    "max_forwards": "70",
    "extra_header": "X-Account: caller-mark",
    # What a carrier's INVITE and its answers say beside what each must; both sides plant marks that must not cross.
    "caller_is_at": "<sip:caller-mark@[local_ip]:[local_port];transport=[transport]>",
    "caller_says": """P-Asserted-Identity: "caller-mark" <{{asserted_uri}}>
Remote-Party-ID: "caller-mark" <sip:{{from}}@caller-mark.example>;party=calling
Diversion: <sip:{{from}}@caller-mark.example>;reason=unconditional
History-Info: <sip:{{from}}@caller-mark.example>;index=1
P-Charging-Vector: icid-value=caller-mark;icid-generated-at=caller-mark.example
User-Agent: caller-mark""",
    "callee_is_at": '"callee-mark" <sip:callee-mark@[local_ip]:[local_port];transport=[transport]>',
    "callee_says": """P-Asserted-Identity: "callee-mark" <sip:{{callee}}@callee-mark.example>
Remote-Party-ID: "callee-mark" <sip:{{callee}}@callee-mark.example>;party=called
History-Info: <sip:{{callee}}@callee-mark.example>;index=1
Reason: SIP;cause=200;text="callee-mark"
Warning: 399 callee-mark.example "callee-mark"
Server: callee-mark""",
    "talk_ms": "300",
    "ring_ms": "100",
    "bye_within_ms": "10000",
    "callee_media_line": "m=audio {{callee_media}} RTP/AVP 0 101\na=rtpmap:0 PCMU/8000\n"
    "a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-15",
    "media_line": "m=audio {{caller_media}} RTP/AVP 0 8 101\na=rtpmap:0 PCMU/8000\na=rtpmap:8 PCMA/8000\n"
    "a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-15",
}


def expand(text, values):
    """Fills in every pair of braces. A name that nobody set is an error."""

    def fill(match):
        inside = match.group(1)
        if not inside.startswith(">"):
            if inside not in values:
                raise KeyError(f"{{{{{inside}}}}} has no value")
            return expand(str(values[inside]), values)
        name, *arguments = shlex.split(inside[1:])
        here = dict(values)
        here.update(argument.split("=", 1) for argument in arguments)
        part = (HERE / "parts" / f"{name}.xml").read_text(encoding="utf-8").removesuffix("\n")
        return expand(part, here)

    while BRACES.search(text):
        text = BRACES.sub(fill, text)
    return text


def scenario(side, name, values):
    """One side's scenario as a text for `sipp -sf`."""
    text = (HERE / side / f"{name}.xml").read_text(encoding="utf-8")
    text = expand(text, DEFAULTS | values)
    # SIPp takes a variable that is set and never used for an error.
    variables = ",".join(sorted(set(re.findall(r'assign_to="(\w+)"', text))))
    return text.replace("</scenario>", f'  <Reference variables="{variables}"/>\n</scenario>')


TIME = re.compile(r"^-{20,} (\S+ \S+)$", re.MULTILINE)
MESSAGE = re.compile(r"^-{20,}[^\n]*\n\w+ message (sent|received)[^\n]*:\n\n", re.MULTILINE)


def span_s(log):
    """Seconds from the first message to the last."""
    times = [datetime.datetime.fromisoformat(time) for time in TIME.findall(log.read_text(errors="replace"))]
    return (times[-1] - times[0]).total_seconds() if times else 0.0


def messages(log):
    """What SIPp's message log holds: (sent or received, text), in order."""
    try:
        text = pathlib.Path(log).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    pieces = MESSAGE.split(text)
    return [(way, message.rstrip("\n")) for way, message in zip(pieces[1::2], pieces[2::2])]
