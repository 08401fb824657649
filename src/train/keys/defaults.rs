//! The keys with their defaults, as comments of a configuration.

use super::Kind::{Table, Tables};
use super::{FILE, Key, Preset};

/// Returns the lines of a table's keys as comments, with their defaults, except for the keys
/// `except` and those of the tables below it. The result is empty if there is no such table.
pub(in crate::train) fn default_lines(table: &str, except: &[&str]) -> Vec<String> {
    let mut keys = FILE;
    for name in table.split('.') {
        let below = keys.iter().find(|key| key.name == name).map(|key| &key.kind);
        let Some(Table(inner) | Tables(inner)) = below else { return Vec::new() };
        keys = inner;
    }
    let wanted = keys.iter().filter(|key| !except.contains(&key.name));
    wanted.filter_map(line).map(|line| format!("# {line}")).collect()
}

/// Returns the line of a key; `None` if its value is a table that has a heading.
fn line(key: &Key) -> Option<String> {
    let name = key.name;
    let has_heading = |example: &str| example.starts_with('[');
    match (&key.default, &key.kind) {
        (_, Table(_) | Tables(_)) if has_heading(key.example) => None,
        (Preset::Value(value), _) => Some(format!("{name} = {value}")),
        (Preset::OfKeys, Table(keys)) => {
            let values: Vec<String> = keys.iter().filter_map(line).collect();
            Some(format!("{name} = {{ {} }}", values.join(", ")))
        }
        (Preset::Required, _) => Some(key.example.to_owned()),
        (Preset::Words(words), _) => Some(format!("{}  # default: {words}", key.example)),
        (Preset::OfKeys, _) => None,
    }
}
