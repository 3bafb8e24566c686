//! `call.json`: written by rename once both files are complete, so that a folder without it is still being written.
//! No number is in it.

use jiff::Timestamp;
use media::RecordingReport;
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The manifest's name.
pub const NAME: &str = "call.json";

/// Why a recording could not be filed.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct ManifestError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Serialize)]
struct Manifest<'a> {
    interaction_uuid: Uuid,
    /// UTC; the moment of sample 0 of both files.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    sample_rate_hz: u32,
    samples: u64,
    duration_ms: u64,
    complete: bool,
    legs: [Leg<'a>; 2],
}

#[derive(Serialize)]
struct Leg<'a> {
    leg: &'static str,
    file: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    leg_uuid: Option<Uuid>,
    sha256: &'a str,
    /// First sample and number of samples of each stretch in which nothing arrived.
    gaps: &'a [(u64, u64)],
}

/// What the manifest names beside the sound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// The interaction.
    pub interaction: Uuid,
    /// The A-leg, when it is known.
    pub a: Option<Uuid>,
    /// The B-leg, when it is known.
    pub b: Option<Uuid>,
    /// Wall time of sample 0, when it is known.
    pub started_at: Option<Timestamp>,
}

/// Writes the manifest of a finished recording beside its files.
///
/// # Errors
/// What the file system says, with the path.
pub fn write(names: Names, report: &RecordingReport) -> Result<(), ManifestError> {
    let manifest = Manifest {
        interaction_uuid: names.interaction,
        started_at: names.started_at,
        sample_rate_hz: report.sample_rate_hz,
        samples: report.samples,
        duration_ms: report.samples.saturating_mul(1000) / u64::from(report.sample_rate_hz.max(1)),
        complete: report.complete,
        legs: [
            Leg {
                leg: "a",
                file: "a-leg.wav",
                leg_uuid: names.a,
                sha256: &report.a.sha256,
                gaps: &report.a.gaps,
            },
            Leg {
                leg: "b",
                file: "b-leg.wav",
                leg_uuid: names.b,
                sha256: &report.b.sha256,
                gaps: &report.b.gaps,
            },
        ],
    };
    let json = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    let path = report.directory.join(NAME);
    replace(&path, &json).map_err(|source| ManifestError { path, source })
}

/// Writes beside the file and renames, so that nobody ever reads half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.part");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
