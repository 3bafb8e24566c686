//! Telephone numbers: the parties', which must not print themselves, and our own virtual ones, which may.

use std::fmt;

/// A party's telephone number in E.164 form without the `+`: 7 to 15 digits (ITU-T E.164 §6; fewer than 7
/// is refused here, as too short to dial).
///
/// `Debug` shows the last two digits only, so a stray `{:?}` cannot unmask a party. There is no `Display`:
/// putting the digits on the wire is always a visible call to [`Self::digits`].
///
/// Each of these is what a careless line would need, and none of it compiles:
///
/// ```compile_fail,E0277
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _text = format!("{party}");
/// ```
/// ```compile_fail,E0599
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _text = party.to_string();
/// ```
/// ```compile_fail,E0277
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _text: String = party.into();
/// ```
/// ```compile_fail,E0277
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// fn as_text(text: impl AsRef<str>) {}
/// as_text(party);
/// ```
/// ```compile_fail,E0308
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _text: &str = &party;
/// ```
/// ```compile_fail,E0616
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _text = party.0;
/// ```
/// ```compile_fail,E0277
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// let _json = serde_json::to_string(&party);
/// ```
/// ```compile_fail,E0277
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// tracing::info!(%party, "who calls");
/// ```
/// A party's number is no virtual number, so it does not stand where one is wanted:
/// ```compile_fail,E0308
/// # let party = maskline::number::E164::parse("+33123456789").unwrap();
/// fn from(did: &maskline::number::Did) {}
/// from(&party);
/// ```
/// But this does, with the last two digits at most:
/// ```
/// let party = maskline::number::E164::parse("+33123456789").unwrap();
/// assert_eq!(format!("{party:?}"), "E164(…89)");
/// assert_eq!(party.digits(), "33123456789");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct E164(String);

impl E164 {
    /// Reads `+33 1 23-45-67-89`, `(202) 555-0100` and the like: spaces, dots, hyphens and brackets are dropped.
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        let input = input.trim();
        let input = input.strip_prefix('+').unwrap_or(input);
        let digits: String = input.chars().filter(|c| !matches!(c, ' ' | '.' | '-' | '(' | ')')).collect();
        let valid = (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        valid.then_some(Self(digits))
    }

    /// The digits, without `+`. Every call is a place where a number can leave: keep them few.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last_two = self.0.get(self.0.len().saturating_sub(2)..).unwrap_or_default();
        write!(f, "E164(…{last_two})")
    }
}

/// A virtual number (DID): ours, what both parties see. It may be printed and logged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did(E164);

impl Did {
    /// Reads it like [`E164::parse`].
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        E164::parse(input).map(Self)
    }

    /// The digits, without `+`.
    #[must_use]
    pub fn digits(&self) -> &str {
        self.0.digits()
    }

    /// The same number as what a party might be; for comparison only.
    #[must_use]
    pub fn as_number(&self) -> &E164 {
        &self.0
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.0.digits())
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Did(+{})", self.0.digits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_does_not_print_itself_and_a_virtual_number_does() {
        let party = E164::parse("+33 1 23-45-67-89").unwrap();
        assert_eq!((party.digits(), format!("{party:?}").as_str()), ("33123456789", "E164(…89)"));
        assert_eq!(Did::parse("12025550100").unwrap().to_string(), "+12025550100");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for input in [
            "",
            "+",
            "anonymous",
            "123456",
            "1234567890123456",
            "+49 30 12a4567",
            "++12025550100",
            "１２３４５６７８",
        ] {
            assert_eq!(E164::parse(input), None, "{input}");
        }
    }
}
