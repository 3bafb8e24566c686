//! Reading columns: each value is checked on its way in.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::StoreError;
use crate::number::{Did, E164};

/// Microseconds since 1970, as every time is stored.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The time that is stored for `at`: whole microseconds.
pub(super) fn stored(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// Whole seconds, as every duration of a session is stored.
pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Microseconds of a duration.
pub(super) fn duration_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// `at` plus `duration`, at most the end of time.
pub(super) fn after(at: Timestamp, duration: Duration) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond().saturating_add(duration_micros(duration)))
        .unwrap_or(Timestamp::MAX)
}

/// Typed access to a row.
pub(super) trait Columns {
    fn text(&self, column: &'static str) -> Result<String, StoreError>;
    fn text_opt(&self, column: &'static str) -> Result<Option<String>, StoreError>;
    fn integer_opt(&self, column: &'static str) -> Result<Option<i64>, StoreError>;

    fn integer(&self, column: &'static str) -> Result<i64, StoreError> {
        self.integer_opt(column)?.ok_or(StoreError::Corrupt(column))
    }

    fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.integer(column)? != 0)
    }

    fn unsigned<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        T::try_from(self.integer(column)?).map_err(|_| StoreError::Corrupt(column))
    }

    fn unsigned_opt<T: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        self.integer_opt(column)?.map(T::try_from).transpose().map_err(|_| StoreError::Corrupt(column))
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.time_opt(column)?.ok_or(StoreError::Corrupt(column))
    }

    fn time_opt(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let micros = self.integer_opt(column)?;
        micros.map(Timestamp::from_microsecond).transpose().map_err(|_| StoreError::Corrupt(column))
    }

    fn duration(&self, column: &'static str) -> Result<Duration, StoreError> {
        Ok(Duration::from_secs(self.unsigned(column)?))
    }

    fn uuid(&self, column: &'static str) -> Result<Uuid, StoreError> {
        Uuid::parse_str(&self.text(column)?).map_err(|_| StoreError::Corrupt(column))
    }

    fn uuid_opt(&self, column: &'static str) -> Result<Option<Uuid>, StoreError> {
        let text = self.text_opt(column)?;
        text.as_deref().map(Uuid::parse_str).transpose().map_err(|_| StoreError::Corrupt(column))
    }

    fn party(&self, column: &'static str) -> Result<Option<E164>, StoreError> {
        let digits = self.text_opt(column)?;
        digits.map(|digits| E164::parse(&digits).ok_or(StoreError::Corrupt(column))).transpose()
    }

    fn did(&self, column: &'static str) -> Result<Did, StoreError> {
        Did::parse(&self.text(column)?).ok_or(StoreError::Corrupt(column))
    }

    fn did_opt(&self, column: &'static str) -> Result<Option<Did>, StoreError> {
        let digits = self.text_opt(column)?;
        digits.map(|digits| Did::parse(&digits).ok_or(StoreError::Corrupt(column))).transpose()
    }
}
