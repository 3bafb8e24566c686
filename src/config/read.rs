//! From text and environment to the typed configuration as written, with every fault on the way.
//!
//! serde stops at the first fault; so a faulty value is reported, thrown out and the rest read again, until
//! nothing is left to complain about.

use super::error::{ConfigError, Faults};
use super::keys::{self, Kind};
use super::written::Config;
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// What environment variables of this program begin with.
const PREFIX: &str = "MASKLINE__";

/// Reads the file's text. Only a fault of TOML itself ends it at once.
pub(super) fn parse(text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        ConfigError::Syntax { line, reason: error.message().lines().collect::<Vec<_>>().join("; ") }
    })
}

/// Puts `MASKLINE__SIP__LISTEN`-style variables over what the file says.
pub(super) fn override_by(
    table: &mut Table,
    environment: impl Iterator<Item = (String, String)>,
    faults: &mut Faults,
) {
    for (name, text) in environment {
        let Some(path) = name.strip_prefix(PREFIX).map(|rest| rest.to_ascii_lowercase().replace("__", "."))
        else {
            continue;
        };
        let value = typed(&path, text);
        faults.set_by(path.clone(), name);
        match path.split_once('.') {
            // Which table of a list a variable means is not for it to say: the list is given whole.
            Some((section, key)) if !key.contains('.') => {
                let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                match section {
                    Value::Table(section) => drop(section.insert(key.to_owned(), value)),
                    _ => faults.unknown_key(&path, &value, None),
                }
            }
            Some(_) => faults.unknown_key(&path, &value, None),
            None => drop(table.insert(path, value)),
        }
    }
}

/// A variable's text as the value that its key takes: TOML if it is, else a text or a comma list.
fn typed(path: &str, text: String) -> Value {
    let toml = |text: &str| {
        let mut table = format!("value = {text}").parse::<Table>().ok()?;
        // More than one key: the text holds a line break and goes on.
        table.remove("value").filter(|_| table.is_empty())
    };
    match keys::find(path).map(|key| key.kind) {
        Some(Kind::Text) => match toml(&text) {
            Some(Value::String(quoted)) => Value::String(quoted),
            _ => Value::String(text),
        },
        Some(Kind::List) => match toml(&text).or_else(|| toml(&format!("[{text}]"))) {
            Some(list @ Value::Array(_)) => list,
            Some(Value::String(quoted)) => comma_list(&quoted),
            _ => comma_list(&text),
        },
        _ => toml(&text).unwrap_or(Value::String(text)),
    }
}

fn comma_list(text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
}

/// Takes out, and reports, what is no key.
pub(super) fn refuse_unknown(table: &mut Table, path: &str, faults: &mut Faults) {
    let names: Vec<String> = table.keys().cloned().collect();
    for name in names {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        // A quoted key may hold anything; only a plain one can be one of ours.
        let plain = !name.is_empty() && !name.contains(['.', '[', ']']);
        let known = keys::find(&at).filter(|_| plain).map(|key| key.kind);
        let is_section = plain && keys::below(&at).next().is_some();
        match (known, table.get_mut(&name)) {
            (Some(Kind::Tables), Some(Value::Array(list))) => {
                for (index, element) in list.iter_mut().enumerate() {
                    if let Value::Table(element) = element {
                        refuse_unknown(element, &format!("{at}[{index}]"), faults);
                    }
                }
            }
            (None, Some(Value::Table(section))) if is_section => {
                refuse_unknown(section, &at, faults);
            }
            // A section that is no table: its type is the fault, and is found when it is read.
            (None, Some(_)) if is_section => {}
            (None, Some(value)) => {
                let nearest = keys::nearest(path, &name)
                    .map(|meant| if path.is_empty() { meant.to_owned() } else { format!("{path}.{meant}") });
                faults.unknown_key(&at, value, nearest);
                table.remove(&name);
            }
            _ => {}
        }
    }
}

/// The typed form. A value of the wrong type counts as not given, after it was reported.
pub(super) fn typed_config(mut table: Table, faults: &mut Faults) -> Config {
    loop {
        let error = match serde_path_to_error::deserialize::<_, Config>(table.clone()) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let segments: Vec<&Segment> = error.path().iter().collect();
        // Each round takes one value out, so the loop ends; a fault without a place would be one of the structs.
        if !strike(&mut table, &segments, faults) {
            faults.wrong_type("configuration", &Value::String(error.inner().message().to_owned()));
            return Config::default();
        }
    }
}

/// Reports the value that the segments lead to, and removes it: from the table that holds it, or, for an element
/// of a list, the whole list, so that the others keep their places.
fn strike(table: &mut Table, segments: &[&Segment], faults: &mut Faults) -> bool {
    let Some(last_key) = segments.iter().rposition(|segment| matches!(segment, Segment::Map { .. })) else {
        return false;
    };
    let Some((to_holder, rest)) = segments.split_at_checked(last_key) else { return false };
    let Some((Segment::Map { key }, indices)) = rest.split_first() else { return false };

    let (mut holder, mut path) = (table, String::new());
    let mut steps = to_holder.iter().peekable();
    while let Some(step) = steps.next() {
        let Segment::Map { key } = step else { return false };
        path += if path.is_empty() { "" } else { "." };
        path += key;
        let index = match steps.peek() {
            Some(Segment::Seq { index }) => Some(*index),
            _ => None,
        };
        let next = match index {
            Some(index) => {
                steps.next();
                path += &format!("[{index}]");
                holder.get_mut(key).and_then(|list| list.get_mut(index))
            }
            None => holder.get_mut(key),
        };
        let Some(Value::Table(next)) = next else { return false };
        holder = next;
    }
    path += if path.is_empty() { "" } else { "." };
    path += key;
    let Some(value) = holder.remove(key) else { return false };
    let list_path = path.clone();
    let mut faulty = &value;
    for index in indices {
        let Segment::Seq { index } = index else { break };
        let Some(element) = faulty.get(*index) else { break };
        faulty = element;
        path += &format!("[{index}]");
    }
    faults.wrong_type(&path, faulty);
    faults.strike(list_path);
    true
}
