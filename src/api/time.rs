//! Times as Plivo writes and reads them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::store::TimeRange;

/// `2024-02-01 06:28:15 +0000 UTC`: Go's form, in whole seconds as the service has sent it since 2024.
pub(super) fn go_style(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// `2024-02-01 06:28:15+00:00`, as the Call resource has it.
pub(super) fn call_style(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S+00:00").to_string()
}

/// A moment of a filter. Answers show whole seconds, so a value without a fraction means its whole second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    first_us: i64,
    /// Not included.
    end_us: i64,
}

impl Moment {
    /// Reads `YYYY-MM-DD HH:MM[:ss[.uuuuuu]]`, UTC; also with `T`, and with what our own answers end in.
    pub(super) fn parse(input: &str) -> Option<Self> {
        let input = input.trim();
        let input = input.strip_suffix("UTC").unwrap_or(input).trim_end();
        let input = ["+0000", "0000", "+00:00", "Z"]
            .iter()
            .find_map(|zone| input.strip_suffix(zone).filter(|rest| rest.len() >= 16))
            .unwrap_or(input)
            .trim_end();
        let at = input.parse::<DateTime>().ok().filter(|_| input.contains(':'))?;
        let first_us = at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond();
        let length = if input.contains('.') { 1 } else { 1_000_000 };
        Some(Self { first_us, end_us: first_us.checked_add(length)? })
    }

    /// The range that `operator` (`""`, `gt`, `gte`, `lt`, `lte`) makes of it.
    pub(super) fn range(self, operator: &str) -> TimeRange {
        let at = |micros| Timestamp::from_microsecond(micros).ok();
        match operator {
            "gt" => TimeRange { from: at(self.end_us), until: None },
            "gte" => TimeRange { from: at(self.first_us), until: None },
            "lt" => TimeRange { from: None, until: at(self.first_us) },
            "lte" => TimeRange { from: None, until: at(self.end_us) },
            _ => TimeRange { from: at(self.first_us), until: at(self.end_us) },
        }
    }
}

/// What is in both.
pub(super) fn intersect(one: TimeRange, other: TimeRange) -> TimeRange {
    let later = match (one.from, other.from) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let earlier = match (one.until, other.until) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    TimeRange { from: later, until: earlier }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(input: &str) -> Option<(i64, i64)> {
        Moment::parse(input).map(|moment| (moment.first_us, moment.end_us - moment.first_us))
    }

    #[test]
    fn a_time_is_written_as_go_does() {
        let at = Timestamp::from_microsecond(1_706_768_895_106_122).unwrap();
        assert_eq!(go_style(at), "2024-02-01 06:28:15 +0000 UTC");
        assert_eq!(call_style(at), "2024-02-01 06:28:15+00:00");
    }

    #[test]
    fn filters_read_minutes_seconds_fractions_and_our_own_form() {
        let second = 1_706_768_895_000_000;
        for input in [
            "2024-02-01 06:28:15",
            "2024-02-01T06:28:15",
            "2024-02-01T06:28:15Z",
            "2024-02-01 06:28:15 +0000 UTC",
            "2024-02-01 06:28:15  0000 UTC", // A '+' in a query string is a space.
            "2024-02-01 06:28:15+00:00",
        ] {
            assert_eq!(micros(input), Some((second, 1_000_000)), "{input}");
        }
        assert_eq!(micros("2024-02-01 06:28"), Some((second - 15_000_000, 1_000_000)));
        assert_eq!(micros("2024-02-01 06:28:15.106122"), Some((second + 106_122, 1)));
        for input in ["", "now", "2024-02-01", "2024-02-31 06:28", "06:28", "2024-02-01 25:00", "1706768895"]
        {
            assert_eq!(micros(input), None, "{input}");
        }
    }

    #[test]
    fn a_value_in_whole_seconds_means_that_whole_second() {
        let moment = Moment::parse("1970-01-01 00:00:10").unwrap();
        let range = |operator| {
            let range = moment.range(operator);
            (range.from.map(|at| at.as_second()), range.until.map(|at| at.as_second()))
        };
        assert_eq!(range(""), (Some(10), Some(11)));
        assert_eq!(range("gt"), (Some(11), None));
        assert_eq!(range("gte"), (Some(10), None));
        assert_eq!(range("lt"), (None, Some(10)));
        assert_eq!(range("lte"), (None, Some(11)));
    }
}
