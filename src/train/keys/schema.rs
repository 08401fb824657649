//! The keys as a JSON schema, with which editors complete and check configurations.

use serde_json::{Map, Value, json};

use super::Kind::{
    Character, Choice, Either, Number, OneOf, OneOrMany, Switch, Table, Tables, Tagged, Text,
    Whole, Wholes,
};
use super::{FILE, Key, Kind, Preset};

/// Returns the schema of a configuration file, in draft 7 of JSON Schema.
pub(in crate::train) fn schema() -> String {
    let mut schema = table(FILE, None);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "The configuration of bagdot train".into();
    format!("{schema:#}\n")
}

fn table(keys: &[Key], tag: Option<(&str, &str)>) -> Value {
    let mut properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut required: Vec<&str> =
        keys.iter().filter(|key| key.is_required()).map(|key| key.name).collect();
    if let Some((tag, value)) = tag {
        properties.insert(tag.to_owned(), json!({ "const": value }));
        required.push(tag);
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut schema = of_kind(&key.kind);
    schema["description"] = key.doc.into();
    if let Preset::Value(text) = key.default
        && let Some(value) = value_of(text)
    {
        schema["default"] = value;
    }
    schema
}

/// Returns a value of TOML as one of JSON.
fn value_of(text: &str) -> Option<Value> {
    let mut file: Map<String, Value> = toml::from_str(&format!("value = {text}")).ok()?;
    file.remove("value")
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        // JSON has no numbers of 64 bits: editors check that a number is whole.
        Whole(u64::MAX) => json!({ "type": "integer", "minimum": 0 }),
        Whole(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
        Number => json!({ "type": "number" }),
        Switch => json!({ "type": "boolean" }),
        Text => json!({ "type": "string" }),
        Character => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Choice(names) => json!({ "enum": names }),
        Wholes => json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } }),
        OneOrMany(kind) => {
            let one = of_kind(kind);
            json!({ "anyOf": [one, { "type": "array", "items": one }] })
        }
        Either(kinds) => json!({ "anyOf": kinds.iter().map(of_kind).collect::<Vec<_>>() }),
        Table(keys) => table(keys, None),
        OneOf(keys) => {
            let mut schema = table(keys, None);
            schema["minProperties"] = 1.into();
            schema["maxProperties"] = 1.into();
            schema
        }
        Tagged(tag, kinds) => {
            let kinds = kinds.iter().map(|(name, keys)| table(keys, Some((tag, name))));
            json!({ "anyOf": kinds.collect::<Vec<_>>() })
        }
        Tables(keys) => json!({ "type": "array", "items": table(keys, None) }),
    }
}
