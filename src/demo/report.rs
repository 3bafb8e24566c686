//! What the demo shows and concludes.

use serde_json::Value;
use sip_tests::leak::Marks;
use sip_tests::message::{Message, uri_of, user_of};
use sip_tests::transcript::Transcript;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Findings that are shown of one check.
const SHOWN: usize = 3;

/// The checks, in the order in which they were made, and what a person would want to see.
#[derive(Debug, Default)]
pub struct Report {
    story: String,
    seen: String,
    ladder: String,
    recordings: Vec<PathBuf>,
    checks: usize,
    failed: usize,
}

impl Report {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// True when every check held.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks > 0 && self.failed == 0
    }

    /// All of it, for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\nRecordings\n", self.ladder, self.seen, self.story.trim_end());
        for folder in &self.recordings {
            for file in ["a-leg.wav", "b-leg.wav", "call.json"] {
                let _ = writeln!(text, "  {}", folder.join(file).display());
            }
        }
        let verdict = if self.passed() { "All is well" } else { "SOMETHING IS WRONG" };
        let _ = writeln!(text, "\n{verdict}: {} checks, {} failed.", self.checks, self.failed);
        text
    }

    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.story, "{text}");
    }

    pub(super) fn title(&mut self, text: &str) {
        let _ = writeln!(self.story, "\n{text}");
    }

    pub(super) fn check(&mut self, what: &str, holds: bool) {
        self.checks += 1;
        self.failed += usize::from(!holds);
        let _ = writeln!(self.story, "  {}  {what}", if holds { "ok    " } else { "FAILED" });
    }

    pub(super) fn ladder(&mut self, text: String) {
        self.ladder = text;
    }

    pub(super) fn recorded(&mut self, folder: PathBuf) {
        self.recordings.push(folder);
    }

    pub(super) fn recordings(&self) -> &[PathBuf] {
        &self.recordings
    }

    /// Searches everything that a phone received, in every encoding that the leak finder knows.
    pub(super) fn check_leaks(&mut self, transcript: &Transcript, phone: &str, what: &str, marks: &Marks) {
        let found = transcript.leaks_to(phone, marks);
        self.check(&format!("nothing that {phone}'s phone received holds {what}"), found.is_empty());
        for finding in found.iter().take(SHOWN) {
            let _ = writeln!(
                self.story,
                "          {} as {}: {}",
                finding.mark, finding.encoding, finding.excerpt
            );
        }
    }

    /// The users of every From and To that each phone received: the numbers that its side was shown.
    pub(super) fn saw(&mut self, transcript: &Transcript, phones: &[&str]) {
        let _ = writeln!(self.seen, "What each side was shown in From, To and identity headers");
        for phone in phones {
            let users: BTreeSet<_> = transcript
                .messages_to(phone)
                .iter()
                .flat_map(|message| {
                    ["From", "To", "P-Asserted-Identity", "Remote-Party-ID", "Contact"]
                        .map(|header| user_in(message, header))
                })
                .flatten()
                // The users of our Contacts are random.
                .filter(|user| user.starts_with('+') || user.bytes().all(|b| b.is_ascii_digit()))
                .collect();
            let users: Vec<_> = users.into_iter().collect();
            let _ = writeln!(self.seen, "  {phone:<9} {}", users.join(", "));
        }
    }
}

/// The user part of the URI in a header.
pub(super) fn user_in(message: &Message, header: &str) -> Option<String> {
    message.header(header).map(uri_of).and_then(user_of).map(ToOwned::to_owned)
}

/// Every folder of a call below the recordings directory.
pub(super) fn folders(directory: &Path) -> Vec<PathBuf> {
    let mut folders = vec![directory.to_owned()];
    for _ in ["year", "month", "day", "interaction"] {
        let children =
            |folder: &PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        folders = folders.iter().flat_map(children).filter(|path| path.is_dir()).collect();
    }
    folders
}

/// The A-leg's uuid in a manifest.
pub(super) fn first_leg(manifest: &str) -> Option<String> {
    let manifest: Value = serde_json::from_str(manifest).ok()?;
    Some(manifest.get("legs")?.get(0)?.get("leg_uuid")?.as_str()?.to_owned())
}
