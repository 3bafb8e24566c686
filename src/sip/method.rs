//! Methods: rsip's where it has a name for them, else the token (RFC 3261 §7.1).

use std::fmt;
use std::hash::{Hash, Hasher};

use super::grammar::is_token;
use super::wire::{ByteStr, MAX_TOKEN};

/// A request's method. Names are case-sensitive (RFC 3261 §7.1).
#[derive(Clone, PartialEq, Eq)]
pub enum Method {
    /// One that rsip names.
    Known(rsip::Method),
    /// Any other token.
    Other(ByteStr),
}

macro_rules! methods {
    ($($constant:ident = $variant:ident, $text:literal;)*) => {
        impl Method {
            $(#[doc = concat!("`", $text, "`")] pub const $constant: Self = Self::Known(rsip::Method::$variant);)*

            /// As it stands on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::Known(rsip::Method::$variant) => $text,)*
                    Self::Other(name) => name,
                }
            }

            /// The status for a request that nobody here takes: 405 for a method that we know (RFC 3261 §8.2.1), 501
            /// for another one (§21.5.2).
            #[must_use]
            pub fn refusal(&self) -> u16 {
                match self {
                    Self::Known(_) => 405,
                    Self::Other(_) => 501,
                }
            }

            /// Reads a token; `None` when it is none or longer than [`MAX_TOKEN`].
            #[must_use]
            pub fn parse(name: &ByteStr) -> Option<Self> {
                Some(match name.as_str() {
                    $($text => Self::$constant,)*
                    other if is_name(other) => Self::Other(name.clone()),
                    _ => return None,
                })
            }
        }
    };
}

methods! {
    INVITE = Invite, "INVITE";
    ACK = Ack, "ACK";
    BYE = Bye, "BYE";
    CANCEL = Cancel, "CANCEL";
    OPTIONS = Options, "OPTIONS";
    UPDATE = Update, "UPDATE";
    INFO = Info, "INFO";
    PRACK = PRack, "PRACK";
    REFER = Refer, "REFER";
    MESSAGE = Message, "MESSAGE";
    REGISTER = Register, "REGISTER";
    SUBSCRIBE = Subscribe, "SUBSCRIBE";
    NOTIFY = Notify, "NOTIFY";
    PUBLISH = Publish, "PUBLISH";
}

fn is_name(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(is_token)
}

impl Hash for Method {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<rsip::Method> for Method {
    fn from(method: rsip::Method) -> Self {
        Self::Known(method)
    }
}

impl TryFrom<&Method> for rsip::Method {
    type Error = UnknownMethod;

    fn try_from(method: &Method) -> Result<Self, UnknownMethod> {
        match method {
            Method::Known(method) => Ok(*method),
            Method::Other(_) => Err(UnknownMethod),
        }
    }
}

/// The method is an extension that rsip has no name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown method")]
pub struct UnknownMethod;
