//! Virtual numbers as CSV (RFC 4180): what is written can be read again and changes nothing then.

use std::collections::{BTreeMap, BTreeSet};

use csv::{ReaderBuilder, StringRecord, Trim, WriterBuilder};

use super::error::ApiError;
use super::numbers::Reader;
use crate::store::{NewNumber, NumberEntry};

const COLUMNS: [&str; 7] = ["number", "trunk", "subaccount", "no_session", "state", "source", "country"];
/// The most numbers of one file: all of it is one transaction, and others wait for it.
const MAX_LINES: usize = 5000;

/// Why lines are refused, each cause with its lines.
#[derive(Default)]
pub(super) struct BadLines(BTreeMap<String, BTreeSet<u64>>);

impl BadLines {
    pub(super) fn add(&mut self, line: u64, cause: impl Into<String>) {
        self.0.entry(cause.into()).or_default().insert(line);
    }

    /// `Err` that names every line, if there is any.
    pub(super) fn check(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let causes = self.0.into_iter().map(|(cause, lines)| {
            let word = if lines.len() == 1 { "line" } else { "lines" };
            let lines: Vec<String> = lines.iter().map(u64::to_string).collect();
            format!("{word} {}: {cause}", lines.join(", "))
        });
        let causes: Vec<String> = causes.collect();
        Err(ApiError::bad(format!("Nothing was imported. {}", causes.join(" "))))
    }
}

/// The numbers of a file, each with its line. All lines are looked at, so that all faults are named at once.
pub(super) fn read(bytes: &[u8], reader: &Reader<'_>) -> Result<Vec<(u64, NewNumber)>, ApiError> {
    // Spreadsheets put a byte order mark first.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut file = ReaderBuilder::new().trim(Trim::All).flexible(true).from_reader(bytes);
    let not_text = || ApiError::bad("The file is no CSV in UTF-8.");
    let names: Vec<String> =
        file.headers().map_err(|_| not_text())?.iter().map(str::to_ascii_lowercase).collect();
    let known = names.iter().all(|name| COLUMNS.contains(&name.as_str()));
    let unique = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    if !known || !unique || !names.iter().any(|name| name == "number") {
        return Err(ApiError::bad(format!(
            "line 1: the names of the columns must stand there, each once, number among them. Allowed: {}.",
            COLUMNS.join(", ")
        )));
    }
    let (mut numbers, mut bad, mut seen) = (vec![], BadLines::default(), BTreeSet::new());
    let mut lines = Lines { bytes, offset: 0, line: 1 };
    for record in file.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = lines.of(error.position());
                bad.add(line, "The line is not text in UTF-8.");
                continue;
            }
        };
        let line = lines.of(record.position());
        if numbers.len() >= MAX_LINES {
            return Err(ApiError::bad(format!("The file has more than {MAX_LINES} numbers. Divide it.")));
        }
        if record.len() != names.len() {
            bad.add(line, "The line has not as many fields as the first one.");
            continue;
        }
        match number(&names, &record, reader) {
            Err(error) => bad.add(line, error.text),
            Ok(number) if !seen.insert(number.did.clone()) => {
                bad.add(line, "The number stands in an earlier line as well.");
            }
            Ok(number) => numbers.push((line, number)),
        }
    }
    bad.check()?;
    Ok(numbers)
}

/// Counts lines. The parser's own count begins at the line end before a record, or at a blank line.
struct Lines<'a> {
    bytes: &'a [u8],
    offset: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line on which a record begins. Records come in their order.
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let begin =
            position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(self.offset);
        while let Some(byte) = self.bytes.get(self.offset) {
            if self.offset >= begin && !matches!(byte, b'\r' | b'\n') {
                break;
            }
            self.line = self.line.saturating_add(u64::from(*byte == b'\n'));
            self.offset = self.offset.saturating_add(1);
        }
        self.line
    }
}

fn number(names: &[String], record: &StringRecord, reader: &Reader<'_>) -> Result<NewNumber, ApiError> {
    let field = |wanted: &str| {
        let place = names.iter().position(|name| name == wanted)?;
        record.get(place).filter(|value| !value.is_empty())
    };
    Ok(NewNumber {
        did: reader.did(field("number"))?,
        trunk: reader.trunk(field("trunk"))?,
        subaccount: reader.subaccount(field("subaccount")).flatten(),
        no_session: reader.no_session(field("no_session"), None)?.unwrap_or(crate::store::NoSession::Reject),
        draining: reader.draining(field("state"))?.unwrap_or(false),
    })
}

/// The numbers as a file.
pub(super) fn write(entries: &[NumberEntry]) -> Vec<u8> {
    let mut file = WriterBuilder::new().from_writer(vec![]);
    // Nothing here can fail: it is written to memory, and every record has the same length.
    let _ = file.write_record(COLUMNS);
    for entry in entries {
        let _ = file.write_record([
            entry.number.did.digits(),
            &entry.number.trunk,
            entry.subaccount.as_deref().unwrap_or_default(),
            &entry.number.no_session.to_written(),
            super::numbers::state_of(entry),
            super::numbers::source_of(entry),
            entry.country.as_deref().unwrap_or_default(),
        ]);
    }
    file.into_inner().unwrap_or_default()
}
