//! Percentiles, and numbers rounded for reading.

use serde_json::{Value, json};

/// The value below which a share of the samples lies; 0 without samples. `samples` must be sorted.
pub(crate) fn percentile(samples: &[u32], share: f64) -> u32 {
    let last = samples.len().saturating_sub(1);
    // The index is within the slice whatever the rounding does, for it is capped.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = (samples.len() as f64 * share) as usize;
    samples.get(index.min(last)).copied().unwrap_or(0)
}

/// p50, p99 and maximum, divided by `unit`.
pub(crate) fn spread(samples: &mut [u32], unit: f64) -> Value {
    samples.sort_unstable();
    let at = |share| round(f64::from(percentile(samples, share)) / unit, 3);
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

/// To so many decimal places.
pub(crate) fn round(value: f64, places: i32) -> f64 {
    let factor = 10f64.powi(places);
    (value * factor).round() / factor
}

/// Counts become divisors here, and none comes near 2^52.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_many_samples() {
        let hundred: Vec<u32> = (0..100).collect();
        let table: &[(&[u32], f64, u32)] =
            &[(&[], 0.5, 0), (&[7], 0.99, 7), (&hundred, 0.5, 50), (&hundred, 0.99, 99), (&hundred, 1.0, 99)];
        for (samples, share, expected) in table {
            assert_eq!(percentile(samples, *share), *expected, "{} samples, {share}", samples.len());
        }
        assert_eq!(spread(&mut [3000, 1000, 2000], 1000.0), json!({ "p50": 2.0, "p99": 3.0, "max": 3.0 }));
    }
}
