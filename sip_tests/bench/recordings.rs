//! What a run left on the disk: a WAV for each leg of each call, as long as its call, with sound and without gaps.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hound::WavReader;
use serde_json::{Value, json};
use sip_tests::clock;

use crate::Failure;
use crate::stats::spread;

/// Samples of one packet; so many zeros in a row are a gap that was filled.
const BLOCK: usize = 160;
/// The quietest peak of the load's tones.
const SOUND: u16 = 1000;

/// What was found, in milliseconds where it is a time.
#[derive(Debug, Default)]
struct Found {
    lengths_ms: Vec<u32>,
    unreadable: u64,
    silent: u64,
    blocks: u64,
    blocks_silent: u64,
}

/// Waits until every call's folder has its `call.json`, then compares lengths with `calls_ms`, one of two legs each.
pub(crate) fn check(directory: &Path, calls_ms: &[u32], patience: Duration) -> Result<Value, Failure> {
    let end = clock::now() + patience;
    let mut folders = interactions(directory);
    let complete = |folders: &[PathBuf]| folders.iter().filter(|f| f.join("call.json").exists()).count();
    while complete(&folders) < calls_ms.len() && clock::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        folders = interactions(directory);
    }
    let mut found = Found::default();
    for folder in &folders {
        for name in ["a-leg.wav", "b-leg.wav"] {
            found.read(&folder.join(name));
        }
    }
    let mut expected: Vec<u32> = calls_ms.iter().flat_map(|ms| [*ms, *ms]).collect();
    expected.sort_unstable();
    found.lengths_ms.sort_unstable();
    // Sorted against sorted: which folder is whose call cannot be seen from outside, and need not.
    let mut errors: Vec<u32> = expected.iter().zip(&found.lengths_ms).map(|(e, l)| e.abs_diff(*l)).collect();
    let within = errors.iter().filter(|error| **error <= 20).count();
    Ok(json!({
        "expected": expected.len(),
        "files": found.lengths_ms.len(),
        "complete_calls": complete(&folders),
        "unreadable": found.unreadable,
        "silent": found.silent,
        "packets_recorded": found.blocks.saturating_sub(found.blocks_silent),
        "within_20_ms": within,
        "length_error_ms": spread(&mut errors, 1.0),
    }))
}

/// The folders `YYYY/MM/DD/{uuid}`.
pub(crate) fn interactions(directory: &Path) -> Vec<PathBuf> {
    let mut level = vec![directory.to_owned()];
    for _ in 0..4 {
        let inside = level.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        level = inside.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    }
    level
}

impl Found {
    fn read(&mut self, path: &Path) {
        let Ok(reader) = WavReader::open(path) else {
            self.unreadable += 1;
            return;
        };
        let spec = reader.spec();
        if spec.channels != 1 || spec.bits_per_sample != 16 || spec.sample_rate == 0 {
            self.unreadable += 1;
            return;
        }
        let milliseconds = u64::from(reader.duration()) * 1000 / u64::from(spec.sample_rate);
        self.lengths_ms.push(u32::try_from(milliseconds).unwrap_or(u32::MAX));
        let (mut zeros, mut peak) = (0usize, 0u16);
        for sample in reader.into_samples::<i16>().map_while(Result::ok) {
            peak = peak.max(sample.unsigned_abs());
            zeros = if sample == 0 { zeros + 1 } else { 0 };
            if zeros == BLOCK {
                self.blocks_silent += 1;
                zeros = 0;
            }
        }
        self.blocks += milliseconds / 20;
        self.silent += u64::from(peak < SOUND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_gaps_and_missing_files_show() {
        let directory = std::env::temp_dir().join(format!("bench-recordings-{}", std::process::id()));
        let call = directory.join("2026/01/02/uuid");
        fs::create_dir_all(&call).unwrap();
        let tone: Vec<i16> = (0..8000).map(|n| if n % 2 == 0 { 5000 } else { -5000 }).collect();
        let mut gap = tone.clone();
        gap[800..1120].fill(0);
        sip_tests::wav::write(&call.join("a-leg.wav"), 8000, &tone).unwrap();
        sip_tests::wav::write(&call.join("b-leg.wav"), 8000, &gap).unwrap();
        fs::write(call.join("call.json"), "{}").unwrap();
        let report = check(&directory, &[1010, 1500], Duration::ZERO).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(report["expected"], 4);
        assert_eq!((&report["files"], &report["complete_calls"]), (&json!(2), &json!(1)));
        assert_eq!((&report["silent"], &report["packets_recorded"]), (&json!(0), &json!(98)));
        assert_eq!((&report["within_20_ms"], &report["length_error_ms"]["max"]), (&json!(2), &json!(10.0)));
    }
}
