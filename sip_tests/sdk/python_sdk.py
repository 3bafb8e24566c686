"""Plivo's Python SDK, as it comes from PyPI, against the server that BASE_URL names.

Each function is a test; its name states the fact. The last line is `N passed, N failed`.
"""

import http.server
import os
import queue
import re
import sys
import threading
import traceback
import urllib.parse
import uuid

import plivo
from plivo import exceptions
from plivo.utils import validate_v3_signature

import base_url
from database import without_sessions

BASE = os.environ["BASE_URL"]
AUTH_ID, AUTH_TOKEN = os.environ["AUTH_ID"], os.environ["AUTH_TOKEN"]
BUSY_ID = os.environ["BUSY_ID"]
SUBACCOUNT, SUBACCOUNT_TOKEN = os.environ["SUBACCOUNT"], os.environ["SUBACCOUNT_TOKEN"]

base_url.use(BASE)
CLIENT = plivo.RestClient(AUTH_ID, AUTH_TOKEN)
SESSIONS = CLIENT.masking_sessions

TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2} \+0000 UTC")
PARAMETERS = {
    "session_expiry": 600,
    "call_time_limit": 1200,
    "record": False,
    "record_file_format": "wav",
    "recording_callback_url": "https://example.com/recording",
    "initiate_call_to_first_party": False,
    "callback_url": "https://example.com/events",
    "callback_method": "GET",
    "ring_timeout": 30,
    "first_party_play_url": "https://example.com/first.mp3",
    "second_party_play_url": "https://example.com/second.mp3",
    "recording_callback_method": "GET",
    "is_pin_authentication_required": True,
    "generate_pin": False,
    "generate_pin_length": 6,
    "first_party_pin": "123456",
    "second_party_pin": "654321",
    "pin_prompt_play": "https://example.com/prompt.mp3",
    "pin_retry": 2,
    "pin_retry_wait": 7,
    "incorrect_pin_play": "https://example.com/incorrect.mp3",
    "unknown_caller_play": "https://example.com/unknown.mp3",
    "subaccount": SUBACCOUNT,
    "geomatch": False,
    "create_session_with_single_party": False,
    "virtual_number_cooloff_period": 1,
    "force_pin_authentication": True,
}

parties_made = 0


def parties():
    """Two numbers that no other test has."""
    global parties_made
    parties_made += 2
    return f"+1212555{parties_made:04}", f"+1212555{parties_made + 1:04}"


def created(**parameters):
    first, second = parties()
    return SESSIONS.create_masking_session(**({"first_party": first, "second_party": second} | parameters))


def refused(error, call, *arguments, **parameters):
    try:
        answer = call(*arguments, **parameters)
    except error as raised:
        assert type(raised) is error, f"{type(raised)} instead of {error}"
        return str(raised)
    raise AssertionError(f"{error.__name__} is missing: {answer}")


def create_reads_every_parameter():
    first, second = parties()
    answer = SESSIONS.create_masking_session(first_party=first, second_party=second, **PARAMETERS)
    uuid.UUID(answer.api_id)
    assert answer.message == "Session created"
    assert answer.virtual_number == f"+{answer.session.virtual_number}"
    assert answer.session_uuid == answer.session.session_uuid
    session = answer.session
    assert (session.first_party, session.second_party) == (first[1:], second[1:])
    for name, value in PARAMETERS.items():
        if name not in ("session_expiry", "geomatch"):
            assert getattr(session, name) == value, f"{name}: {getattr(session, name)}"
    assert (session.duration, session.status, session.interaction) == (600, "active", None)
    for name in ("created_time", "modified_time", "expiry_time"):
        assert TIME.fullmatch(getattr(session, name)), name
    read = SESSIONS.get_masking_session(answer.session_uuid).response
    assert read.__dict__ == session.__dict__


def create_without_options_has_the_documented_defaults():
    session = created().session
    for name, value in {
        "duration": 3600,
        "call_time_limit": 14400,
        "ring_timeout": 45,
        "record": True,
        "record_file_format": "mp3",
        "callback_method": "POST",
        "callback_url": "",
        "is_pin_authentication_required": False,
        "generate_pin": None,
        "first_party_pin": None,
        "create_session_with_single_party": None,
        "amount": 0,
        "total_call_amount": 0,
    }.items():
        assert getattr(session, name) == value, name


def generated_pins_come_with_the_answer():
    for length in (4, 15):
        session = created(is_pin_authentication_required=True, generate_pin=True, generate_pin_length=length).session
        assert session.generate_pin is True
        assert len(session.first_party_pin) == len(session.second_party_pin) == length
        assert session.first_party_pin != session.second_party_pin


def pins_may_be_numbers():
    session = created(is_pin_authentication_required=True, first_party_pin=918273, second_party_pin=645546).session
    assert (session.first_party_pin, session.second_party_pin) == ("918273", "645546")


def a_single_party_session_is_filled_in_later():
    first, second = parties()
    for missing in ({}, {"second_party": ""}):
        answer = SESSIONS.create_masking_session(first_party=first, create_session_with_single_party=True, **missing)
        assert answer.session.second_party == ""
        updated = SESSIONS.update_masking_session(
            answer.session_uuid, second_party=second, create_session_with_single_party=True
        )
        assert updated.session.second_party == second[1:]
        SESSIONS.delete_masking_session(answer.session_uuid)


def update_changes_every_parameter_that_may_change():
    answer = created()
    changes = {
        name: PARAMETERS[name]
        for name in (
            "session_expiry",
            "call_time_limit",
            "record",
            "record_file_format",
            "recording_callback_url",
            "callback_url",
            "callback_method",
            "ring_timeout",
            "first_party_play_url",
            "second_party_play_url",
            "recording_callback_method",
        )
    }
    updated = SESSIONS.update_masking_session(answer.session_uuid, **changes)
    assert updated.message == "Session updated"
    for name, value in changes.items():
        if name != "session_expiry":
            assert getattr(updated.session, name) == value, name
    assert 600 <= updated.session.duration < 3600
    # What is fixed may be said again.
    SESSIONS.update_masking_session(answer.session_uuid, first_party=answer.session.first_party, geomatch=True)
    for name, value in {"first_party": "+12125559999", "geomatch": False, "subaccount": SUBACCOUNT}.items():
        text = refused(
            exceptions.ValidationError, SESSIONS.update_masking_session, answer.session_uuid, **{name: value}
        )
        assert text == f"Invalid parameter. {name} cannot be changed after the session was created.", text


def a_deleted_session_is_expired_and_stays_readable():
    answer = created(session_expiry=6000)
    deleted = SESSIONS.delete_masking_session(answer.session_uuid)
    assert deleted.message == "Session expired"
    session = SESSIONS.get_masking_session(answer.session_uuid).response
    assert (session.status, session.duration) == ("expired", 6000)
    for call in (SESSIONS.delete_masking_session, SESSIONS.update_masking_session):
        assert refused(exceptions.ValidationError, call, answer.session_uuid) == "Session already expired"


def list_knows_every_filter():
    answer = created(session_expiry=4711, subaccount=SUBACCOUNT)
    session = answer.session
    created_time, expiry_time = (time.removesuffix(" +0000 UTC") for time in (session.created_time, session.expiry_time))
    fits = [
        {"first_party": session.first_party},
        {"second_party": f"+{session.second_party}"},
        {"virtual_number": session.virtual_number},
        {"status": "active"},
        {"status": "all"},
        {"created_time": created_time},
        {"created_time__gte": created_time},
        {"created_time__lte": created_time},
        {"created_time__gt": "2024-01-01 00:00"},
        {"created_time__lt": "2099-01-01 00:00:00.000001"},
        {"expiry_time": expiry_time},
        {"expiry_time__gte": expiry_time},
        {"expiry_time__lte": expiry_time},
        {"expiry_time__gt": "2024-01-01 00:00"},
        {"duration": 4711},
        {"duration__gte": 4711},
        {"duration__lte": 4711},
        {"duration__gt": 4710},
        {"duration__lt": 4712},
        {"subaccount": SUBACCOUNT},
        {"limit": 1, "offset": 0},
    ]
    misses = [
        {"first_party": session.second_party},
        {"second_party": session.first_party},
        {"virtual_number": "12025559999"},
        {"status": "expired"},
        {"created_time": "2024-01-01 00:00"},
        {"created_time__gt": created_time},
        {"created_time__lt": created_time},
        {"created_time__lte": "2024-01-01 00:00"},
        {"created_time__gte": "2099-01-01 00:00"},
        {"expiry_time": "2024-01-01 00:00"},
        {"expiry_time__gt": expiry_time},
        {"expiry_time__lt": expiry_time},
        {"expiry_time__lte": "2024-01-01 00:00"},
        {"expiry_time__gte": "2099-01-01 00:00"},
        {"duration": 4710},
        {"duration__gt": 4711},
        {"duration__lt": 4711},
        {"duration__gte": 4712},
        {"duration__lte": 4710},
        {"subaccount": "SA000000000000000000"},
        {"offset": 1},
    ]
    for filters, count in [(fit, 1) for fit in fits] + [(miss, 0) for miss in misses]:
        # Nobody else lives for so long.
        asked = {"duration__gte": 4711} | filters if "duration" not in str(filters) else filters
        found = SESSIONS.list_masking_session(**{"first_party": session.first_party} | asked).response
        assert len(found.objects) == count, f"{filters}: {len(found.objects)}"
        assert found.meta.total_count == (1 if "offset" in filters else count), filters
        for listed in found.objects:
            assert listed.session_uuid == answer.session_uuid
            assert listed.resource_uri == f"/v1/Account/{AUTH_ID}/Masking/Session/{answer.session_uuid}/"


def a_list_has_pages():
    for _ in range(3):
        created(session_expiry=4321)
    first = SESSIONS.list_masking_session(duration=4321, limit=2).response
    assert (first.meta.limit, first.meta.offset, first.meta.total_count) == (2, 0, 3)
    assert first.meta.previous is None and "limit=2&offset=2" in first.meta.next
    second = SESSIONS.list_masking_session(duration=4321, limit=2, offset=2).response
    assert second.meta.next is None and "limit=2&offset=0" in second.meta.previous
    uuids = [session.session_uuid for session in first.objects + second.objects]
    assert len(set(uuids)) == 3


def bad_input_is_a_validation_error_that_names_it():
    first, second = parties()
    both = {"first_party": first, "second_party": second}
    pin = both | {"is_pin_authentication_required": True}
    for parameters, text in [
        ({"first_party": first}, "Mandatory parameter missing. second_party must be present."),
        ({"second_party": second}, "Mandatory parameter missing. first_party must be present."),
        (both | {"first_party": "nobody"}, "Invalid parameter. first_party is not a valid phone number."),
        (both | {"session_expiry": 86401}, "Invalid parameter. session_expiry is outside the allowed range."),
        (both | {"call_time_limit": -1}, "Invalid parameter. call_time_limit is outside the allowed range."),
        (both | {"record": "perhaps"}, "Invalid parameter. record allowed values are true or false."),
        (both | {"record_file_format": "ogg"}, "Invalid parameter. record_file_format allowed values are mp3 or wav."),
        (both | {"callback_method": "PUT"}, "Invalid parameter. callback_method allowed values are GET or POST."),
        (both | {"virtual_number_cooloff_period": 3601}, "Invalid parameter. virtual_number_cooloff_period is outside"),
        (pin, "Mandatory parameter missing. first_party_pin must be present."),
        (pin | {"generate_pin": True, "generate_pin_length": 16}, "Invalid parameter. generate_pin_length is outside"),
        (pin | {"generate_pin": True, "pin_retry": 6}, "Invalid parameter. pin_retry is outside the allowed range."),
        (pin | {"generate_pin": True, "pin_retry_wait": 11}, "Invalid parameter. pin_retry_wait is outside"),
        (pin | {"first_party_pin": "1234", "second_party_pin": "1234"}, "Invalid parameter. second_party_pin must differ"),
    ]:
        raised = refused(exceptions.ValidationError, SESSIONS.create_masking_session, **parameters)
        assert raised.startswith(text), raised
    refused(exceptions.ValidationError, SESSIONS.list_masking_session, limit=21)


def an_exhausted_pool_is_a_validation_error():
    sessions = plivo.RestClient(BUSY_ID, AUTH_TOKEN).masking_sessions
    both = {"first_party": "+12125550001", "second_party": "+12125550002"}
    sessions.create_masking_session(**both)
    text = refused(exceptions.ValidationError, sessions.create_masking_session, **both)
    assert text == "Number pool exhausted or not available.", text


def wrong_credentials_are_an_authentication_error():
    for auth_id, token in ((AUTH_ID, "wrong"), ("MA000000000000000000", AUTH_TOKEN)):
        sessions = plivo.RestClient(auth_id, token).masking_sessions
        refused(exceptions.AuthenticationError, sessions.list_masking_session)
        refused(exceptions.AuthenticationError, sessions.create_masking_session, "+12125550001", "+12125550002")


def what_is_not_there_is_a_resource_not_found_error():
    nobody = str(uuid.uuid4())
    calls = (SESSIONS.get_masking_session, SESSIONS.update_masking_session, SESSIONS.delete_masking_session)
    for call in calls:
        for name in (nobody, "no-uuid"):
            assert refused(exceptions.ResourceNotFoundError, call, name) == "Session not found."
    # Another account's session is not there either.
    other = plivo.RestClient(BUSY_ID, AUTH_TOKEN).masking_sessions
    refused(exceptions.ResourceNotFoundError, other.get_masking_session, created().session_uuid)


def a_country_without_numbers_is_a_resource_not_found_error():
    text = refused(exceptions.ResourceNotFoundError, created, first_party="+919876543210")
    assert text.startswith("No compatible virtual numbers found for country code IN."), text


class Watched:
    """A client of its own, whose answers are kept as they came."""

    def __init__(self, auth_id=AUTH_ID, token=AUTH_TOKEN, **headers):
        self.client = plivo.RestClient(auth_id, token)
        self.client.session.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        self.answers = []
        self.client.session.hooks["response"].append(lambda answer, **_: self.answers.append(answer))
        self.sessions = self.client.masking_sessions

    def statuses(self):
        return [answer.status_code for answer in self.answers]

    def body(self):
        return self.answers[-1].json()


def each_documented_error_is_of_its_class():
    # What is not tested elsewhere here: 400, 401 and 404 are.
    sub = Watched(SUBACCOUNT, SUBACCOUNT_TOKEN)
    refused(exceptions.ForbiddenError, sub.client.subaccounts.create, "of a sub-account", True)
    main = Watched()
    refused(exceptions.InvalidRequestError, main.client.request, "PUT", ("Masking", "Session"), {}, is_voice_request=True)
    refused(exceptions.InvalidRequestError, main.client.subaccounts.delete, SUBACCOUNT)
    assert (sub.statuses(), main.statuses()) == ([403], [405, 409])
    for watched in (sub, main):
        for answer in watched.answers:
            assert list(answer.json()) == ["api_id", "error"], answer.text


def a_server_error_is_raised_after_two_repeats():
    def ask(call, *arguments):
        watched = Watched()
        text = refused(exceptions.PlivoServerError, call(watched), *arguments)
        assert text == "Internal server error.", text
        assert watched.statuses() == [500, 500, 500], watched.statuses()

    with without_sessions(os.environ["DATABASE"]):
        ask(lambda watched: watched.sessions.list_masking_session)
        ask(lambda watched: watched.sessions.create_masking_session, *parties())
        ask(lambda watched: watched.sessions.get_masking_session, str(uuid.uuid4()))
    assert created().message == "Session created", "it works again"


def one_request_too_many_is_a_rest_error_that_says_when_to_come_back():
    base_url.use(os.environ["STRICT_URL"])
    try:
        strict = Watched()
        for _ in range(100):
            try:
                strict.sessions.list_masking_session()
            except exceptions.PlivoRestError as raised:
                assert type(raised) is exceptions.PlivoRestError, type(raised)
                break
        assert set(strict.statuses()[:-1]) <= {200} and strict.statuses()[-1] == 429, strict.statuses()
        assert list(strict.body()) == ["api_id", "error"], strict.body()
        assert 1 <= int(strict.answers[-1].headers["Retry-After"]) <= 5
        # Another account has requests of its own.
        other = Watched(BUSY_ID)
        other.sessions.list_masking_session()
        assert other.statuses() == [200]
    finally:
        base_url.use(BASE)


def a_create_with_an_idempotency_key_makes_one_session():
    first, second = parties()
    keyed = Watched(Idempotency_Key=str(uuid.uuid4()))
    one = keyed.sessions.create_masking_session(first, second, session_expiry=4444)
    again = keyed.sessions.create_masking_session(first, second, session_expiry=4444)
    assert keyed.statuses() == [201, 201]
    assert again.session.__dict__ == one.session.__dict__
    # Whoever asks for something else with the same key did not mean to.
    refused(exceptions.InvalidRequestError, keyed.sessions.create_masking_session, first, second, session_expiry=4445)
    assert keyed.statuses()[2] == 422
    # Without it the same parameters make another one; and it is one account's own.
    assert created(first_party=first, second_party=second, session_expiry=4444).session_uuid != one.session_uuid
    of_sub = Watched(SUBACCOUNT, SUBACCOUNT_TOKEN, Idempotency_Key=keyed.client.session.headers["Idempotency-Key"])
    assert of_sub.sessions.create_masking_session(first, second).session_uuid != one.session_uuid


def a_create_whose_answer_was_lost_is_repeated_by_the_sdk_and_makes_one_session():
    def lose_two(answer, **_):
        lost.append(answer.json())
        if len(lost) <= 2:
            answer.status_code = 503
        return answer

    first, second = parties()
    lost, keyed = [], Watched(Idempotency_Key=str(uuid.uuid4()))
    keyed.client.session.hooks["response"].append(lose_two)
    answer = keyed.sessions.create_masking_session(first, second)
    assert [body["session_uuid"] for body in lost] == [answer.session_uuid] * 3, lost
    found = SESSIONS.list_masking_session(first_party=first).response
    assert found.meta.total_count == 1


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes callbacks: method, URL, headers, form."""

    came = queue.Queue()

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        url = f"http://{self.headers['Host']}{self.path}"
        self.came.put((self.command, url, self.headers, dict(urllib.parse.parse_qsl(body, keep_blank_values=True))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = take

    def log_message(self, *_):
        pass


def callbacks_have_signatures_that_the_sdk_takes():
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{receiver.server_port}/cb"
    try:
        for method, query, owner in (("POST", "", {}), ("POST", "?x=1&a=b", {}), ("GET", "", {"subaccount": SUBACCOUNT})):
            created(session_expiry=1, callback_url=base + query, callback_method=method, **owner)
            came, url, headers, form = Receiver.came.get(timeout=30)
            assert came == method
            event = form or dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query, keep_blank_values=True))
            assert (event["EventName"], event["SequenceNumber"]) == ("SessionTimeout", "1"), event
            # The parameters of a GET stand in its URL already.
            nonce = headers["X-Plivo-Signature-V3-Nonce"]
            own, ma = headers["X-Plivo-Signature-V3"], headers["X-Plivo-Signature-Ma-V3"]
            token = SUBACCOUNT_TOKEN if owner else AUTH_TOKEN
            for signature, key, valid in ((own, token, True), (ma, AUTH_TOKEN, True), (own, "another", False)):
                assert validate_v3_signature(method, url, nonce, key, signature, dict(form)) is valid, (method, query)
            forged = dict(form) | {"EventName": "SessionPartiesHangup"}
            assert not validate_v3_signature("POST", url, nonce, token, own, forged)
    finally:
        receiver.shutdown()


HELPERS = ("parties", "created", "refused", "main")


def main():
    passed = failed = 0
    for name, test in list(globals().items()):
        if not callable(test) or isinstance(test, type) or getattr(test, "__module__", "") != "__main__" or name in HELPERS:
            continue
        try:
            test()
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
