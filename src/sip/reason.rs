//! Why a peer ended or refused something: the Q.850 cause of a Reason header (RFC 3326, RFC 6432).
//!
//! Only the number is read. Whatever else the header says, its text first of all, is nobody else's business.

use super::message::Head;

/// The first Q.850 cause, 1 to 127; `None` when there is none.
#[must_use]
pub fn q850(head: &Head) -> Option<u8> {
    head.tokens("Reason").iter().find_map(|value| cause(value))
}

fn cause(value: &str) -> Option<u8> {
    let mut parts = value.split(';');
    if !parts.next()?.trim().eq_ignore_ascii_case("Q.850") {
        return None;
    }
    let number = parts.find_map(|parameter| {
        let (name, number) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("cause").then_some(number.trim())
    })?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|cause| digits && (1..=127).contains(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3326_2_only_the_number_of_a_q850_cause_is_read() {
        let table = [
            ("Q.850;cause=16", Some(16)),
            ("q.850 ; Cause = 17 ; text=\"Terminated\"", Some(17)),
            ("Q.850;text=\"+49151\";cause=127", Some(127)),
            ("SIP;cause=486", None),
            ("Q.850", None),
            ("Q.850;cause=", None),
            ("Q.850;cause=0", None),
            ("Q.850;cause=128", None),
            ("Q.850;cause=+16", None),
            ("Q.850;cause=16abc", None),
            ("", None),
        ];
        for (value, expected) in table {
            assert_eq!(cause(value), expected, "{value}");
        }
    }
}
