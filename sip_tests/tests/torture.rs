//! The torture messages of RFC 4475 and RFC 5118 get the outcome that their RFC states.
//!
//! Each row of [`TABLE`] is one message. What the RFC leaves to the element ("may reject", "may be liberal")
//! is refused, unless a carrier could mean it; what parses but must be judged by somebody who knows more than
//! grammar says in its last column who and how.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use maskline::sip::address::{NameAddr, Via};
use maskline::sip::key::{DialogKey, TransactionKey};
use maskline::sip::message::{Message, Request, Response};
use maskline::sip::uri::Scheme;
use maskline::sip::wire::{Frame, Malformed, frame};

/// What must come out of one message.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It parses; these are its values, as [`shown`] writes them, and what is for others to judge.
    Parses { values: [&'static str; 6], above: &'static str },
    /// It is refused with this status, for this reason.
    Refused(u16, Malformed),
    /// It is dropped, for this reason.
    Dropped(Malformed),
}

use Outcome::{Dropped, Parses, Refused};

const TABLE: &[(&str, &str, Outcome)] = &[
    (
        "rfc4475/wsinv",
        "4475 §3.1.1.1",
        Parses {
            values: [
                "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam",
                "3 Via 390skdjuw",
                "From sip:jdrosen@example.com 98asjd8",
                "To sip:vivekg@chair-dnrc.example.com 1918181833n",
                "wsinv.ndaksdj@192.0.2.1 9 INVITE",
                "Max-Forwards 68, Contact sip:jdrosen@example.com, body 150",
            ],
            above: "a To tag and no such dialog: 481",
        },
    ),
    (
        "rfc4475/intmeth",
        "4475 §3.1.1.2",
        Parses {
            values: [
                "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
                "1 Via z9hG4bK-.!%66*_+`'~",
                "From sip:mundane@example.com _token~1'+`*%!-.",
                "To sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com -",
                "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{ 139122385 !interesting-Method0123456789_*+`.%indeed'~",
                "Max-Forwards 255, Contact -, body 0",
            ],
            above: "an unknown method: 405 or 501",
        },
    ),
    (
        "rfc4475/esc01",
        "4475 §3.1.1.3",
        Parses {
            values: [
                "INVITE sip:sips%3Auser%40example.com@example.net",
                "1 Via z9hG4bKkdjuw",
                "From sip:I%20have%20spaces@example.net 938",
                "To sip:%75se%72@example.com -",
                "esc01.239409asdfakjkn23onasd0-3234 234234 INVITE",
                "Max-Forwards 87, Contact sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31, body 150",
            ],
            above: "a user that is no number: 404",
        },
    ),
    (
        "rfc4475/escnull",
        "4475 §3.1.1.4",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:null-%00-null@example.com 839923423",
                "To sip:null-%00-null@example.com -",
                "escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd 14398234 REGISTER",
                "Max-Forwards 70, Contact sip:%00@host5.example.com, body 0",
            ],
            above: "REGISTER: 405",
        },
    ),
    (
        "rfc4475/esc02",
        "4475 §3.1.1.5",
        Parses {
            values: [
                "RE%47IST%45R sip:registrar.example.com",
                "1 Via z9hG4bK209%fzsnel234",
                "From sip:resource@example.com f232jadfj23",
                "To sip:resource@example.com -",
                "esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf 29344 RE%47IST%45R",
                "Max-Forwards 70, Contact sip:alias1@host1.example.com, body 0",
            ],
            above: "an unknown method, not REGISTER: 405 or 501",
        },
    ),
    (
        "rfc4475/lwsdisp",
        "4475 §3.1.1.6",
        Parses {
            values: [
                "OPTIONS sip:user@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.com 323",
                "To sip:user@example.com -",
                "lwsdisp.1234abcd@funky.example.com 60 OPTIONS",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
    (
        "rfc4475/longreq",
        "4475 §3.1.1.7",
        Parses {
            values: [
                "INVITE sip:user@example.com",
                "34 Via -",
                "From sip:amazinglylongcallernameamazinglylongcallernameamazinglylongcallernameamazinglylongcallernameamazinglylongcallername@example.net 12982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982982424",
                "To sip:user@example.com:6000;unknownparam1=verylonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglongvalue;longparamnamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamenamename=shortvalue;verylonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglongParameterNameWithNoValue -",
                "longreq.onereallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallyreallylongcallid 3882340 INVITE",
                "Max-Forwards 70, Contact sip:amazinglylongcallernameamazinglylongcallernameamazinglylongcallernameamazinglylongcallernameamazinglylongcallername@host5.example.net, body 150",
            ],
            above: "a user that is no number: 404",
        },
    ),
    (
        "rfc4475/dblreq",
        "4475 §3.1.1.8",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw23492",
                "From sip:j.user@example.com 43251j3j324",
                "To sip:j.user@example.com -",
                "dblreq.0ha0isndaksdj99sdfafnl3lk233412 8 REGISTER",
                "Max-Forwards 8, Contact sip:j.user@host.example.com, body 0",
            ],
            above: "the INVITE after it in the datagram is ignored; REGISTER: 405",
        },
    ),
    (
        "rfc4475/semiuri",
        "4475 §3.1.1.9",
        Parses {
            values: [
                "OPTIONS sip:user;par=u%40example.net@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.org 33242",
                "To sip:j_user@example.com -",
                "semiuri.0ha0isndaksdj 8 OPTIONS",
                "Max-Forwards 3, Contact -, body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
    (
        "rfc4475/transports",
        "4475 §3.1.1.10",
        Parses {
            values: [
                "OPTIONS sip:user@example.com",
                "5 Via z9hG4bKkdjuw",
                "From sip:caller@example.com 323",
                "To sip:user@example.com -",
                "transports.kijh4akdnaqjkwendsasfdj 60 OPTIONS",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
    (
        "rfc4475/mpart01",
        "4475 §3.1.1.11",
        Parses {
            values: [
                "MESSAGE sip:kumiko@example.org",
                "1 Via z9hG4bK-d87543-4dade06d0bdb11ee-1--d87543-",
                "From sip:fluffy@example.com 2fb0dcc9",
                "To sip:kumiko@example.org -",
                "3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA.. 1 MESSAGE",
                "Max-Forwards 70, Contact sip:fluffy@127.0.0.1:5070, body 553",
            ],
            above: "MESSAGE: 405",
        },
    ),
    (
        "rfc4475/unreason",
        "4475 §3.1.1.12",
        Parses {
            values: [
                "200",
                "1 Via z9hG4bK1324923",
                "From sip:user@example.com 11141343",
                "To sip:user@example.edu 2229",
                "unreason.1234ksdfak3j2erwedfsASdf 35 INVITE",
                "Max-Forwards -, Contact sip:user@host198.example.com, body 154",
            ],
            above: "a 200 like any other; its phrase is not kept",
        },
    ),
    (
        "rfc4475/noreason",
        "4475 §3.1.1.13",
        Parses {
            values: [
                "100",
                "1 Via z9hG4bK2398ndaoe",
                "From sip:user@example.com 39ansfi3",
                "To sip:user@example.edu 902jndnke3",
                "noreason.asndj203insdf99223ndf 35 INVITE",
                "Max-Forwards -, Contact sip:user@host105.example.com, body 0",
            ],
            above: "a 100 like any other",
        },
    ),
    ("rfc4475/badinv01", "4475 §3.1.2.1", Refused(400, Malformed::Invalid("Via"))),
    ("rfc4475/clerr", "4475 §3.1.2.2", Refused(400, Malformed::BodyTooShort)),
    ("rfc4475/ncl", "4475 §3.1.2.3", Refused(400, Malformed::Invalid("Content-Length"))),
    ("rfc4475/scalar02", "4475 §3.1.2.4", Refused(400, Malformed::Invalid("CSeq"))),
    ("rfc4475/scalarlg", "4475 §3.1.2.5", Dropped(Malformed::Invalid("CSeq"))),
    ("rfc4475/quotbal", "4475 §3.1.2.6", Refused(400, Malformed::Invalid("To"))),
    ("rfc4475/ltgtruri", "4475 §3.1.2.7", Refused(400, Malformed::Uri)),
    ("rfc4475/lwsruri", "4475 §3.1.2.8", Refused(400, Malformed::Uri)),
    ("rfc4475/lwsstart", "4475 §3.1.2.9", Refused(400, Malformed::Uri)),
    ("rfc4475/trws", "4475 §3.1.2.10", Refused(400, Malformed::StartLine)),
    ("rfc4475/escruri", "4475 §3.1.2.11", Refused(400, Malformed::Uri)),
    (
        "rfc4475/baddate",
        "4475 §3.1.2.12",
        Parses {
            values: [
                "INVITE sip:user@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.net 2234923",
                "To sip:user@example.com -",
                "baddate.239423mnsadf3j23lj42--sedfnm234 1392934 INVITE",
                "Max-Forwards 70, Contact sip:caller@host5.example.net, body 150",
            ],
            above: "nobody reads Date, so it is no reason to refuse; a user that is no number: 404",
        },
    ),
    ("rfc4475/regbadct", "4475 §3.1.2.13", Refused(400, Malformed::Invalid("Contact"))),
    ("rfc4475/badaspec", "4475 §3.1.2.14", Refused(400, Malformed::Invalid("To"))),
    ("rfc4475/baddn", "4475 §3.1.2.15", Refused(400, Malformed::NoEndOfHeaders)),
    ("rfc4475/badvers", "4475 §3.1.2.16", Refused(505, Malformed::Version)),
    ("rfc4475/mismatch01", "4475 §3.1.2.17", Refused(400, Malformed::MethodMismatch)),
    ("rfc4475/mismatch02", "4475 §3.1.2.18", Refused(400, Malformed::MethodMismatch)),
    ("rfc4475/bigcode", "4475 §3.1.2.19", Dropped(Malformed::StatusCode)),
    (
        "rfc4475/badbranch",
        "4475 §3.2.1",
        Parses {
            values: [
                "OPTIONS sip:user@example.com",
                "1 Via z9hG4bK",
                "From sip:caller@example.org 33242",
                "To sip:user@example.com -",
                "badbranch.sadonfo23i420jv0as0derf3j3n 8 OPTIONS",
                "Max-Forwards 3, Contact -, body 0",
            ],
            above: "the transaction is found by the rule for RFC 2543 clients; OPTIONS: 200",
        },
    ),
    ("rfc4475/insuf", "4475 §3.3.1", Refused(400, Malformed::Missing("Call-ID"))),
    (
        "rfc4475/unkscm",
        "4475 §3.3.2",
        Parses {
            values: [
                "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent",
                "1 Via z9hG4bKkdjuw39234",
                "From sip:caller@example.net 384",
                "To sip:user@example.com -",
                "unkscm.nasdfasser0q239nwsdfasdkl34 3923423 OPTIONS",
                "Max-Forwards 3, Contact -, body 0",
            ],
            above: "an unknown scheme in the Request-URI: 416",
        },
    ),
    (
        "rfc4475/novelsc",
        "4475 §3.3.3",
        Parses {
            values: [
                "OPTIONS soap.beep://192.0.2.103:3002",
                "1 Via z9hG4bKkdjuw39234",
                "From sip:caller@example.net 384",
                "To sip:user@example.com -",
                "novelsc.asdfasser0q239nwsdfasdkl34 3923423 OPTIONS",
                "Max-Forwards 3, Contact -, body 0",
            ],
            above: "a scheme that is none of ours in the Request-URI: 416",
        },
    ),
    (
        "rfc4475/unksm2",
        "4475 §3.3.4",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From http://www.example.com 3234233",
                "To isbn:2983792873 -",
                "unksm2.daksdj@hyphenated-host.example.com 234902 REGISTER",
                "Max-Forwards 70, Contact name:John_Smith, body 0",
            ],
            above: "schemes in From, To and Contact refuse nothing; REGISTER: 405",
        },
    ),
    (
        "rfc4475/bext01",
        "4475 §3.3.5",
        Parses {
            values: [
                "OPTIONS sip:user@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.net 242etr",
                "To sip:j_user@example.com -",
                "bext01.0ha0isndaksdj 8 OPTIONS",
                "Max-Forwards 6, Contact -, body 0",
            ],
            above: "Require of what we do not support: 420 with Unsupported; Proxy-Require is not for us",
        },
    ),
    (
        "rfc4475/invut",
        "4475 §3.3.6",
        Parses {
            values: [
                "INVITE sip:user@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.net 8392034",
                "To sip:j.user@example.com -",
                "invut.0ha0isndaksdjadsfij34n23d 235448 INVITE",
                "Max-Forwards 70, Contact sip:caller@host5.example.net, body 40",
            ],
            above: "a body of unknown type: 415 with Accept",
        },
    ),
    (
        "rfc4475/regaut01",
        "4475 §3.3.7",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:j.user@example.com 87321hj23128",
                "To sip:j.user@example.com -",
                "regaut01.0ha0isndaksdj 9338 REGISTER",
                "Max-Forwards 8, Contact -, body 0",
            ],
            above: "an unknown Authorization scheme counts as none; REGISTER: 405",
        },
    ),
    ("rfc4475/multi01", "4475 §3.3.8", Refused(400, Malformed::Repeated("CSeq"))),
    ("rfc4475/mcl01", "4475 §3.3.9", Refused(400, Malformed::Repeated("Content-Length"))),
    (
        "rfc4475/bcast",
        "4475 §3.3.10",
        Parses {
            values: [
                "200",
                "2 Via z9hG4bK1324923",
                "From sip:user@example.com 11141343",
                "To sip:user@example.edu 2229",
                "bcast.0384840201234ksdfak3j2erwedfsASdf 35 INVITE",
                "Max-Forwards -, Contact sip:user@host28.example.com, body 154",
            ],
            above: "more than one Via: the client drops it",
        },
    ),
    (
        "rfc4475/zeromf",
        "4475 §3.3.11",
        Parses {
            values: [
                "OPTIONS sip:user@example.com",
                "1 Via z9hG4bKkdjuw2349i",
                "From sip:caller@example.net 3ghsd41",
                "To sip:user@example.com -",
                "zeromf.jfasdlfnm2o2l43r5u0asdfas 39234321 OPTIONS",
                "Max-Forwards 0, Contact -, body 0",
            ],
            above: "legal at its last hop: OPTIONS: 200; 483 for what would have to go on",
        },
    ),
    (
        "rfc4475/cparam01",
        "4475 §3.3.12",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:watson@example.com DkfVgjkrtMwaerKKpe",
                "To sip:watson@example.com -",
                "cparam01.70710@saturn.example.com 2 REGISTER",
                "Max-Forwards 70, Contact sip:+19725552222@gw1.example.net, body 0",
            ],
            above: "unknownparam is the header's; REGISTER: 405",
        },
    ),
    (
        "rfc4475/cparam02",
        "4475 §3.3.13",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:watson@example.com 838293",
                "To sip:watson@example.com -",
                "cparam02.70710@saturn.example.com 3 REGISTER",
                "Max-Forwards 70, Contact sip:+19725552222@gw1.example.net;unknownparam, body 0",
            ],
            above: "unknownparam is the URI's; REGISTER: 405",
        },
    ),
    (
        "rfc4475/regescrt",
        "4475 §3.3.14",
        Parses {
            values: [
                "REGISTER sip:example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:user@example.com 8",
                "To sip:user@example.com -",
                "regescrt.k345asrl3fdbv@192.0.2.1 14398234 REGISTER",
                "Max-Forwards 70, Contact sip:user@example.com?Route=%3Csip:sip.example.com%3E, body 0",
            ],
            above: "the escaped Route is never read; REGISTER: 405",
        },
    ),
    (
        "rfc4475/sdp01",
        "4475 §3.3.15",
        Parses {
            values: [
                "INVITE sip:user@example.com",
                "1 Via z9hG4bKkdjuw",
                "From sip:caller@example.net 234",
                "To sip:j_user@example.com -",
                "sdp01.ndaksdj9342dasdd 8 INVITE",
                "Max-Forwards 5, Contact sip:caller@host15.example.net, body 150",
            ],
            above: "Accept names no type that we could send: 406, or an answer all the same",
        },
    ),
    (
        "rfc4475/inv2543",
        "4475 §3.4.1",
        Parses {
            values: [
                "INVITE sip:UserB@example.com",
                "1 Via -",
                "From sip:+13035551111@ift.client.example.net;user=phone -",
                "To sip:+16505552222@ss1.example.net -",
                "inv2543.1717@ift.client.example.com 56 INVITE",
                "Max-Forwards -, Contact -, body 105",
            ],
            above: "a client of RFC 2543: no tag, no branch, no Content-Length, no Contact",
        },
    ),
    (
        "rfc5118/ipv6-good",
        "5118 §4.1",
        Parses {
            values: [
                "REGISTER sip:[2001:db8::10]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@example.com -",
                "SSG9559905523997077@hlau_4100 98176 REGISTER",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::1], body 0",
            ],
            above: "REGISTER: 405",
        },
    ),
    ("rfc5118/ipv6-bad", "5118 §4.2", Refused(400, Malformed::Uri)),
    (
        "rfc5118/port-ambiguous",
        "5118 §4.3",
        Parses {
            values: [
                "REGISTER sip:[2001:db8::10:5070]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@example.com -",
                "SSG9559905523997077@hlau_4100 98176 REGISTER",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::1], body 0",
            ],
            above: "5070 is part of the address; REGISTER: 405",
        },
    ),
    (
        "rfc5118/port-unambiguous",
        "5118 §4.4",
        Parses {
            values: [
                "REGISTER sip:[2001:db8::10]:5070",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@example.com -",
                "SSG9559905523997077@hlau_4100 98176 REGISTER",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::1], body 0",
            ],
            above: "REGISTER: 405",
        },
    ),
    (
        "rfc5118/via-received-param-with-delim",
        "5118 §4.5",
        Parses {
            values: [
                "BYE sip:[2001:db8::10]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@example.com bd76ya",
                "SSG9559905523997077@hlau_4100 321 BYE",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "no such dialog: 481",
        },
    ),
    (
        "rfc5118/via-received-param-no-delim",
        "5118 §4.5",
        Parses {
            values: [
                "OPTIONS sip:[2001:db8::10]",
                "1 Via z9hG4bKas3",
                "From sip:user@example.com 81x2",
                "To sip:user@example.com -",
                "SSG95523997077@hlau_4100 921 OPTIONS",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::9:1], body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
    (
        "rfc5118/ipv6-in-sdp",
        "5118 §4.6",
        Parses {
            values: [
                "INVITE sip:user@[2001:db8::10]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@[2001:db8::10] -",
                "SSG9559905523997077@hlau_4100 8612 INVITE",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::20], body 251",
            ],
            above: "a user that is no number: 404",
        },
    ),
    (
        "rfc5118/mult-ip-in-header",
        "5118 §4.7",
        Parses {
            values: [
                "BYE sip:user@host.example.net",
                "3 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@example.net 9817--94",
                "997077@lau_4100 89187 BYE",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "no such dialog: 481",
        },
    ),
    (
        "rfc5118/mult-ip-in-sdp",
        "5118 §4.8",
        Parses {
            values: [
                "INVITE sip:user@[2001:db8::10]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 81x2",
                "To sip:user@[2001:db8::10] -",
                "SSG9559905523997077@hlau_4100 8912 INVITE",
                "Max-Forwards 70, Contact sip:caller@[2001:db8::9:1], body 189",
            ],
            above: "a user that is no number: 404",
        },
    ),
    (
        "rfc5118/ipv4-mapped-ipv6",
        "5118 §4.9",
        Parses {
            values: [
                "INVITE sip:user@example.com",
                "2 Via z9hG4bKbh19",
                "From sip:user@east.example.com 81x2",
                "To sip:user@example.com -",
                "SSG9559905523997077@hlau_4100 612 INVITE",
                "Max-Forwards 70, Contact sip:ted@[::ffff:192.0.2.2], body 245",
            ],
            above: "a user that is no number: 404",
        },
    ),
    (
        "rfc5118/ipv6-bug-abnf-3-colons",
        "5118 §4.10: must be tolerated",
        Parses {
            values: [
                "OPTIONS sip:user@[2001:db8:::192.0.2.1]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 810x2",
                "To sip:user@[2001:db8:::192.0.2.1] -",
                "G9559905523997077@hlau_4100 689 OPTIONS",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
    (
        "rfc5118/ipv6-correct-abnf-2-colons",
        "5118 §4.10",
        Parses {
            values: [
                "OPTIONS sip:user@[2001:db8::192.0.2.1]",
                "1 Via z9hG4bKas3-111",
                "From sip:user@example.com 810x2",
                "To sip:user@[2001:db8::192.0.2.1] -",
                "G9559905523997077@hlau_4100 689 OPTIONS",
                "Max-Forwards 70, Contact -, body 0",
            ],
            above: "OPTIONS: 200",
        },
    ),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("torture")
}

fn read(name: &str) -> Bytes {
    std::fs::read(folder().join(format!("{name}.dat"))).unwrap_or_else(|e| panic!("{name}: {e}")).into()
}

fn request(name: &str) -> Request {
    let Ok(Message::Request(request)) = Message::parse(read(name)) else { panic!("{name} is a request") };
    request
}

fn response(name: &str) -> Response {
    let Ok(Message::Response(response)) = Message::parse(read(name)) else { panic!("{name} is a response") };
    response
}

fn source() -> SocketAddr {
    "198.51.100.7:5061".parse().unwrap()
}

/// The values that a call would be built on.
fn shown(message: &Message) -> [String; 6] {
    let head = message.head();
    let (start, body) = match message {
        Message::Request(r) => (format!("{} {}", r.method.as_str(), r.uri.as_str()), &r.body),
        Message::Response(r) => (r.status.to_string(), &r.body),
    };
    let party = |p: &NameAddr| format!("{} {}", p.uri.as_str(), p.tag().map_or("-", |t| t.as_str()));
    let hops = head.max_forwards.map_or("-".to_owned(), |m| m.to_string());
    let contact = head.contact.as_ref().map_or("-", |c| c.uri.as_str());
    [
        start,
        format!("{} Via {}", head.vias.len(), head.via.branch.as_ref().map_or("-", |b| b.as_str())),
        format!("From {}", party(&head.from)),
        format!("To {}", party(&head.to)),
        format!("{} {} {}", head.call_id, head.cseq.number, head.cseq.method.as_str()),
        format!("Max-Forwards {hops}, Contact {contact}, body {}", body.len()),
    ]
}

fn check(name: &str, section: &str, wire: Bytes, outcome: Outcome) {
    match (outcome, Message::parse(wire)) {
        (Parses { values, above }, Ok(message)) => {
            for (shown, value) in shown(&message).iter().zip(values) {
                assert_eq!(shown, value, "{name} ({section}; {above})");
            }
        }
        (Refused(status, cause), Err(error)) => {
            assert_eq!(error.cause(), cause, "{name} ({section})");
            let answer = error.answer().unwrap_or_else(|| panic!("{name} ({section}) wants an answer"));
            assert_eq!(answer.status, status, "{name} ({section})");
        }
        (Dropped(cause), Err(error)) => {
            assert_eq!((error.cause(), error.answer()), (cause, None), "{name} ({section})");
        }
        (outcome, result) => panic!("{name} ({section}): {outcome:?}, got {result:?}"),
    }
}

#[test]
fn each_message_gets_the_outcome_of_its_rfc() {
    for &(name, section, outcome) in TABLE {
        check(name, section, read(name), outcome);
    }
}

#[test]
fn no_message_is_left_out() {
    let table: BTreeSet<String> = TABLE.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let mut files = BTreeSet::new();
    for rfc in ["rfc4475", "rfc5118"] {
        for entry in std::fs::read_dir(folder().join(rfc)).unwrap() {
            let path = entry.unwrap().path();
            files.insert(format!("{rfc}/{}", path.file_stem().unwrap().to_str().unwrap()));
        }
    }
    assert_eq!((table.len(), files.len()), (TABLE.len(), 61));
    assert_eq!(table, files);
}

#[test]
fn faults_behind_a_fault_are_met_too() {
    // The file ends before the empty line: with one, the comma in the bare display name must still refuse it.
    let mut baddn = read("rfc4475/baddn").to_vec();
    baddn.extend_from_slice(b"\r\n");
    check("baddn", "4475 §3.1.2.15", baddn.into(), Refused(400, Malformed::Invalid("From")));
    // RFC 4475 §3.1.2.4 names two more: Max-Forwards over 255 refuses, too large an Expires does not.
    let scalar = String::from_utf8(read("rfc4475/scalar02").to_vec()).unwrap();
    let scalar = scalar.replace("36893488147419103232", "1");
    let hops = Bytes::from(scalar.clone());
    check("scalar02", "4475 §3.1.2.4", hops, Refused(400, Malformed::Invalid("Max-Forwards")));
    assert!(Message::parse(scalar.replace(": 300", ": 70").into()).is_ok());
    // RFC 4475 §3.1.2.1: the Contact of badinv01 is as bad as its Via.
    let badinv = String::from_utf8(read("rfc4475/badinv01").to_vec()).unwrap();
    let badinv = Bytes::from(badinv.replace(";;,;,,", ""));
    check("badinv01", "4475 §3.1.2.1", badinv, Refused(400, Malformed::Invalid("Contact")));
}

#[test]
fn refusals_can_be_matched_by_who_sent_the_request() {
    for &(name, section, outcome) in TABLE {
        let Refused(status, _) = outcome else { continue };
        let wire = read(name);
        let answer = Message::parse(wire.clone()).unwrap_err().answer().unwrap();
        let reply = answer.response(source(), "ours".to_owned()).encode();
        let reply = std::str::from_utf8(&reply).unwrap();
        assert!(reply.starts_with(&format!("SIP/2.0 {status} ")), "{name} ({section}): {reply}");
        assert!(reply.ends_with("Content-Length: 0\r\n\r\n"), "{name} ({section}): {reply}");
        assert!(reply.len() < 2 * wire.len(), "{name} ({section}): no amplification");
        for header in ["Call-ID: ", "CSeq: "] {
            let sent = std::str::from_utf8(&wire).unwrap();
            let first = sent.lines().find(|line| line.starts_with(header));
            let repeated = reply.lines().find(|line| line.starts_with(header));
            // On one line and without blanks before the value, else as it was.
            let plain = |line: Option<&str>| line.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
            assert_eq!(plain(repeated), plain(first), "{name} ({section})");
        }
    }
}

#[test]
fn rfc4475_3_1_1_1_blanks_folds_and_odd_values() {
    let wsinv = request("rfc4475/wsinv");
    assert_eq!(wsinv.head.header("newfangledheader").unwrap(), "newfangled value continued newfangled value");
    assert_eq!(wsinv.head.header("UnknownHeaderWithUnusualValue").unwrap(), ";;,,;;,;");
    assert_eq!(wsinv.head.header("Subject").unwrap(), "");
    let contact = wsinv.head.contact.unwrap();
    assert_eq!(
        (contact.param("newparam").unwrap(), contact.param("q").unwrap()),
        ("newvalue".into(), "0.33".into())
    );
    assert_eq!(contact.param("secondparam").unwrap(), "");
    let hosts = wsinv.head.vias.iter().map(|v| Via::parse(v).unwrap()).map(|v| (v.transport, v.host));
    let hosts: Vec<_> = hosts.map(|(t, h)| format!("{t} {h}")).collect();
    assert_eq!(hosts, ["UDP 192.0.2.2", "TCP spindle.example.com", "UDP 192.168.255.111"]);
}

#[test]
fn rfc4475_3_1_1_2_unusual_characters() {
    let intmeth = request("rfc4475/intmeth");
    assert_eq!(intmeth.uri.user_part().unwrap(), "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*");
    assert_eq!(intmeth.uri.host(), "example.com");
    assert_eq!(intmeth.head.from.param("fromParam''~+*_!.-%").unwrap(), "работающий");
    assert_eq!(intmeth.head.header("extensionHeader-!.%*+_`'~").unwrap(), "\u{feff}大停電");
    assert!(intmeth.head.to.raw().starts_with("\"BEL:\\\u{7} NUL:\\\u{0} DEL:\\\u{7f}\""));
}

#[test]
fn rfc4475_3_1_1_3_to_5_escapes() {
    let esc01 = request("rfc4475/esc01");
    assert_eq!(esc01.uri.user().unwrap(), "sips:user@example.com");
    assert_eq!(esc01.head.to.uri.user().unwrap(), "user");
    assert_eq!(esc01.head.from.uri.user().unwrap(), "I have spaces");
    let contact = &esc01.head.contact.as_ref().unwrap().uri;
    assert!(contact.lr());
    assert_eq!(
        (contact.user().unwrap(), contact.param("name").unwrap()),
        ("caller".into(), "value%41".into())
    );
    assert_eq!(esc01.head.content_type().unwrap(), "application/sdp");

    let escnull = request("rfc4475/escnull");
    assert_eq!(escnull.head.from.uri.user().unwrap(), "null-\0-null");
    assert_eq!(escnull.head.contact.as_ref().unwrap().uri.user().unwrap(), "\0");
    assert_eq!(escnull.head.headers("contact").count(), 2);

    // `%` in a method or a header name is no escape.
    let esc02 = request("rfc4475/esc02");
    assert_eq!(esc02.head.headers("Contact").count(), 2);
    assert_eq!(esc02.head.header("C%6Fntact").unwrap(), "<sip:alias2@host2.example.com>");
    assert!(rsip::Method::try_from(&esc02.method).is_err());
}

#[test]
fn rfc4475_3_1_1_9_to_13_other_valid_messages() {
    assert_eq!(request("rfc4475/semiuri").uri.user_part().unwrap(), "user;par=u@example.net");
    assert_eq!(request("rfc4475/semiuri").uri.user().unwrap(), "user");
    let accept = request("rfc4475/semiuri").head.tokens("Accept");
    assert_eq!((accept.len(), accept[5].as_str()), (6, "message/sipfrag"));

    let transports = request("rfc4475/transports").head.vias;
    let transports: Vec<_> =
        transports.iter().map(|v| Via::parse(v).unwrap().transport.to_string()).collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);

    let mpart = request("rfc4475/mpart01");
    assert_eq!(mpart.head.content_type().unwrap(), "multipart/mixed");
    assert_eq!(mpart.head.via.rport, Some(None));
    assert!(read("rfc4475/mpart01").ends_with(&mpart.body), "binary bodies stay as they are");

    let longreq = request("rfc4475/longreq").head.vias;
    let last = Via::parse(longreq.last().unwrap()).unwrap();
    assert_eq!((last.received.unwrap().as_str(), last.branch.unwrap().len()), ("192.0.2.5", 215));
}

#[test]
fn rfc4475_3_2_and_3_3_what_others_judge() {
    let bare = TransactionKey::of_request(&request("rfc4475/badbranch"));
    assert!(matches!(bare, TransactionKey::Legacy { .. }));
    for name in ["rfc4475/unkscm", "rfc4475/novelsc"] {
        assert_eq!(request(name).uri.scheme(), Scheme::Other);
    }
    let bext = request("rfc4475/bext01").head;
    assert_eq!(bext.tokens("require"), ["nothingSupportsThis", "nothingSupportsThisEither"]);
    assert_eq!(bext.tokens("Proxy-Require").len(), 2);
    assert_eq!(request("rfc4475/invut").head.content_type().unwrap(), "application/unknownformat");
    assert_eq!(request("rfc4475/sdp01").head.tokens("Accept"), ["text/nobodyKnowsThis"]);
    assert!(response("rfc4475/bcast").is_misrouted());
    assert!(!response("rfc4475/unreason").is_misrouted());
    assert_eq!(request("rfc4475/cparam01").head.contact.unwrap().param("unknownparam").unwrap(), "");
    let contact = request("rfc4475/cparam02").head.contact.unwrap();
    assert_eq!(
        (contact.param("unknownparam"), contact.uri.param("unknownparam").as_deref()),
        (None, Some(""))
    );
    assert_eq!(contact.uri.number().unwrap(), "+19725552222");
    let inv2543 = request("rfc4475/inv2543");
    assert_eq!(inv2543.head.from.uri.number().unwrap(), "+13035551111");
    assert_eq!(inv2543.head.to.param("user").unwrap(), "phone");
    assert_eq!(inv2543.head.record_routes, ["<sip:UserB@example.com;maddr=ss1.example.com>"]);
    assert_eq!(DialogKey::of_request(&inv2543), None);
}

#[test]
fn rfc5118_addresses() {
    let host = |name| request(name).uri;
    let address = |text: &str| Some(text.parse().unwrap());
    assert_eq!(host("rfc5118/ipv6-good").ip(), address("2001:db8::10"));
    assert_eq!(host("rfc5118/port-ambiguous").ip(), address("2001:db8::10:5070"));
    assert_eq!(host("rfc5118/port-ambiguous").port(), None);
    assert_eq!(host("rfc5118/port-unambiguous").ip(), address("2001:db8::10"));
    assert_eq!(host("rfc5118/port-unambiguous").port(), Some(5070));
    assert_eq!(host("rfc5118/ipv6-correct-abnf-2-colons").ip(), address("2001:db8::192.0.2.1"));
    assert_eq!(host("rfc5118/ipv6-bug-abnf-3-colons").ip(), address("2001:db8::192.0.2.1"));
    for name in ["rfc5118/via-received-param-with-delim", "rfc5118/via-received-param-no-delim"] {
        assert_eq!(request(name).head.via.received.unwrap(), "2001:db8::9:255", "{name}");
    }
    let vias = request("rfc5118/mult-ip-in-header").head.vias;
    let vias: Vec<_> = vias.iter().map(|v| Via::parse(v).unwrap()).map(|v| (v.ip(), v.port)).collect();
    let expected = [("2001:db8::9:1", Some(6050)), ("192.0.2.1", None), ("2001:db8::9:255", None)];
    assert_eq!(vias, expected.map(|(ip, port)| (address(ip), port)));
    assert_eq!(request("rfc5118/ipv4-mapped-ipv6").head.via.ip(), address("::ffff:192.0.2.10"));
}

#[test]
fn on_a_stream_only_messages_of_known_length_are_taken() {
    for &(name, section, outcome) in TABLE {
        let wire = read(name);
        let framed = frame(&wire);
        match (name, outcome) {
            // RFC 4475 §3.1.2.2: the rest is waited for; the transport's patience ends that.
            ("rfc4475/clerr" | "rfc4475/baddn", _) => assert_eq!(framed, Frame::Incomplete, "{name}"),
            ("rfc4475/ncl", _) => {
                assert_eq!(framed, Frame::Bad(Malformed::Invalid("Content-Length")), "{section}");
            }
            ("rfc4475/mcl01", _) => {
                assert_eq!(framed, Frame::Bad(Malformed::Repeated("Content-Length")), "{section}");
            }
            ("rfc4475/inv2543", _) => {
                assert_eq!(framed, Frame::Bad(Malformed::Missing("Content-Length")), "{section}");
            }
            (_, outcome) => {
                let Frame::Message { length } = framed else { panic!("{name} ({section}): {framed:?}") };
                check(name, section, wire.slice(..length), outcome);
            }
        }
    }
}

#[test]
fn rfc4475_3_1_1_8_two_messages_on_a_stream_are_two() {
    let wire = read("rfc4475/dblreq");
    let (mut rest, mut frames) = (&wire[..], vec![]);
    while let Frame::Message { length } | Frame::KeepAlive { length, .. } = frame(rest) {
        frames.push(match frame(rest) {
            Frame::Message { .. } => {
                shown(&Message::parse(Bytes::copy_from_slice(&rest[..length])).unwrap())[0].clone()
            }
            other => format!("{other:?}"),
        });
        rest = &rest[length..];
    }
    let keep_alive = "KeepAlive { length: 2, ping: false }".to_owned();
    let (register, invite) = ("REGISTER sip:example.com".to_owned(), "INVITE sip:joe@example.com".to_owned());
    assert_eq!(frames, [register, keep_alive, invite]);
    // The INVITE is longer than it says: what is left can be no message, and ends the connection.
    assert_eq!((rest, frame(rest)), (&b"C\r\n\r\n"[..], Frame::Bad(Malformed::Missing("Content-Length"))));
}
