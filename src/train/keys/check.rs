//! Finds the first fault of a configuration file, and explains it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::Kind::{
    Character, Choice, Either, Number, OneOf, OneOrMany, Switch, Table, Tables, Tagged, Text,
    Whole, Wholes,
};
use super::{FILE, Key, Kind, U64, join, list, names};

/// Keys of other programs, with the hints at the ones of this program.
const ELSEWHERE: &[(&str, &str)] = &[
    ("embedding_dim", "the dimension of the embeddings is the last size of `model.bottom_mlp`"),
    ("embedding_size", "the dimension of the embeddings is the last size of `model.bottom_mlp`"),
    (
        "lr",
        "a learning rate is `learning_rate` in [train.optimizer], [train.tables] or [train.dense]",
    ),
    ("early_stopping", "training stops after `train.patience` evaluations without a better score"),
];

/// Returns the hint at the key that has the meaning of another program's key.
pub(super) fn hint_from_elsewhere(name: &str) -> Option<String> {
    let (_, hint) = ELSEWHERE.iter().find(|(other, _)| *other == name)?;
    Some(format!("; {hint}"))
}

/// Returns the first fault in the text of a configuration file: its place, and an explanation.
pub(in crate::train) fn first_fault(text: &str) -> Option<(Range<usize>, String)> {
    let file = DeTable::parse(text).ok()?;
    let mut faults = Vec::new();
    check_keys(file.get_ref(), file.span(), FILE, "", &mut faults);
    faults.into_iter().min_by_key(|(span, _)| span.start)
}

type Faults = Vec<(Range<usize>, String)>;

fn check_keys(
    table: &DeTable<'_>,
    span: Range<usize>,
    keys: &[Key],
    path: &str,
    faults: &mut Faults,
) {
    for (name, value) in table {
        match keys.iter().find(|key| key.name == name.get_ref()) {
            Some(key) => check(&key.kind, value, &join(path, key.name), key.example, faults),
            None => faults.push((name.span(), unknown(name.get_ref(), keys, path))),
        }
    }
    for key in keys.iter().filter(|key| key.is_required() && !table.contains_key(key.name)) {
        faults.push((
            span.clone(),
            format!("`{}` is missing{}", join(path, key.name), example(key.example)),
        ));
    }
}

fn check(kind: &Kind, value: &Spanned<DeValue<'_>>, path: &str, line: &str, faults: &mut Faults) {
    if !takes(kind, value.get_ref()) {
        let (found, wanted) = (describe_value(value.get_ref()), describe(kind));
        let nearest = match (kind, value.get_ref()) {
            (Choice(names) | OneOrMany(Choice(names)), DeValue::String(text)) => {
                did_you_mean(text, names.iter().copied())
            }
            _ => None,
        };
        let hint = nearest.unwrap_or_else(|| example(line));
        return faults
            .push((value.span(), format!("`{path}` is {found}, but must be {wanted}{hint}")));
    }
    match (kind, value.get_ref()) {
        (Either(kinds), found) => {
            if let Some(kind) = kinds.iter().find(|kind| takes(kind, found)) {
                check(kind, value, path, line, faults);
            }
        }
        (Table(keys), DeValue::Table(table)) => check_keys(table, value.span(), keys, path, faults),
        (OneOf(keys), DeValue::Table(table)) => {
            check_keys(table, value.span(), keys, path, faults);
            if table.len() != 1 {
                faults.push((
                    value.span(),
                    format!("`{path}` must have one key: {}{}", names(keys), example(line)),
                ));
            }
        }
        (Tagged(tag, kinds), DeValue::Table(table)) => {
            check_tagged(tag, kinds, table, value.span(), path, faults)
        }
        (Tables(keys), DeValue::Array(tables)) => {
            for (k, table) in tables.iter().enumerate() {
                if let DeValue::Table(entries) = table.get_ref() {
                    check_keys(entries, table.span(), keys, &format!("{path}[{k}]"), faults);
                }
            }
        }
        _ => {}
    }
}

fn check_tagged(
    tag: &str,
    kinds: &[(&'static str, &[Key])],
    table: &DeTable<'_>,
    span: Range<usize>,
    path: &str,
    faults: &mut Faults,
) {
    let known: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let choices = || list(known.iter().map(|name| format!("{name:?}")));
    let line = format!("{tag} = {:?}", known.first().unwrap_or(&""));
    let Some(value) = table.get(tag) else {
        return faults.push((
            span,
            format!("`{path}.{tag}` is missing: it is one of {}{}", choices(), example(&line)),
        ));
    };
    let of_tag =
        value.get_ref().as_str().and_then(|text| kinds.iter().find(|(name, _)| *name == text));
    let Some((_, keys)) = of_tag else {
        let found = describe_value(value.get_ref());
        let message = format!(
            "`{path}.{tag}` is {found}, but must be one of {}{}",
            choices(),
            example(&line)
        );
        return faults.push((value.span(), message));
    };
    let mut others = table.clone();
    others.remove(tag);
    check_keys(&others, span, keys, path, faults);
}

/// Returns whether a value is of a kind, without looking into tables.
fn takes(kind: &Kind, value: &DeValue<'_>) -> bool {
    match (kind, value) {
        (Whole(most), DeValue::Integer(number)) => {
            integer(number).is_some_and(|n| (0..=i128::from(*most)).contains(&n))
        }
        (Number, DeValue::Integer(number)) => integer(number).is_some(),
        (Number, DeValue::Float(_))
        | (Switch, DeValue::Boolean(_))
        | (Text, DeValue::String(_)) => true,
        (Character, DeValue::String(text)) => text.chars().count() == 1,
        (Choice(names), DeValue::String(text)) => names.contains(&text.as_ref()),
        (Wholes, DeValue::Array(items)) => items.iter().all(|item| takes(&U64, item.get_ref())),
        (OneOrMany(kind), DeValue::Array(items)) => {
            items.iter().all(|item| takes(kind, item.get_ref()))
        }
        (OneOrMany(kind), value) => takes(kind, value),
        (Either(kinds), value) => kinds.iter().any(|kind| takes(kind, value)),
        (Table(_) | OneOf(_) | Tagged(..), DeValue::Table(_)) => true,
        (Tables(_), DeValue::Array(items)) => items.iter().all(|item| item.get_ref().is_table()),
        _ => false,
    }
}

/// Returns an integer if it fits 64 bits, signed or unsigned.
fn integer(number: &DeInteger<'_>) -> Option<i128> {
    let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number).then_some(number)
}

pub(super) fn describe(kind: &Kind) -> String {
    match kind {
        Whole(u64::MAX) => "a whole number, 0 or more".into(),
        Whole(most) => format!("a whole number from 0 to {most}"),
        Number => "a number".into(),
        Switch => "true or false".into(),
        Text => "a text in quotes".into(),
        Character => "one character in quotes".into(),
        Choice([name]) => format!("{name:?}"),
        Choice(names) => format!("one of {}", list(names.iter().map(|name| format!("{name:?}")))),
        Wholes => "a list of whole numbers".into(),
        OneOrMany(kind) => format!("{}, or a list of such", describe(kind)),
        Either(kinds) => kinds.iter().map(describe).collect::<Vec<_>>().join(", or "),
        Table(keys) => format!("a table of the keys {}", names(keys)),
        OneOf(keys) => format!("a table with one key, {}", names(keys)),
        Tagged(tag, _) => format!("a table with the key `{tag}`"),
        Tables(_) => "a list of tables".into(),
    }
}

fn describe_value(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", crate::data::shortened(text)),
        DeValue::Integer(number) if integer(number).is_none() => {
            format!("the number {}, which does not fit 64 bits,", number.as_str())
        }
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".into(),
        DeValue::Table(_) => "a table".into(),
        DeValue::Array(items)
            if items.iter().all(|item| item.get_ref().is_str()) && !items.is_empty() =>
        {
            "a list of texts".into()
        }
        DeValue::Array(_) => "a list".into(),
    }
}

fn unknown(name: &str, keys: &[Key], path: &str) -> String {
    let mut places = Vec::new();
    find(name, FILE, "", &mut places);
    let hint = match hint_from_elsewhere(name) {
        Some(hint) => hint,
        None if !places.is_empty() => format!("; it stands in {}", list(places.into_iter())),
        None => did_you_mean(name, keys.iter().map(|key| key.name))
            .unwrap_or_else(|| format!("; the keys here are {}", names(keys))),
    };
    format!("unknown key `{}`{hint}", join(path, name))
}

/// Collects the tables that have a key of this name.
fn find(name: &str, keys: &[Key], path: &str, places: &mut Vec<String>) {
    for key in keys {
        let here = join(path, key.name);
        match &key.kind {
            Table(below) => {
                if below.iter().any(|key| key.name == name) {
                    places.push(format!("[{here}]"));
                }
                find(name, below, &here, places);
            }
            Tables(below) if below.iter().any(|key| key.name == name) => {
                places.push(format!("[[{here}]]"))
            }
            _ => {}
        }
    }
}

/// Suggests the name that is nearest to a text, if one is near.
pub(super) fn did_you_mean<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let nearest = names.map(|name| (strsim::damerau_levenshtein(text, name), name)).min()?;
    let (distance, name) = nearest;
    (distance <= name.len().div_ceil(2)).then(|| format!("; did you mean `{name}`?"))
}

pub(super) fn example(lines: &str) -> String {
    match lines.contains('\n') {
        true => format!(", such as\n  {}", lines.replace('\n', "\n  ")),
        false => format!(", such as {lines}"),
    }
}
