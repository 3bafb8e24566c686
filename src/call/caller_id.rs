//! Who calls and what was dialled, read from an INVITE as far as its trunk is trusted. Used for look-up only;
//! nothing read here reaches the other leg.

use crate::number::{Did, E164};
use crate::sip::address::NameAddr;
use crate::sip::message::{Head, Request};
use crate::sip::uri::Scheme;
use crate::sip::wire::ByteStr;
use crate::trunk::{CallerFrom, Trunk};

/// Identity values of one header that are looked at: RFC 3325 §9.1 allows two.
const MAX_IDENTITIES: usize = 4;
/// Where a caller is who does not want to be known (RFC 3323 §4.1.1.3).
const ANONYMOUS: &str = "anonymous.invalid";

/// The caller's number from the places that the trunk names, in their order; `None` for a caller whom none of them
/// names: he is a stranger.
///
/// What the carrier asserts counts although the caller withholds it from others (`Privacy: id`): it is given to us
/// for that very purpose (RFC 3325 §7), and nobody is shown it. From does not count then.
#[must_use]
pub fn caller(invite: &Request, trunk: &Trunk) -> Option<E164> {
    let head = &invite.head;
    trunk.caller_from.iter().find_map(|place| match place {
        CallerFrom::PAssertedIdentity => identities(head, "P-Asserted-Identity", trunk, |_| true),
        CallerFrom::RemotePartyId => identities(head, "Remote-Party-ID", trunk, is_caller),
        CallerFrom::From if is_withheld(head) => None,
        CallerFrom::From => number_of(&head.from, trunk),
    })
}

/// The dialled number, as the trunk writes numbers: the Request-URI's; or where a registrar has written our Contact
/// there, that which it was before (RFC 7315 §4.2), or else To's.
#[must_use]
pub fn dialled(invite: &Request, trunk: &Trunk) -> Option<Did> {
    let read = |number: &str| trunk.read_dialled(number);
    let registered =
        trunk.register && invite.uri.user().is_some_and(|user| *user == *trunk.registered_user());
    if !registered {
        return invite.uri.number().and_then(|number| read(&number));
    }
    let called = invite.head.tokens("P-Called-Party-ID").into_iter().next();
    let called = called.and_then(|value| NameAddr::parse(&ByteStr::from(value.as_str())));
    let number = called.as_ref().and_then(|called| called.uri.number());
    number.or_else(|| invite.head.to.uri.number()).and_then(|number| read(&number))
}

fn identities(head: &Head, name: &str, trunk: &Trunk, counts: impl Fn(&NameAddr) -> bool) -> Option<E164> {
    let values = head.tokens(name).into_iter().take(MAX_IDENTITIES);
    values
        .filter_map(|value| NameAddr::parse(&ByteStr::from(value.as_str())))
        .filter(counts)
        .find_map(|who| number_of(&who, trunk))
}

/// Remote-Party-ID also names the called side; without `party` it is the caller (draft-ietf-sip-privacy-04 §5).
fn is_caller(identity: &NameAddr) -> bool {
    identity.param("party").is_none_or(|party| party.eq_ignore_ascii_case("calling"))
}

/// Whether the caller asks that nobody be told who he is (RFC 3323 §4.2, RFC 3325 §9.3).
fn is_withheld(head: &Head) -> bool {
    let hides = |level: &str| {
        ["id", "user", "header", "full"].iter().any(|word| level.trim().eq_ignore_ascii_case(word))
    };
    head.headers("Privacy").any(|line| line.split([';', ',']).any(hides))
}

/// The number of an identity that is one: not that of an anonymous caller, whatever stands before the `@`.
fn number_of(identity: &NameAddr, trunk: &Trunk) -> Option<E164> {
    let uri = &identity.uri;
    if uri.scheme() != Scheme::Tel && uri.host().eq_ignore_ascii_case(ANONYMOUS) {
        return None;
    }
    uri.number().and_then(|number| trunk.read_number(&number))
}

#[cfg(test)]
mod tests;
