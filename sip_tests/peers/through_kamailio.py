"""Calls of SIPp phones through Kamailio, on both sides of the server."""

import dataclasses
import re

import carrier
import cases
import phones
import server


@dataclasses.dataclass
class Proxied(cases.Case):
    """A call whose A-leg comes `by` one transport and whose B-leg leaves by another, or by gateways in turn."""

    by: str = "udp"
    leaves_by: str = "udp"
    settings: str = ""  # of the trunk
    dead_first: bool = False  # a gateway of the server at which nobody listens
    busy_first: bool = False  # one that says 503
    forks: bool = False  # `first_gateway` is a second phone of the callee
    challenges: bool = False


def through(what, caller, callee, **more):
    """The same call over each transport, the legs alike."""
    return [Proxied(f"{what}_{kind}", caller, callee, by=kind, leaves_by=kind, **more) for kind in ("udp", "tcp", "tls")]


CASES = [
    *through("hold_and_resume_through_kamailio", "holds", "is_hung_up"),
    *through("callee_holds_through_kamailio", "is_hung_up", "holds"),
    *through("caller_hangs_up_through_kamailio", "hangs_up", "is_hung_up"),
    *through("callee_hangs_up_through_kamailio", "is_hung_up", "hangs_up"),
    # Kamailio answers CANCEL itself, hop by hop.
    *through(
        "cancel_through_kamailio",
        "cancels",
        "is_cancelled",
        values={"cancel_phrase": "canceling"},
        causes=(1000, 1000),
    ),
    *through(
        "busy_through_kamailio",
        "is_refused",
        "refuses",
        values={"callee_status": "486", "caller_status": "486", "caller_phrase": "Busy Here"},
        causes=(3010, 3010),
    ),
    Proxied("tls_in_and_udp_out", "hangs_up", "is_hung_up", by="tls"),
    Proxied("udp_in_and_tls_out", "is_hung_up", "hangs_up", leaves_by="tls"),
    Proxied("tcp_in_and_tls_out_to_a_phone_with_tcp", "hangs_up", "is_hung_up", by="tcp", leaves_by="tls", callee_transport="tcp"),
    Proxied("late_offer_through_kamailio", "offers_late", "is_hung_up", by="tls", leaves_by="tls"),
    Proxied("early_media_through_kamailio", "hears_early_media", "has_early_media", by="tls", leaves_by="tcp"),
    Proxied(
        "kamailio_forks_and_one_phone_answers",
        "hangs_up",
        "is_hung_up",
        first_gateway="is_cancelled",
        forks=True,
        leaves_by="tls",
    ),
    Proxied(
        "update_through_kamailio",
        "asks",
        "is_hung_up",
        by="tls",
        values={"method": "UPDATE", "rest": "rest_empty", "caller_status": "200", "caller_phrase": "OK"},
    ),
    Proxied("carriers_first_destination_is_dead_and_it_comes_again", "hangs_up", "is_hung_up", by="failover"),
    Proxied("our_first_gateway_is_dead", "hangs_up", "is_hung_up", leaves_by="tcp", dead_first=True, causes=(4000, 3090, 4000)),
    Proxied("kamailio_says_503_and_the_next_gateway_is_tried", "hangs_up", "is_hung_up", busy_first=True, causes=(4000, 3090, 4000)),
]


CREDENTIALS = f'username = "{carrier.USER}"\npassword = "{carrier.PASSWORD}"'
DIGEST = [
    *through("kamailio_challenges_and_is_answered", "hangs_up", "is_hung_up", challenges=True, settings=CREDENTIALS),
    Proxied(
        "kamailio_challenges_and_the_password_is_wrong",
        "is_refused",
        challenges=True,
        settings=f'username = "{carrier.USER}"\npassword = "another password"',
        values={"caller_status": "500", "caller_phrase": "Server Internal Error"},
        causes=(3040, 3040),
    ),
]

CASES += DIGEST

# Lives for some pings of Kamailio's.
LAST = Proxied("call_that_is_drained", "hangs_up", "is_hung_up", by="tls", values={"talk_ms": "6000"}, causes=None)


class Play(phones.Play):
    """One case with its numbers, ports and ways through Kamailio."""

    def __init__(self, index, case, ports, kamailio):
        self.kamailio = kamailio
        super().__init__(index, case, ports)
        callee = self.numbers["first" if case.who == "second" else "second"]
        first = [self.first_port] if case.forks else []
        places = [f"sip:127.0.0.1:{port};transport={case.callee_transport}" for port in [self.callee_port, *first]]
        kamailio.ways.append(carrier.Way(callee, places, case.busy_first, case.challenges))

    def make_line(self, index):
        case, kamailio = self.case, self.kamailio
        gateways = [kamailio.gateway(case.leaves_by)]
        if case.busy_first:
            gateways.insert(0, kamailio.gateway("busy"))
        if case.dead_first:
            gateways.insert(0, f"sip:127.0.0.1:{kamailio.dead};transport={case.leaves_by}")
        return server.Line(index, self.numbers["virtual"], gateways, case.settings)

    def remote(self):
        return f"127.0.0.1:{self.kamailio.entry[self.case.by]}"

    def values(self, callee_port):
        case = self.case
        secure = {"tls": self.ports.sip_tls}
        leads_to = self.kamailio.trunk[case.leaves_by]
        return super().values(callee_port) | {
            "gateway": rf"127\.0\.0\.1:{leads_to}",
            "caller_contact": rf"127\.0\.0\.1:{secure.get(case.by, self.ports.sip)}",
            "callee_contact": rf"127\.0\.0\.1:{secure.get(case.leaves_by, self.ports.sip)}",
        }

    def audit(self, phones_, listeners):
        """Beside what is always looked at: Kamailio stays in the dialogs, and the transports are what they should be."""
        wrong = super().audit(phones_, listeners)
        for phone in phones_:
            for message in phone.received():
                if phone.side != "caller" and message.startswith("INVITE ") and "To tag" not in message:
                    wrong += self.audit_invite(message)
                if phone.side == "caller" and re.match(r"SIP/2\.0 200", message) and "\nCSeq: 1 INVITE" in message:
                    routes = message.count("\nRecord-Route:") + message.count(",<sip:") + message.count(", <sip:")
                    if routes != 2:
                        wrong.append(f"the caller's dialog has {routes} routes, not 2")
        return wrong

    def audit_records(self, maskline):
        # Who has no causes to look for is alone with a server that ends.
        return super().audit_records(maskline) if self.case.causes is not None else []

    def audit_invite(self, message):
        vias = re.findall(r"^Via: SIP/2\.0/(\w+)", message, re.MULTILINE)
        wanted = self.case.leaves_by.upper()
        return [] if len(vias) == 2 and vias[1] == wanted else [f"the INVITE came by {vias}, not by {wanted} from the server"]
