//! The reference of the keys: for a terminal, and as a page.

use super::Kind::{Either, OneOf, OneOrMany, Table, Tables, Tagged};
use super::check::{describe, did_you_mean, hint_from_elsewhere};
use super::{FILE, Key, Kind, Preset, join, list};

/// The number of columns of a line on a terminal.
const TERMINAL: usize = 80;

/// The keys of a table.
struct Section<'a> {
    /// The table as it is written, such as `[train]`.
    heading: String,
    path: String,
    doc: &'static str,
    keys: &'a [Key],
    /// The heading of an earlier section with the same keys.
    same_as: Option<String>,
}

/// Returns the reference of all keys, or of those that `query` names: by its path, such as
/// `data.dense.missing`, or by the end of it, such as `missing`.
///
/// # Errors
/// Returns a message if no key has this name.
pub(in crate::train) fn reference(query: Option<&str>) -> Result<String, String> {
    let sections = sections();
    let Some(query) = query else {
        let sections = sections.iter().map(section_on_terminal);
        return Ok(sections.collect::<Vec<_>>().join("\n"));
    };
    let wanted = normalised(query);
    let mut found: Vec<(String, &Section<'_>, &Key)> = Vec::new();
    for section in &sections {
        for key in section.keys {
            found.push((join(&section.path, key.name), section, key));
        }
    }
    let ends_with = |path: &str| path == wanted || path.ends_with(&format!(".{wanted}"));
    let is_path = found.iter().any(|(path, ..)| *path == wanted);
    let matches =
        found.iter().filter(|(path, ..)| if is_path { *path == wanted } else { ends_with(path) });
    let texts: Vec<String> = matches
        .map(|(path, section, key)| {
            let below = sections.iter().filter(|section| section.path == *path);
            let below = below.map(|section| format!("\n{}", section_on_terminal(section)));
            detail(section, key) + &below.collect::<String>()
        })
        .collect();
    if !texts.is_empty() {
        return Ok(texts.join("\n"));
    }
    let names = found.iter().flat_map(|(path, _, key)| [path.as_str(), key.name]);
    let hint = hint_from_elsewhere(&wanted)
        .or_else(|| did_you_mean(&wanted, names))
        .unwrap_or_else(|| "; `bagdot help config` lists all keys".into());
    Err(format!("there is no key `{query}`{hint}"))
}

/// Returns the page of all keys, in Markdown.
#[cfg(test)]
pub(super) fn page() -> String {
    const PAGE: usize = 100;
    let intro = "Every key of a configuration file, its default, and what it means. The program \
        prints the same: `bagdot help config`, or `bagdot help config data.dense.missing` for one \
        key. For editors there is a schema, [config.schema.json](config.schema.json), which \
        `bagdot help config --schema` prints: with `#:schema config.schema.json` in the first line \
        of a configuration, Taplo and Even Better TOML complete and check its keys. \
        [numbers.md](numbers.md) explains the numbers that training and evaluation print.";
    let mut page = format!("# The configuration file\n\n{}\n", wrapped(intro, "", PAGE));
    for section in sections() {
        page += &format!("\n## {}\n\n{}\n", section.heading, wrapped(section.doc, "", PAGE));
        if let Some(other) = &section.same_as {
            page += &format!("\nIts keys are those of {other}.\n");
            continue;
        }
        for (k, key) in section.keys.iter().enumerate() {
            let separator = if k == 0 { "\n" } else { "" };
            let text = format!("- {}: {} {}", title(key, "`"), value(key), key.doc);
            page += &format!("{separator}{}\n", wrapped(&text, "  ", PAGE));
        }
    }
    page
}

/// Returns the tables of a file, in the order of the reference.
fn sections() -> Vec<Section<'static>> {
    let mut sections = Vec::new();
    add_section("The file".into(), "", "The tables of a file.", FILE, &mut sections);
    sections
}

fn add_section(
    heading: String,
    path: &str,
    doc: &'static str,
    keys: &'static [Key],
    sections: &mut Vec<Section<'static>>,
) {
    let names = |keys: &[Key]| keys.iter().map(|key| key.name).collect::<Vec<_>>();
    let is_same = |other: &&Section<'_>| other.keys.len() > 3 && names(other.keys) == names(keys);
    let same_as = sections.iter().find(is_same).map(|section| section.heading.clone());
    let is_new = same_as.is_none();
    sections.push(Section { heading, path: path.to_owned(), doc, keys, same_as });
    if is_new {
        for key in keys {
            add_below(&key.kind, &join(path, key.name), key.doc, sections);
        }
    }
}

/// Adds the sections of the tables that a value of this kind may be.
fn add_below(
    kind: &'static Kind,
    path: &str,
    doc: &'static str,
    sections: &mut Vec<Section<'static>>,
) {
    match kind {
        Table(keys) => add_section(format!("[{path}]"), path, doc, keys, sections),
        Tables(keys) => add_section(format!("[[{path}]]"), path, doc, keys, sections),
        OneOf(keys) => {
            add_section(format!("{path}, a table with one key"), path, doc, keys, sections)
        }
        Tagged(tag, kinds) => {
            for (name, keys) in kinds.iter().filter(|(_, keys)| !keys.is_empty()) {
                let heading = format!("[{path}] with {tag} = {name:?}");
                add_section(heading, path, doc, keys, sections);
            }
        }
        Either(kinds) => kinds.iter().for_each(|kind| add_below(kind, path, doc, sections)),
        OneOrMany(kind) => add_below(kind, path, doc, sections),
        _ => {}
    }
}

fn section_on_terminal(section: &Section<'_>) -> String {
    let mut text = format!("{}\n{}\n", section.heading, wrapped(section.doc, "", TERMINAL));
    if let Some(other) = &section.same_as {
        return text + &format!("  Its keys are those of {other}.\n");
    }
    for key in section.keys {
        text += &format!("\n{}\n", wrapped(&format!("  {}", title(key, "")), "      ", TERMINAL));
        text += &format!("{}\n", indented(&format!("{} {}", value(key), key.doc)));
    }
    text
}

/// Returns everything about one key.
fn detail(section: &Section<'_>, key: &Key) -> String {
    let title = format!("{}\n  {}", section.heading, title(key, ""));
    let doc = indented(&format!("{} {}", value(key), key.doc));
    format!("{title}\n{doc}\n      Example:\n\n{}\n", key.example)
}

/// Returns the name of a key with its default, between `quotes` where they are values.
fn title(key: &Key, quotes: &str) -> String {
    let name = key.name;
    match key.default {
        Preset::Required => format!("{quotes}{name}{quotes} (must be there)"),
        Preset::Value(value) => format!("{quotes}{name} = {value}{quotes}"),
        Preset::Words(words) if words.starts_with("must") => {
            format!("{quotes}{name}{quotes} ({words})")
        }
        Preset::Words(words) => format!("{quotes}{name}{quotes} (default: {words})"),
        Preset::OfKeys => format!("{quotes}{name}{quotes} (default: those of its keys)"),
    }
}

/// Returns the sentence that says which values a key takes.
fn value(key: &Key) -> String {
    let text = short(&key.kind);
    let first = text.chars().take(1).flat_map(char::to_uppercase);
    first.chain(text.chars().skip(1)).chain(['.']).collect()
}

/// Describes a kind without the keys of tables, which have sections of their own.
fn short(kind: &Kind) -> String {
    match kind {
        Table(_) => "a table".into(),
        OneOf(keys) => {
            format!("a table with one key, {}", list(keys.iter().map(|key| key.name.to_owned())))
        }
        Tagged(tag, kinds) => {
            let values = list(kinds.iter().map(|(name, _)| format!("{name:?}")));
            format!("a table with the key `{tag}`, one of {values}")
        }
        Either(kinds) => kinds.iter().map(short).collect::<Vec<_>>().join(", or "),
        kind => describe(kind),
    }
}

/// Returns a path without the brackets of tables and the numbers of their places.
fn normalised(query: &str) -> String {
    let name = |part: &str| -> String {
        part.trim_matches(['[', ']', ' ']).chars().take_while(|&c| c != '[').collect()
    };
    query.split('.').map(name).collect::<Vec<_>>().join(".")
}

fn indented(text: &str) -> String {
    wrapped(&format!("      {text}"), "      ", TERMINAL)
}

/// Breaks a text into lines of at most `width` columns, `indent` before all but the first.
fn wrapped(text: &str, indent: &str, width: usize) -> String {
    let start = text.len() - text.trim_start().len();
    let (mut lines, mut column) = (text[..start].to_owned(), start);
    for (k, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if k > 0 && column + 1 + length > width {
            lines += &format!("\n{indent}");
            column = indent.chars().count();
        } else if k > 0 {
            lines.push(' ');
            column += 1;
        }
        lines += word;
        column += length;
    }
    lines
}
