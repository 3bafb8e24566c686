//! `call.json`: written by rename once both files are complete, so that a folder without it is still being written;
//! replaced by rename when the mixed file has been made. No number is in it.

use crate::masking::session::RecordFormat;
use jiff::Timestamp;
use media::{LegRecording, RecordingReport};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{self, File};
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

impl ManifestError {
    /// What the file system says.
    #[must_use]
    pub fn source(&self) -> &io::Error {
        &self.source
    }
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
    /// The same for what arrived and could not be kept.
    lost: &'a [(u64, u64)],
    /// Samples repeated, or left out when negative, to keep the sender's clock in step with ours.
    slipped: i64,
}

impl<'a> Leg<'a> {
    fn new(leg: &'static str, file: &'static str, leg_uuid: Option<Uuid>, found: &'a LegRecording) -> Self {
        let LegRecording { sha256, gaps, lost, slipped } = found;
        Self { leg, file, leg_uuid, sha256, gaps, lost, slipped: *slipped }
    }
}

/// What is known of a recorded call beside its sound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The interaction.
    pub interaction: Uuid,
    /// The A-leg, when it is known.
    pub a: Option<Uuid>,
    /// The B-leg, when it is known.
    pub b: Option<Uuid>,
    /// Wall time of sample 0, when it is known.
    pub started_at: Option<Timestamp>,
    /// Whose call it is; not written into the manifest.
    pub account: Option<String>,
    /// The session; not written either.
    pub session: Option<Uuid>,
    /// What the session wants delivered.
    pub format: Option<RecordFormat>,
}

/// What a manifest says of its recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filed {
    pub(super) started_at: Option<Timestamp>,
    pub(super) samples: u64,
    pub(super) sample_rate_hz: u32,
    pub(super) complete: bool,
}

/// A file that was made of both legs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mixed {
    pub(super) format: RecordFormat,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Writes the manifest of a finished recording beside its files.
///
/// # Errors
/// What the file system says, with the path.
pub fn write(names: &Names, report: &RecordingReport) -> Result<(), ManifestError> {
    let manifest = Manifest {
        interaction_uuid: names.interaction,
        started_at: names.started_at,
        sample_rate_hz: report.sample_rate_hz,
        samples: report.samples,
        duration_ms: report.samples.saturating_mul(1000) / u64::from(report.sample_rate_hz.max(1)),
        complete: report.complete,
        legs: [
            Leg::new("a", media::recorder::A_LEG, names.a, &report.a),
            Leg::new("b", media::recorder::B_LEG, names.b, &report.b),
        ],
    };
    let json = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    let path = report.directory.join(NAME);
    replace(&path, &json).map_err(|source| ManifestError { path, source })
}

/// Reads a manifest. One that cannot be understood is [`io::ErrorKind::InvalidData`].
pub(super) fn read(folder: &Path) -> io::Result<Filed> {
    let manifest = load(folder)?;
    let number = |name: &str| manifest.get(name).and_then(Value::as_u64).ok_or(io::ErrorKind::InvalidData);
    Ok(Filed {
        started_at: manifest.get("started_at").and_then(Value::as_str).and_then(|at| at.parse().ok()),
        samples: number("samples")?,
        sample_rate_hz: number("sample_rate_hz")?.try_into().map_err(|_| io::ErrorKind::InvalidData)?,
        complete: manifest.get("complete").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// Adds the mixed file to the manifest, or takes the place of what was said of one before.
pub(super) fn add_mixed(folder: &Path, mixed: &Mixed) -> io::Result<()> {
    let mut manifest = load(folder)?;
    let fields = manifest.as_object_mut().ok_or(io::ErrorKind::InvalidData)?;
    let said = json!({
        "file": file_name(mixed.format),
        "channels": 1,
        "bytes": mixed.bytes,
        "sha256": mixed.sha256,
    });
    if fields.insert("mixed".to_owned(), said.clone()) == Some(said) {
        return Ok(());
    }
    let json = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    replace(&folder.join(NAME), &json)
}

/// The mixed file's name.
pub(super) fn file_name(format: RecordFormat) -> &'static str {
    match format {
        RecordFormat::Mp3 => "call.mp3",
        RecordFormat::Wav => "call.wav",
    }
}

fn load(folder: &Path) -> io::Result<Value> {
    let text = fs::read(folder.join(NAME))?;
    serde_json::from_slice(&text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Writes beside the file and renames, so that nobody ever reads half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.part");
    let written = begin(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    // Half a file takes the room that others need.
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    renamed.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A new file for the owner and its group.
pub(super) fn begin(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)
}

/// The names in a folder must survive a power cut as well as what they name.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
