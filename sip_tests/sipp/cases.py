"""What is tried: each row of product.md's call table, each way a call can end, and what may come during a call."""

import dataclasses
import re


@dataclasses.dataclass
class Case:
    """One call, or one request. Each case has a virtual number, a trunk and an account of its own."""

    name: str
    caller: str  # a file of caller/
    callee: str | None = None  # a file of callee/; without one nobody may be rung
    who: str = "first"  # who calls: first, second or stranger
    # Parameters of the session over the usual ones; None: there is none.
    session: dict | None = dataclasses.field(default_factory=dict)
    values: dict = dataclasses.field(default_factory=dict)  # for the scenarios
    caller_transport: str = "udp"
    callee_transport: str = "udp"
    first_gateway: str | None = None  # a file of callee/ for a gateway that is tried before the callee's
    repetitions: bool = False  # SIPp shows what is repeated, instead of swallowing it
    same: tuple = ()  # (beginning of a message, how often the caller gets it, byte for byte)
    hears_ms: int = 0  # how much audio the caller gets at least
    speaks: bool = False  # the caller sends RTP once he gets some, so that silence does not end the call
    lasts_s: tuple = (0, 15)  # from the caller's first message to his last, at least and at most
    # Hang-up codes of Plivo in the CDRs of the A-leg and of each B-leg.
    causes: tuple = (4000, 4000)
    limit: int = 20  # seconds
    settings: str = ""  # of the trunk, by which its calls come in too
    takes_update: bool = True  # what the caller of a pack allows
    invites: int = 1  # that each phone gets; a challenge leads to another


def refusal(name, callee_status, caller_status, phrase, cause):
    return Case(
        name,
        "is_refused",
        "refuses",
        values={"callee_status": callee_status, "caller_status": caller_status, "caller_phrase": phrase},
        causes=(cause, cause),
    )


def refused(name, status, phrase, caller="is_refused", **more):
    """Refused by us: nobody is rung."""
    values = {"caller_status": status, "caller_phrase": phrase} | more.pop("values", {})
    return Case(name, caller, values=values, **({"causes": ()} | more))


def outside(name, method, status, phrase, **values):
    values |= {"method": method, "caller_status": status, "caller_phrase": phrase}
    return Case(name, "asks_outside", session=None, values={"to_tag": ""} | values, causes=())


def inside(name, method, rest, status, phrase, check="check_nothing", **values):
    values |= {"method": method, "rest": rest, "caller_status": status, "caller_phrase": phrase}
    return Case(name, "asks", "is_hung_up", values=values | {"caller_check": check})


def from_callee(name, method, rest, status, check="check_nothing", **values):
    values |= {"method": method, "rest": rest, "callee_status": status}
    return Case(name, "is_hung_up", "asks", values=values | {"callee_check": check})


REQUIRES_100REL = {"extra_header": "Require: 100rel"}
PIN = {
    "is_pin_authentication_required": True,
    "first_party_pin": "1111",
    "second_party_pin": "2222",
    "pin_prompt_play": "https://prompts.example/pin.wav",
    "pin_retry": 1,
    "pin_retry_wait": 5,
}
NO_SESSION = {"session": None}
PLAY = {"unknown_caller_play": "https://prompts.example/unknown.wav"}


def keys(digits):
    return {f"key_{index}": digit for index, digit in enumerate(digits, start=1)}


CASES = [
    # The longest first, so that they run beside all others.
    Case(
        "stranger_who_types_nothing_is_asked_twice_and_hung_up",
        "is_spoken_to",
        who="stranger",
        session=PIN,
        # Prompt 3.2 s, 10 s, wrong PIN 1.7 s, 5 s, prompt, 10 s, wrong PIN, goodbye 0.7 s.
        values={"bye_within_ms": "70000"},
        hears_ms=8500,
        speaks=True,
        lasts_s=(33, 60),
        causes=(3030,),
        limit=75,
    ),
    Case(
        "stranger_with_wrong_pins_is_hung_up",
        "types_wrong_pin",
        who="stranger",
        session=PIN,
        values={"bye_within_ms": "30000"},
        hears_ms=2000,
        speaks=True,
        lasts_s=(6, 30),
        causes=(3030,),
        limit=40,
    ),
    Case(
        "forced_pin_must_be_the_callers_own",
        "types_other_pin_first",
        "hangs_up",
        session=PIN | {"force_pin_authentication": True},
        values={"bye_within_ms": "20000"},
        speaks=True,
        lasts_s=(6, 25),
        limit=30,
    ),
    # The call table.
    refused("number_that_is_not_ours_gets_404", "404", "Not Found", **NO_SESSION, values={"dialled": "+12025559999"}),
    Case("party_reaches_the_other_and_hangs_up", "hangs_up", "is_hung_up"),
    Case("party_reaches_the_other_who_hangs_up", "is_hung_up", "hangs_up"),
    Case("second_party_reaches_the_first", "hangs_up", "is_hung_up", who="second"),
    Case(
        "anonymous_party_is_known_by_its_asserted_identity",
        "hangs_up",
        "is_hung_up",
        values={"from_uri": "sip:anonymous@anonymous.invalid"},
    ),
    Case(
        "forced_pin_then_connected",
        "types_pin",
        "is_hung_up",
        session=PIN | {"force_pin_authentication": True},
        values=keys("1111") | {"talk_ms": "1500"},
        speaks=True,
    ),
    Case(
        "stranger_reaches_the_party_of_a_single_party_session",
        "hangs_up",
        "is_hung_up",
        who="stranger",
        session={"create_session_with_single_party": True, "first_party": None},
    ),
    Case(
        "stranger_with_the_first_partys_pin_reaches_the_second",
        "types_pin",
        "is_hung_up",
        who="stranger",
        session=PIN,
        values=keys("1111") | {"talk_ms": "1500"},
        speaks=True,
    ),
    Case(
        "stranger_hears_the_message_and_gets_bye",
        "is_spoken_to",
        who="stranger",
        session=PLAY,
        hears_ms=2900,
        speaks=True,
        causes=(5020,),
    ),
    refused("stranger_without_sessions_gets_404", "404", "Not Found", who="stranger", **NO_SESSION, causes=(5020,)),
    refused("stranger_among_sessions_of_others_gets_404", "404", "Not Found", who="stranger", causes=(5020,)),
    # Ways to end.
    Case("caller_cancels_while_it_rings", "cancels", "is_cancelled", causes=(1000, 1000)),
    Case("cancel_crossing_200_ends_with_ack_and_bye", "cancels", "answers_the_cancel", causes=(1000, 1000)),
    refusal("callee_486_is_486", "486", "486", "Busy Here", 3010),
    refusal("callee_603_is_603", "603", "603", "Decline", 3110),
    refusal("callee_600_is_600", "600", "600", "Busy Everywhere", 3100),
    refusal("callee_404_is_480", "404", "480", "Temporarily Unavailable", 2000),
    refusal("callee_302_is_500_and_not_followed", "302", "500", "Server Internal Error", 3080),
    refusal("callee_503_is_500", "503", "500", "Server Internal Error", 3090),
    refusal("callee_401_is_500", "401", "500", "Server Internal Error", 3040),
    refusal("callee_415_is_488", "415", "488", "Not Acceptable Here", 3020),
    Case(
        "gateway_that_says_503_is_left_for_the_next",
        "hangs_up",
        "is_hung_up",
        first_gateway="refuses",
        causes=(4000, 3090, 4000),
        values={"callee_status": "503"},
    ),
    Case(
        "nobody_answers_within_ring_timeout",
        "is_refused",
        "is_cancelled",
        # Longer than the silence that ends a call: while it rings nobody can speak.
        session={"ring_timeout": 4},
        values={"caller_status": "480", "caller_phrase": "Temporarily Unavailable"},
        lasts_s=(4, 8),
        causes=(6010, 6010),
    ),
    Case(
        "call_time_limit_ends_both_legs",
        "is_hung_up",
        "is_hung_up",
        session={"call_time_limit": 1},
        lasts_s=(1, 8),
        causes=(6000, 6000),
    ),
    Case("silence_ends_both_legs", "is_hung_up", "is_hung_up", lasts_s=(2, 8), causes=(6020, 6020)),
    # Set-up.
    Case("late_offer_is_answered_in_the_ack", "offers_late", "is_hung_up"),
    Case("early_media_passes_as_our_own", "hears_early_media", "has_early_media"),
    Case("forks_look_like_one_phone", "hears_early_media", "forks"),
    Case(
        "missing_ack_repeats_the_200",
        "acknowledges_late",
        "is_hung_up",
        repetitions=True,
        same=("SIP/2.0 200", 2),
    ),
    Case(
        "repeated_invite_gets_the_same_answer",
        "repeats_invite",
        "is_cancelled",
        repetitions=True,
        same=("SIP/2.0 487", 2),
        causes=(1000, 1000),
    ),
    Case("tcp_both_ways_and_caller_hangs_up", "hangs_up", "is_hung_up", caller_transport="tcp", callee_transport="tcp"),
    Case("tcp_both_ways_and_callee_hangs_up", "is_hung_up", "hangs_up", caller_transport="tcp", callee_transport="tcp"),
    Case("tcp_to_udp", "hangs_up", "is_hung_up", caller_transport="tcp"),
    Case("udp_to_tcp", "is_hung_up", "hangs_up", callee_transport="tcp"),
    # During the call. The other side's scenario has no room for a request, so it must not see any.
    Case("hold_and_resume_by_the_caller_stay_on_his_leg", "holds", "is_hung_up"),
    Case("hold_and_resume_by_the_callee_stay_on_his_leg", "is_hung_up", "holds"),
    Case("change_that_we_cannot_take_leaves_the_call", "asks_for_a_change", "is_hung_up"),
    Case("fax_gets_488_and_the_call_goes_on", "asks_for_fax", "is_hung_up"),
    inside("update_with_an_offer_is_answered", "UPDATE", "rest_sdp", "200", "OK", "our_sdp"),
    from_callee("update_with_an_offer_of_the_callee_is_answered", "UPDATE", "rest_callee_sdp", "200", "our_sdp"),
    inside(
        "update_refreshes_the_session", "UPDATE", "rest_refresh", "200", "OK", "check_session",
        session_expires="1800", refresher="uac",
    ),
    Case("reinvite_before_the_ack_with_the_answer_gets_491", "asks_too_early", "is_hung_up"),
    # Reliable provisional responses and session timers.
    Case("reliable_180_is_acknowledged", "acknowledges_ringing", "is_hung_up", values=REQUIRES_100REL),
    Case(
        "reliable_183_carries_the_answer_and_update_may_change_it",
        "acknowledges_early_media",
        "has_early_media",
        values=REQUIRES_100REL | {"ring_ms": "1500"},
    ),
    Case("callees_reliable_183_gets_prack", "hears_early_media", "answers_in_183"),
    refused(
        "session_interval_that_is_too_small_gets_422",
        "422",
        "Session Interval Too Small",
        values={"extra_header": "Supported: timer\nSession-Expires: 60", "caller_check": "check_min_se"},
    ),
    Case(
        "callees_422_gets_the_interval_that_it_wants",
        "hangs_up",
        "wants_longer",
        settings="session_timer = 90",
        invites=2,
    ),
    inside("update_refreshes", "UPDATE", "rest_empty", "200", "OK"),
    inside("info_with_dtmf_relay_is_taken", "INFO", "rest_dtmf", "200", "OK", digit="5"),
    inside("info_of_another_package_gets_469", "INFO", "rest_package", "469", "Bad Info Package", "check_recv_info"),
    inside("info_with_a_bare_key_is_taken", "INFO", "rest_dtmf_bare", "200", "OK", digit="5"),
    from_callee("info_of_the_callee_is_taken", "INFO", "rest_dtmf", "200", digit="5"),
    inside("subscribe_gets_405", "SUBSCRIBE", "rest_empty", "405", "Method Not Allowed", "check_allow"),
    inside("notify_gets_405", "NOTIFY", "rest_empty", "405", "Method Not Allowed", "check_allow"),
    inside("publish_gets_405", "PUBLISH", "rest_empty", "405", "Method Not Allowed", "check_allow"),
    inside("message_inside_a_call_gets_405", "MESSAGE", "rest_text", "405", "Method Not Allowed", "check_allow"),
    inside("unknown_method_gets_501", "JUMP", "rest_empty", "501", "Not Implemented"),
    inside("refer_gets_405", "REFER", "rest_refer", "405", "Method Not Allowed", "check_allow"),
    inside("options_inside_a_call_gets_200", "OPTIONS", "rest_empty", "200", "OK"),
    outside("options_gets_200", "OPTIONS", "200", "OK", caller_check="check_allow"),
    outside("bye_of_an_unknown_dialog_gets_481", "BYE", "481", "Call/Transaction Does Not Exist", to_tag=";tag=unknown"),
    outside("message_gets_405", "MESSAGE", "405", "Method Not Allowed", rest="rest_text", caller_check="check_allow"),
    # INVITEs that become no call.
    refused(
        "unknown_extension_gets_420",
        "420",
        "Bad Extension",
        values={"extra_header": "Require: foo", "caller_check": "check_unsupported"},
    ),
    refused(
        "video_alone_gets_488",
        "488",
        "Not Acceptable Here",
        values={"media_line": "m=video 40000 RTP/AVP 96"},
        causes=(3020,),
    ),
    refused("used_up_max_forwards_gets_483", "483", "Too Many Hops", values={"max_forwards": "0"}),
]


def numbers(index):
    """All numbers of a case; none is part of another, nor of a port."""
    return {
        "virtual": f"+12025551{index:03}",
        "first": f"+12025552{index:03}",
        "second": f"+12025553{index:03}",
        "stranger": f"+12025554{index:03}",
    }


def marks(side, numbers_hidden, port, media, host="127.0.0.1"):
    """A pattern of everything of one side that the other must not see."""
    hidden = [number.removeprefix("+1") for number in numbers_hidden]
    return "|".join([*hidden, f"{side}-mark", re.escape(f"{host}:{port}"), f"m=audio {media} "])
