//! Who calls and what was dialled, read from an INVITE as far as its trunk is trusted. Used for look-up only;
//! nothing read here reaches the other leg.

use crate::number::{Did, E164};
use crate::sip::address::NameAddr;
use crate::sip::message::{Head, Request};
use crate::sip::wire::ByteStr;
use crate::trunk::{CallerFrom, Trunk};

/// Identity values of one header that are looked at: RFC 3325 §9.1 allows two.
const MAX_IDENTITIES: usize = 4;

/// The caller's number from the places that the trunk names, in their order; `None` for an anonymous caller.
#[must_use]
pub fn caller(invite: &Request, trunk: &Trunk) -> Option<E164> {
    trunk.caller_from.iter().find_map(|place| match place {
        CallerFrom::PAssertedIdentity => identities(&invite.head, "P-Asserted-Identity", trunk),
        CallerFrom::RemotePartyId => identities(&invite.head, "Remote-Party-ID", trunk),
        CallerFrom::From => number_of(&invite.head.from, trunk),
    })
}

/// The dialled number: the Request-URI's, as the trunk writes numbers.
#[must_use]
pub fn dialled(invite: &Request, trunk: &Trunk) -> Option<Did> {
    invite.uri.number().and_then(|number| trunk.read_dialled(&number))
}

fn identities(head: &Head, name: &str, trunk: &Trunk) -> Option<E164> {
    let values = head.tokens(name).into_iter().take(MAX_IDENTITIES);
    values
        .filter_map(|value| NameAddr::parse(&ByteStr::from(value.as_str())))
        .find_map(|who| number_of(&who, trunk))
}

fn number_of(identity: &NameAddr, trunk: &Trunk) -> Option<E164> {
    identity.uri.number().and_then(|number| trunk.read_number(&number))
}
