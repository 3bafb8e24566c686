//! What is wrong with a configuration, all of it at once.

use super::keys;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One fault. Its text is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {source}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file is not TOML; nothing else could be checked.
    #[error("line {line} of the configuration file: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// The TOML parser's word, in one line.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{key} = {value}: there is no such key{}", hint(.nearest))]
    UnknownKey {
        /// Where it stands, and the environment variable that set it.
        key: String,
        /// As written; secrets are hidden.
        value: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A value that is not allowed.
    #[error("{key} = {value}: {problem}; allowed: {allowed}")]
    Value {
        /// Where it stands, and the environment variable that set it.
        key: String,
        /// As written; secrets are hidden.
        value: String,
        /// What is the matter with it.
        problem: &'static str,
        /// What may stand there.
        allowed: String,
    },
    /// A key that must be given and is not.
    #[error("{key} is missing; allowed: {allowed}")]
    Missing {
        /// Where it would stand.
        key: String,
        /// What may stand there.
        allowed: &'static str,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(|| "; see the README for all keys".to_owned(), |key| format!("; did you mean {key}?"))
}

/// All faults of a configuration; printed one per line.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The faults, in the order in which they were found. Never empty.
    #[must_use]
    pub fn faults(&self) -> &[ConfigError] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(fault: ConfigError) -> Self {
        Self(vec![fault])
    }
}

/// Collects faults while the configuration is read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<ConfigError>,
    /// Paths whose values were thrown out: what follows from their absence is no fault of its own.
    struck: Vec<String>,
    /// Path → the environment variable that set it.
    variables: BTreeMap<String, String>,
}

impl Faults {
    /// Remembers which variable set a path, for the texts of faults.
    pub(super) fn set_by(&mut self, path: String, variable: String) {
        self.variables.insert(path, variable);
    }

    pub(super) fn unknown_key(&mut self, path: &str, value: &toml::Value, nearest: Option<String>) {
        // A misspelt password is a password.
        let value = match &nearest {
            Some(meant) if is_secret(meant) => "(hidden)".to_owned(),
            _ => shown(path, value),
        };
        let fault = ConfigError::UnknownKey { key: self.name(path), value, nearest };
        self.found.push(fault);
    }

    /// A value of the wrong type.
    pub(super) fn wrong_type(&mut self, path: &str, value: &toml::Value) {
        let allowed = keys::find(path).map_or("a table of keys", |key| key.allowed);
        self.wrong(path, value, "it cannot be read", allowed);
    }

    /// From now on nothing is reported at or below `path`: its value was thrown out.
    pub(super) fn strike(&mut self, path: String) {
        self.struck.push(path);
    }

    /// A value that is not allowed.
    pub(super) fn wrong(
        &mut self,
        path: &str,
        value: &toml::Value,
        problem: &'static str,
        allowed: impl Into<String>,
    ) {
        if self.is_struck(path) {
            return;
        }
        let (key, value) = (self.name(path), shown(path, value));
        self.found.push(ConfigError::Value { key, value, problem, allowed: allowed.into() });
    }

    /// A key that must be given.
    pub(super) fn missing(&mut self, path: &str, allowed: &'static str) {
        if !self.is_struck(path) {
            self.found.push(ConfigError::Missing { key: path.to_owned(), allowed });
        }
    }

    /// True when the value at `path`, or what holds it, was thrown out.
    pub(super) fn is_struck(&self, path: &str) -> bool {
        self.struck.iter().any(|struck| is_at_or_below(path, struck))
    }

    /// True when nothing was found so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The faults, if there are any.
    pub(super) fn into_errors(self) -> Option<ConfigErrors> {
        (!self.found.is_empty()).then_some(ConfigErrors(self.found))
    }

    fn name(&self, path: &str) -> String {
        let set_by = self.variables.iter().find(|(at, _)| is_at_or_below(path, at));
        set_by.map_or_else(|| path.to_owned(), |(_, variable)| format!("{path} ({variable})"))
    }
}

fn is_at_or_below(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A URL may hold a password, also where none is expected. What follows a database's scheme may hold it anywhere.
fn without_password(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    if scheme.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("postgres")) {
        return Cow::Owned(format!("{scheme}://…"));
    }
    match rest.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{scheme}://…@{host}")),
        None => Cow::Borrowed(text),
    }
}

fn is_secret(path: &str) -> bool {
    let public = path == "accounts" || path.ends_with(".auth_id");
    let word = ["token", "password", "secret", "private"].iter().any(|word| path.contains(word));
    word || (path.starts_with("accounts") && !public)
}

/// A value in one line of bounded length, without what nobody may read over a shoulder or in a log.
fn shown(path: &str, value: &toml::Value) -> String {
    if is_secret(path) {
        return "(hidden)".to_owned();
    }
    if value.is_table() {
        return "{…}".to_owned();
    }
    if value.as_array().is_some_and(|list| list.iter().any(toml::Value::is_table)) {
        return "[…]".to_owned();
    }
    // Control characters come out escaped: the text goes to a terminal.
    let text = match value {
        toml::Value::String(text) => format!("{:?}", without_password(text)),
        other => other.to_string().escape_debug().to_string().replace("\\\"", "\""),
    };
    match text.char_indices().nth(120) {
        Some((cut, _)) => text.get(..cut).unwrap_or_default().to_owned() + "…",
        None => text,
    }
}
