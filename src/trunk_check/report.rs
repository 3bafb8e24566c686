//! What the check says, and in which words: facts in, lines out. Each fault comes with what to do about it, or with what
//! to ask the carrier.

use super::certificate::Facts;
use crate::trunk::resolve::{Answer, Question, Target};
use jiff::Timestamp;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

/// A certificate that ends within so many days deserves a word.
const SOON: i64 = 21;

/// How good a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It works.
    Ok,
    /// It may be meant.
    Note,
    /// Calls fail because of it.
    Fault,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) mark: Mark,
    pub(super) text: String,
    /// What to change, or to ask the carrier.
    pub(super) advice: Option<String>,
}

impl Line {
    pub(super) fn ok(text: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, text: text.into(), advice: None }
    }

    pub(super) fn note(text: impl Into<String>) -> Self {
        Self { mark: Mark::Note, text: text.into(), advice: None }
    }

    pub(super) fn fault(text: impl Into<String>) -> Self {
        Self { mark: Mark::Fault, text: text.into(), advice: None }
    }

    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// The report as it grows, each line printed when it is known.
pub(super) struct Report<W> {
    out: W,
    faults: usize,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, faults: 0 }
    }

    pub(super) fn faults(&self) -> usize {
        self.faults
    }

    /// That nobody reads is no fault of ours.
    pub(super) fn head(&mut self, text: &str) {
        let _ = writeln!(self.out, "\n{text}");
    }

    pub(super) fn say(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    pub(super) fn add(&mut self, line: &Line) {
        let mark = match line.mark {
            Mark::Ok => "ok   ",
            Mark::Note => "note ",
            Mark::Fault => "FAULT",
        };
        self.faults += usize::from(line.mark == Mark::Fault);
        let _ = writeln!(self.out, "  {mark}  {}", line.text);
        if let Some(advice) = &line.advice {
            let _ = writeln!(self.out, "         → {advice}");
        }
    }
}

/// One answer of DNS.
pub(super) fn of_answer(question: &Question, answer: Result<&Answer, &str>) -> Line {
    let (kind, name) = match question {
        Question::Naptr(name) => ("NAPTR", name),
        Question::Srv(name) => ("SRV", name),
        Question::Addresses(name) => ("address", name),
    };
    let found: Vec<String> = match answer {
        Err(error) => {
            return Line::note(format!("DNS: the {kind} question for {name} failed: {error}"));
        }
        Ok(Answer::Naptr(records)) => {
            records.iter().map(|record| format!("{} → {}", record.service, record.replacement)).collect()
        }
        Ok(Answer::Srv(records)) => records
            .iter()
            .map(|record| {
                let host = if record.target.is_empty() { "nowhere" } else { &record.target };
                format!("{host}:{} (priority {}, weight {})", record.port, record.priority, record.weight)
            })
            .collect(),
        Ok(Answer::Addresses(found)) => found.iter().map(ToString::to_string).collect(),
    };
    if found.is_empty() {
        Line::ok(format!("DNS: {name} has no {kind} record"))
    } else {
        Line::ok(format!("DNS: {kind} {name}: {}", found.join(", ")))
    }
}

/// Why nothing could be found.
pub(super) fn of_failed_look_up(host: &str, error: &str) -> Line {
    Line::fault(format!("{host} leads nowhere: {error}")).advise(format!(
        "check the spelling of the gateway, and ask this machine's DNS: dig {host}; dig SRV _sip._udp.{host}"
    ))
}

/// The final response to OPTIONS, or to the one with credentials.
pub(super) fn of_options(status: u16, retry_after: Option<u32>, took: Duration, has_password: bool) -> Line {
    let said = format!("OPTIONS was answered {status} after {} ms", took.as_millis());
    match status {
        200..=299 => Line::ok(format!("{said}: it takes calls")),
        401 | 407 if has_password => Line::fault(format!("{said}: the password is not accepted"))
            .advise("compare username and password with the carrier's portal; some carriers want the realm's own user name"),
        401 | 407 => Line::note(format!("{said}: the carrier wants a user name and a password"))
            .advise("calls may work all the same when the carrier knows our address; otherwise set username and password of the trunk"),
        403 => Line::fault(format!("{said}: the carrier does not know us, or does not let us in"))
            .advise("tell the carrier the address below from which we send, and that it may call and be called"),
        503 => {
            let wait = retry_after.map(|seconds| format!(", for {seconds} s")).unwrap_or_default();
            Line::fault(format!("{said}: it takes no calls now{wait}"))
                .advise("ask the carrier whether this gateway is in service")
        }
        // RFC 3261 §11.2: whoever answers is alive; many carriers answer OPTIONS with 404, 405 or 501.
        _ => Line::ok(format!("{said}: it is there, and does not say more to OPTIONS")),
    }
}

/// There was no response to OPTIONS at all.
pub(super) fn of_no_answer(target: &Target, from: &str) -> Line {
    let line = Line::fault(format!("{target} did not answer OPTIONS"));
    match target.transport {
        crate::trunk::Transport::Udp => line.advise(format!(
            "ask the carrier whether packets from {from} arrive, and whether that address is allowed; on this side let UDP out and its answers in"
        )),
        _ => line.advise(format!(
            "the connection is open and nobody speaks: ask the carrier whether {from} is allowed, and whether SIP is served there"
        )),
    }
}

/// The address that the carrier sees us by (RFC 3581), beside the one that we show.
pub(super) fn of_seen_address(seen: IpAddr, shown: IpAddr) -> Option<Line> {
    if seen.to_canonical() == shown.to_canonical() {
        return Some(Line::ok(format!("the carrier sees us as {seen}, as we say")));
    }
    let line = Line::note(format!("the carrier sees us as {seen}, but Via, Contact and SDP show {shown}"));
    Some(line.advise(format!(
        "we are behind NAT: set sip.public_address = \"{seen}\", and let sip.listen and media.ports through"
    )))
}

/// What a certificate says; `now` is wall time.
pub(super) fn of_certificate(facts: &Facts, now: Timestamp) -> Line {
    let names = if facts.names.is_empty() { "nobody".to_owned() } else { facts.names.join(", ") };
    let issuer = facts.issuer.as_deref().unwrap_or("somebody unnamed");
    let Some(end) = facts.not_after else {
        return Line::note(format!(
            "the certificate is for {names}, signed by {issuer}; its end cannot be read"
        ));
    };
    let day = end.strftime("%Y-%m-%d");
    let days = end.duration_since(now).as_hours() / 24;
    let text = format!("the certificate is for {names}, signed by {issuer}, until {day}");
    if end < now {
        Line::fault(text + ", which is over")
            .advise("the carrier must renew it; until then no call goes there")
    } else if days <= SOON {
        Line::note(format!("{text}: in {days} days")).advise("ask the carrier when it will be renewed")
    } else {
        Line::ok(text)
    }
}

/// What a final response to the test call's INVITE means.
pub(super) fn of_call(status: u16, has_password: bool) -> Line {
    let said = format!("the call was refused with {status}");
    match status {
        401 | 407 if has_password => Line::fault(said).advise("the password is not accepted: compare it with the carrier's portal"),
        401 | 407 => Line::fault(said).advise("the carrier wants a password: set username and password of the trunk"),
        403 => Line::fault(said).advise(
            "the carrier does not let this call out: our address, the caller's number (it must be one that the carrier gave you) or the country is not allowed",
        ),
        404 | 484 | 604 => Line::fault(said).advise(
            "the carrier does not know the number as we write it: try number_format = \"e164\" or \"+e164\", and check the number",
        ),
        408 => Line::fault(said).advise("nothing came back to our INVITE, or to the carrier's: ask the carrier whether it arrived"),
        480 | 486 | 487 | 600 | 603 => {
            Line::ok(format!("{said}: the carrier took the call to the number, where nobody takes it"))
        }
        415 | 488 | 606 => Line::fault(said).advise(
            "the carrier takes none of our audio: compare the trunk's codecs with the carrier's, and whether it wants SRTP",
        ),
        402 => Line::fault(said).advise("the carrier wants to be paid: look at the account's balance"),
        483 => Line::fault(said).advise("the call goes in a circle: does the carrier send this number back to us?"),
        503 => Line::fault(said).advise("the carrier takes no calls now, or no more per second: ask for the trunk's limits"),
        _ => Line::fault(said).advise("ask the carrier what this means, with the time and our address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trunk::Transport;

    #[test]
    fn every_answer_to_options_is_told_with_what_to_do() {
        use Mark::{Fault, Note, Ok};
        let took = Duration::from_millis(34);
        for (status, password, mark, word) in [
            (200, false, Ok, "takes calls"),
            (404, false, Ok, "it is there"),
            (501, false, Ok, "it is there"),
            (401, false, Note, "password"),
            (407, true, Fault, "not accepted"),
            (403, false, Fault, "does not know us"),
            (503, false, Fault, "for 30 s"),
        ] {
            let line = of_options(status, (status == 503).then_some(30), took, password);
            assert_eq!(line.mark, mark, "{status}");
            assert!(line.text.contains(word) && line.text.contains("after 34 ms"), "{}", line.text);
            assert_eq!(line.advice.is_some(), mark != Ok, "{status}: a fault says what to do");
        }
    }

    #[test]
    fn every_refusal_of_a_call_is_told_with_what_to_do() {
        for status in 300..700 {
            let line = of_call(status, false);
            assert_eq!(line.advice.is_some(), line.mark == Mark::Fault, "{status}");
            assert!(line.text.contains(&status.to_string()));
        }
        assert_eq!(of_call(486, false).mark, Mark::Ok, "it got through");
    }

    #[test]
    fn nat_is_seen() {
        let [ours, theirs] = ["10.0.0.5", "203.0.113.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(of_seen_address(ours, ours).unwrap().mark, Mark::Ok);
        let line = of_seen_address(theirs, ours).unwrap();
        assert!(line.advice.unwrap().contains("sip.public_address = \"203.0.113.9\""));
    }

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (end, mark) in [
            ("2025-12-31T23:59:59Z", Mark::Fault),
            ("2026-01-15T00:00:00Z", Mark::Note),
            ("2026-06-01T00:00:00Z", Mark::Ok),
        ] {
            let facts = Facts {
                names: vec!["sbc.carrier.test".to_owned()],
                issuer: Some("CA".to_owned()),
                not_after: Some(end.parse().unwrap()),
            };
            let line = of_certificate(&facts, now);
            assert_eq!(line.mark, mark, "{end}");
            assert!(
                line.text.contains("sbc.carrier.test") && line.text.contains(&end[..10]),
                "{}",
                line.text
            );
        }
        assert_eq!(of_certificate(&Facts::default(), now).mark, Mark::Note);
    }

    #[test]
    fn faults_are_counted_and_printed_with_their_advice() {
        let mut report = Report::new(vec![]);
        report.head("Gateway");
        report.add(&Line::ok("fine"));
        let target = Target { transport: Transport::Udp, address: "192.0.2.1:5060".parse().unwrap() };
        report.add(&of_no_answer(&target, "198.51.100.1:5060"));
        assert_eq!(report.faults(), 1);
        let text = String::from_utf8(report.out).unwrap();
        assert!(
            text.starts_with("\nGateway\n  ok     fine\n  FAULT  udp:192.0.2.1:5060 did not answer"),
            "{text}"
        );
        assert!(
            text.contains("\n         → ask the carrier whether packets from 198.51.100.1:5060 arrive"),
            "{text}"
        );
    }
}
