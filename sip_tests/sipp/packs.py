"""The packs: the same calls for each carrier, with that carrier's habits and its profile of deploy/trunks."""

import dataclasses
import hashlib
import pathlib
import re
import tomllib

import cases
import habits
import phones
import server

PROFILES = server.ROOT / "deploy/trunks"
# What a profile says that holds for the carrier's own network, or needs its password.
THEIR_OWN = {"name", "gateways", "allow", "media_allow", "username", "password", "realm", "register", "challenge"}
# A pack's calls are too many for a carrier's limits, and its phones have no keys and answer no OPTIONS.
NOT_HERE = {"srtp", "options_seconds", "max_calls", "max_calls_per_second"}
FAX = "m=image 40000 udptl t38\na=T38FaxVersion:0\na=T38FaxRateManagement:transferredTCF"
Case = cases.Case

def challenged(name, status, asks, proves):
    return Case(
        name,
        "hangs_up",
        "challenges",
        values={
            "challenge_status": status,
            "challenge_header": asks,
            "proof_header": proves,
            "username": "maskline",
            "password": "a long enough password",
        },
        invites=2,
        settings='username = "maskline"\npassword = "a long enough password"',
    )


BASE = [
    Case("answered_and_hung_up", "hangs_up", "is_hung_up"),
    Case("answered_and_hung_up_by_the_callee", "is_hung_up", "hangs_up"),
    Case("cancelled", "cancels", "is_cancelled", causes=(1000, 1000)),
    Case("forked", "hears_early_media", "forks"),
    Case("early_media", "hears_early_media", "has_early_media"),
    Case("held_and_resumed", "holds", "is_hung_up"),
    Case(
        "refreshed_by_update",
        "asks",
        "is_hung_up",
        values={"method": "UPDATE", "rest": "rest_empty", "caller_status": "200", "caller_phrase": "OK"},
    ),
    Case(
        "redirected_by_302_and_not_followed",
        "is_refused",
        "refuses",
        values={"callee_status": "302", "caller_status": "500", "caller_phrase": "Server Internal Error"},
        causes=(3080, 3080),
    ),
    Case(
        "503_with_retry_after_and_the_next_gateway_answers",
        "hangs_up",
        "is_hung_up",
        first_gateway="refuses",
        values={"callee_status": "503"},
        causes=(4000, 3090, 4000),
    ),
    Case("fax_is_refused_and_the_call_goes_on", "asks_for_a_change", "is_hung_up", values={"changed_media": FAX}),
    Case("late_offer", "offers_late", "is_hung_up"),
]

LATER = [
    # The longest first. What we refresh after 45 s is asked again when the carrier is busy with it.
    Case(
        "refreshed_by_us_after_491",
        "is_refreshed",
        "is_hung_up",
        values={"bye_within_ms": "75000"},
        lasts_s=(40, 75),
        limit=80,
        invites=2,
        takes_update=False,
    ),
    Case("prack_by_the_caller", "requires_100rel", "is_hung_up"),
    Case("prack_by_us", "hears_early_media", "rings_reliably"),
    Case(
        "session_timer_of_the_caller",
        "hangs_up",
        "is_hung_up",
        values={
            "extra_header": "Supported: timer\nSession-Expires: 1800;refresher=uac\nMin-SE: 90",
            "answered_check": "check_session",
            "session_expires": "1800",
            "refresher": "uac",
        },
    ),
]

CHALLENGED = [
    challenged("401_is_answered_with_the_password", "401", "WWW-Authenticate", "Authorization"),
    challenged("407_is_answered_with_the_password", "407", "Proxy-Authenticate", "Proxy-Authorization"),
]


@dataclasses.dataclass
class Packed:
    """A call of a pack."""

    carrier: habits.Habits
    place: int  # of the carrier among all
    case: Case

    @property
    def name(self):
        return f"{self.carrier.profile}_{self.case.name}"


PACKS = [Packed(carrier, place, case) for case in [*LATER, *CHALLENGED, *BASE] for place, carrier in enumerate(habits.CARRIERS)]


def profile(name):
    """The trunk of a profile, as far as it holds for a carrier on this machine."""
    trunks = tomllib.loads((PROFILES / f"{name}.toml").read_text(encoding="utf-8"))["trunks"]
    return {key: value for key, value in trunks[0].items() if key not in THEIR_OWN | NOT_HERE}


def written(settings):
    """As lines of the server's configuration."""

    def value(thing):
        if isinstance(thing, bool):
            return str(thing).lower()
        if isinstance(thing, list):
            return "[{}]".format(", ".join(map(value, thing)))
        return str(thing) if isinstance(thing, int) else f'"{thing}"'

    return "\n".join(f"{key} = {value(thing)}" for key, thing in settings.items())


class Play(phones.Play):
    """One call of a pack. Each carrier has an address of its own, by which the server knows its trunk."""

    def __init__(self, index, packed, ports):
        self.carrier = packed.carrier
        self.host = f"127.0.{packed.place + 11}.1"
        self.settings = profile(packed.carrier.profile)
        case = dataclasses.replace(
            packed.case,
            name=packed.name,
            caller_transport=packed.carrier.transport,
            callee_transport=packed.carrier.transport,
        )
        super().__init__(index, case, ports)

    def make_line(self, index):
        line = super().make_line(index)
        line.settings = f"{written(self.settings)}\n{self.case.settings}"
        line.allow = f"{self.host}/32"
        return line

    def audit(self, phones_, listeners):
        wrong = super().audit(phones_, listeners)
        if "proof_header" in self.case.values:
            for phone in phones_:
                if phone.side == "callee":
                    wrong += self.audit_proof([text for text in phone.received() if text.startswith("INVITE ")])
        return wrong

    def audit_proof(self, invites):
        """The first INVITE proves nothing, and the next one that we know the password (RFC 7616 §3.4.1)."""
        values, proofs = self.case.values, []
        for invite in invites:
            found = re.search(rf"^{values['proof_header']}: Digest (.*)$", invite, re.MULTILINE)
            proofs.append(dict(re.findall(r'(\w+)="?([^",\r]+)', found[1])) if found else None)
        if len(proofs) != 2 or proofs[0] or not proofs[1]:
            return [f"the INVITEs prove: {proofs}"]
        proof, password = proofs[1], values["password"]
        md5 = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
        secret = md5(f"{proof['username']}:{proof['realm']}:{password}")
        method = md5(f"INVITE:{proof['uri']}")
        expected = md5(":".join([secret, *(proof[name] for name in ("nonce", "nc", "cnonce", "qop")), method]))
        fits = proof["response"] == expected and proof["username"] == values["username"]
        return [] if fits else [f"the proof does not fit the password: {proof}"]

    def values(self, callee_port):
        values = super().values(callee_port) | self.carrier.values() | self.case.values
        plus = {"+e164": r"\+", "e164": ""}[self.settings.get("number_format", "+e164")]
        values["written_callee"], values["written_virtual"] = (
            plus + values["callee_digits"],
            plus + values["virtual_digits"],
        )
        values["gateway"] = rf"{self.host}:{callee_port}".replace(".", r"\.")
        if not self.case.takes_update:
            values["caller_says"] = re.sub(r", *UPDATE", "", values["caller_says"])
        if self.carrier.number == "e164":
            for name in ("dialled", "from", "caller"):
                values[name] = values[name].removeprefix("+")
        return values
