//! Tests that the keys are those of the reader, and that faults are explained in their words.

use std::path::Path;

use serde_json::Value as Json;

use super::super::config::Config;
use super::super::optimizer::GroupConfig;
use super::*;
use crate::nn::{ComputePrecision, Optimizers};
use crate::ops::{Optimizer, WeightDecay};

/// A key of the tables above, with a function that turns a line of its table into a whole file.
struct Place<'a> {
    path: String,
    key: &'a Key,
    siblings: &'a [Key],
    file: &'a dyn Fn(&str) -> String,
}

/// Visits every key, at every place where it is allowed.
fn visit(
    keys: &[Key],
    path: &str,
    file: &dyn Fn(&str) -> String,
    visitor: &mut dyn FnMut(&Place<'_>),
) {
    for key in keys {
        let path = join(path, key.name);
        visitor(&Place { path: path.clone(), key, siblings: keys, file });
        visit_below(&key.kind, key.name, &path, file, visitor);
    }
}

fn visit_below(
    kind: &Kind,
    name: &str,
    path: &str,
    file: &dyn Fn(&str) -> String,
    visitor: &mut dyn FnMut(&Place<'_>),
) {
    match kind {
        Either(kinds) => kinds.iter().for_each(|kind| visit_below(kind, name, path, file, visitor)),
        Table(keys) => visit(
            keys,
            path,
            &|line| file(&format!("{name} = {{ {} }}", whole(keys, line))),
            visitor,
        ),
        OneOf(keys) => visit(keys, path, &|line| file(&format!("{name} = {{ {line} }}")), visitor),
        Tables(keys) => {
            let file = |line: &str| file(&format!("{name} = [{{ {} }}]", whole(keys, line)));
            visit(keys, &format!("{path}[0]"), &file, visitor);
        }
        Tagged(tag, kinds) => {
            for (of_tag, keys) in *kinds {
                let file = |line: &str| {
                    let comma = if whole(keys, line).is_empty() { "" } else { "," };
                    let lines = format!("{tag} = {of_tag:?}{comma} {}", whole(keys, line));
                    file(&format!("{name} = {{ {lines} }}"))
                };
                visit(keys, path, &file, visitor);
            }
        }
        _ => {}
    }
}

/// Returns a line together with the lines of the required keys.
fn whole(keys: &[Key], line: &str) -> String {
    let others = keys
        .iter()
        .filter(|key| key.is_required() && !line.starts_with(&format!("{} =", key.name)));
    let lines = others.map(|key| key.example).chain([line]).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(", ")
}

fn each_key(mut visitor: impl FnMut(&Place<'_>)) {
    let file = |line: &str| {
        if line.starts_with("data") { line.to_owned() } else { format!("data = {{}}\n{line}") }
    };
    visit(FILE, "", &file, &mut visitor);
}

/// Returns the names in an error of serde.
fn listed(error: &toml::de::Error) -> Vec<String> {
    let names = error.message().split('`').skip(1).step_by(2).skip(1);
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_tables_are_those_of_the_reader() {
    let mut count = 0;
    each_key(|place| {
        count += 1;
        let example = match place.key.example {
            lines if lines.starts_with('[') && !lines.contains("[data") => {
                format!("[data]\n{lines}")
            }
            lines if lines.starts_with('[') => lines.to_owned(),
            line => (place.file)(line),
        };
        if let Err(error) = toml::from_str::<Config>(&example) {
            panic!("{}: {error}\n{example}", place.path);
        }
        let unknown = toml::from_str::<Config>(&(place.file)("zzz = 1")).unwrap_err();
        if unknown.message().starts_with("unknown field") {
            assert_eq!(
                listed(&unknown),
                sorted(place.siblings.iter().map(|key| key.name)),
                "{}",
                place.path
            );
        }
        if let Choice(names) | OneOrMany(Choice(names)) = &place.key.kind {
            let unknown =
                toml::from_str::<Config>(&(place.file)(&format!("{} = 'zzz'", place.key.name)))
                    .unwrap_err();
            assert_eq!(
                listed(&unknown),
                sorted(names.iter().copied()),
                "{}: {unknown}",
                place.path
            );
        }
    });
    assert!(count > 100, "{count}");
}

/// Returns whether a message contains the name of a Rust type or a term of serde.
fn speaks_rust(message: &str) -> bool {
    let words = [
        "struct",
        "enum",
        "variant",
        "variants",
        "Option",
        "u8",
        "u32",
        "u64",
        "usize",
        "i64",
        "i128",
        "f64",
        "unit",
        "map",
        "sequence",
        "field",
        "tagged",
        "tuple",
        "char",
        "boolean",
        "invalid type",
        "invalid value",
        "untagged",
    ];
    let padded = format!(" {} ", message.replace(|c: char| !c.is_alphanumeric() && c != '_', " "));
    words.iter().any(|word| padded.contains(&format!(" {word} ")))
}

#[test]
fn wrong_types_are_explained_in_the_words_of_configurations() {
    let values = [
        "3",
        "-1",
        "1.5",
        "1e400",
        "nan",
        "99999999999999999999",
        "'x'",
        "''",
        "'two words'",
        "['x']",
        "[1]",
        "[]",
        "[['x']]",
        "[{}]",
        "{}",
        "{ x = 1 }",
        "{ by = 3 }",
        "{ by = 'x' }",
        "{ l2 = 'x' }",
        "{ l2 = 1, decoupled = 1 }",
        "true",
        "1979-05-27",
    ];
    let mut count = 0;
    each_key(|place| {
        for value in values {
            let text = (place.file)(&format!("{} = {value}", place.key.name));
            if toml::from_str::<Config>(&text).is_ok() {
                continue;
            }
            count += 1;
            let fault = first_fault(&text);
            let message = Config::parse(&text).unwrap_err();
            let (is_named, is_toml) =
                (message.contains(&format!("`{}", place.path)), !message.contains("no TOML"));
            assert!(is_named == is_toml && fault.is_some() == is_toml, "{text}\n{message}");
            assert!(message.starts_with("line ") && !speaks_rust(&message), "{text}\n{message}");
        }
        let text = (place.file)("zzz = 1");
        let message = Config::parse(&text).unwrap_err();
        assert!(message.contains("zzz") && !speaks_rust(&message), "{text}\n{message}");
    });
    assert!(count > 1000, "{count}");
}

#[test]
fn the_first_fault_says_what_is_right() {
    const COLUMNS: &str = "categorical = [{ column = 'c' }]\n";
    let message = |data: &str, rest: &str| {
        Config::parse(&format!("[data]\ntrain = 'a'\nlabel = 'y'\n{data}{rest}")).unwrap_err()
    };
    for (data, rest, expected) in [
        (
            "categorical = ['a', 'b']\n",
            "",
            "line 4, column 15: `data.categorical` is a list of texts, but must be a list of \
             tables, such as\n  [[data.categorical]]\n  column = \"shop\"",
        ),
        (
            COLUMNS,
            "[train]\noptimizer = 'adam'\n",
            "line 6, column 13: `train.optimizer` is the text \"adam\", but must be a table \
             of the keys",
        ),
        (
            "split = 0.2\n",
            COLUMNS,
            "line 4, column 9: `data.split` is the number 0.2, but must be a table with the \
             key `by`, such as split = { by = \"hash\", test = 0.2 }",
        ),
        (
            COLUMNS,
            "[train]\nepochs = '3'\n",
            "line 6, column 10: `train.epochs` is the text \"3\", but must be a whole number \
             from 0 to 4294967295, such as epochs = 15",
        ),
        (
            COLUMNS,
            "[train]\nlearning_rate = 0.1\n",
            "line 6, column 1: unknown key `train.learning_rate`; it stands in \
             [train.optimizer], [train.tables] or [train.dense]",
        ),
        (
            COLUMNS,
            "[model]\nembedding_dim = 8\n",
            "line 6, column 1: unknown key `model.embedding_dim`; the dimension of the \
             embeddings is the last size of `model.bottom_mlp`",
        ),
        (
            "[data.dense]\ncolumn = 'x'\n[[data.dense]]\ncolumn = 'z'\n",
            "",
            "line 6, column 8: [[data.dense]] stands here, but `dense` stands above already",
        ),
        ("label = 'z'\n", COLUMNS, "line 4, column 1: the key `label` stands twice in its table"),
        (
            "split = { by = 'hash', column = 't' }\n",
            COLUMNS,
            "line 4, column 24: unknown key `data.split.column`; it stands in",
        ),
        (
            COLUMNS,
            "[train]\nselect = 'acu'\n",
            "line 6, column 10: `train.select` is the text \"acu\", but must be one of \
             \"loss\", \"logloss\" or \"auc\"; did you mean `auc`?",
        ),
        (
            "dense = [{ transform = 'zscor' }]\n",
            "",
            "line 4, column 24: `data.dense[0].transform` is the text",
        ),
        (
            "join = [{ path = 'm', on = { left = 'a' } }]\n",
            "",
            "line 4, column 28: `data.join[0].on.right` is missing, such as right",
        ),
    ] {
        let message = message(data, rest);
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(Config::parse("[train]\nepochs = 3\n").unwrap_err().contains("`data` is missing"));
}

/// Returns a configuration with the values that it takes for the settings that are left out.
fn resolved(file: &str) -> String {
    let mut config: Config = toml::from_str(file).unwrap_or_else(|error| panic!("{error}\n{file}"));
    let dialect = config.data.dialect();
    config.data.decimal = Some(config.data.notation().decimal);
    config.data.trim = Some(dialect.trim);
    config.data.max_field_bytes = Some(dialect.max_field_bytes);
    config.data = config.data.with_defaults();
    for derive in &mut config.data.derive {
        derive.date_order.get_or_insert_default();
    }
    for categorical in &mut config.data.categorical {
        categorical.min_count.get_or_insert(1);
    }
    config.train.loss_scale.get_or_insert(ComputePrecision::DEFAULT_LOSS_SCALE);
    // Adagrad has no default for `eps`, and no key with a default needs Adagrad.
    let optimizers = config.train.optimizers(1).unwrap();
    let none = GroupConfig::default();
    (config.train.optimizer, config.train.tables, config.train.dense) = (none, none, none);
    format!("{config:?} {optimizers:?}")
}

#[test]
fn defaults_are_those_of_the_reader() {
    let mut count = 0;
    each_key(|place| {
        let Value(default) = place.key.default else { return };
        count += 1;
        let without = (place.file)("");
        let with = (place.file)(&format!("{} = {default}", place.key.name));
        assert_eq!(resolved(&with), resolved(&without), "{}", place.path);
    });
    assert!(count > 50, "{count}");
}

/// Compares the numbers of the defaults that depend on other settings.
#[test]
fn defaults_in_words_have_the_numbers_of_the_reader() {
    let words = |path: &str| {
        let mut found = None;
        each_key(|place| {
            if place.path == path {
                found = Some(match place.key.default {
                    Words(words) => words,
                    _ => panic!("{path} has no default in words"),
                });
            }
        });
        found.unwrap_or_else(|| panic!("there is no {path}"))
    };
    let parse = |data: &str| toml::from_str::<Config>(data).unwrap();
    let (plain, max) =
        (parse("data = {}"), parse("data.categorical = [{ column = 'c', pooling = 'max' }]"));
    let half = parse("data = {}\nmodel.table_dtype = 'bf16'");
    assert_eq!(
        words("train.averaging"),
        format!("{} with tables of f32, else {}", plain.averaging(), half.averaging())
    );
    assert_eq!(
        words("train.bag_dropout"),
        format!("{}, with max pooling {}", plain.bag_dropout(), max.bag_dropout())
    );
    let Optimizers { tables, dense, .. } = plain.train.optimizers(1).unwrap();
    assert_eq!(
        words("train.tables.learning_rate"),
        format!("{} for tables, {} for layers", tables.learning_rate, dense.learning_rate)
    );
    let WeightDecay::L2(rate) = tables.weight_decay else { panic!("{tables:?}") };
    assert_eq!(
        words("train.tables.weight_decay"),
        format!("`{{ l2 = {rate} }}` for tables, `\"none\"` for layers")
    );
    assert_eq!(dense.weight_decay, WeightDecay::None);
    let Optimizer::Adam { eps, .. } = tables.optimizer else { panic!("{tables:?}") };
    assert_eq!(words("train.tables.eps"), format!("{eps:e} for Adam; Adagrad needs it"));
    let criteo = parse("data = { format = 'criteo', criteo = {} }").data.with_defaults();
    assert!(words("data.criteo.min_count").starts_with("10;"));
    assert_eq!(criteo.categorical[0].min_count, Some(10));
}

/// Compares a generated page with its file, or writes the file with `BLESS=1`.
fn check_page(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var("BLESS").is_ok_and(|value| value == "1") {
        std::fs::write(&path, page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/{name} is stale: BLESS=1 cargo test --lib keys");
}

#[test]
fn the_page_and_the_schema_are_those_of_the_keys() {
    check_page("config.md", &reference::page());
    check_page("config.schema.json", &schema());
}

#[test]
fn the_reference_has_every_key_with_its_example() {
    let all = reference(None).unwrap();
    assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
    let page = reference::page();
    assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    each_key(|place| {
        let path = place.path.replace("[0]", "");
        let Ok(text) = reference(Some(&path)) else {
            // Keys of tables that others share are explained once.
            let by_name = reference(Some(place.key.name)).unwrap();
            return assert!(by_name.contains(place.key.doc.split(' ').next().unwrap()), "{path}");
        };
        let example = place.key.example.lines().next().unwrap();
        assert!(text.contains(example), "{path}: {text}");
        assert!(place.key.doc.ends_with('.'), "{path}");
    });
}

#[test]
fn keys_are_found_by_path_and_by_name() {
    let text = reference(Some("data.dense.missing")).unwrap();
    assert!(text.starts_with("[[data.dense]]\n  missing = \"mean\"\n"), "{text}");
    assert_eq!(reference(Some("[[data.dense]].missing")).unwrap(), text);
    assert_eq!(reference(Some("data.dense[3].missing")).unwrap(), text);
    assert_eq!(reference(Some("dense.missing")).unwrap(), text);
    let delimiters = reference(Some("delimiter")).unwrap();
    assert!(delimiters.contains("[data]\n") && delimiters.contains("[[data.join]]\n"));
    let table = reference(Some("[train.schedule]")).unwrap();
    assert!(table.contains("warmup_steps = 0") && table.contains("floor = 0.3"), "{table}");
    assert_eq!(
        reference(Some("data.dense.mising")).unwrap_err(),
        "there is no key `data.dense.mising`; did you mean `data.dense.missing`?"
    );
    assert!(reference(Some("lr")).unwrap_err().contains("`learning_rate` in [train.optimizer]"));
    assert!(reference(Some("xyzzyxyzzy")).unwrap_err().contains("lists all keys"));
}

/// Returns whether a value fits a schema, as far as [`schema`] uses the language of schemas.
fn fits(schema: &Json, value: &Json) -> bool {
    let number = |key: &str| schema.get(key).and_then(Json::as_u64);
    let any = |key: &str, fits: &dyn Fn(&Json) -> bool| {
        schema.get(key).and_then(Json::as_array).is_none_or(|all| all.iter().any(fits))
    };
    let is_of_type = match schema.get("type").and_then(Json::as_str) {
        None => true,
        Some("object") => value.as_object().is_some_and(|object| {
            let known = |(key, value): (&String, &Json)| {
                schema["properties"].get(key).is_some_and(|schema| fits(schema, value))
            };
            let has = |key: &Json| object.contains_key(key.as_str().unwrap());
            object.iter().all(known)
                && schema["required"].as_array().unwrap().iter().all(has)
                && number("minProperties").is_none_or(|least| object.len() as u64 >= least)
                && number("maxProperties").is_none_or(|most| object.len() as u64 <= most)
        }),
        Some("array") => value
            .as_array()
            .is_some_and(|items| items.iter().all(|item| fits(&schema["items"], item))),
        Some("string") => value.as_str().is_some_and(|text| {
            number("maxLength").is_none_or(|most| text.chars().count() as u64 <= most)
                && number("minLength").is_none_or(|least| text.chars().count() as u64 >= least)
        }),
        Some("integer") => {
            value.as_u64().is_some_and(|n| number("maximum").is_none_or(|most| n <= most))
        }
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some(other) => panic!("{other}"),
    };
    is_of_type
        && any("enum", &|name| name == value)
        && any("anyOf", &|schema| fits(schema, value))
        && schema.get("const").is_none_or(|only| only == value)
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema: Json = serde_json::from_str(&schema()).unwrap();
    let json = |file: &str| toml::from_str::<Json>(file).unwrap();
    let mut refused = 0;
    each_key(|place| {
        for value in ["3", "1.5", "'x'", "['x']", "[1]", "{ x = 1 }", "{ by = 'x' }", "true"] {
            let file = (place.file)(&format!("{} = {value}", place.key.name));
            let takes = first_fault(&file).is_none();
            assert_eq!(fits(&schema, &json(&file)), takes, "{file}");
            assert!(!takes || toml::from_str::<Config>(&file).is_ok(), "{file}");
            refused += u32::from(!takes);
        }
        for example in [place.key.example, ""] {
            if !example.starts_with('[') && !example.starts_with("data") {
                let file = (place.file)(example);
                let takes = toml::from_str::<Config>(&file).is_ok();
                assert_eq!(fits(&schema, &json(&file)), takes, "{file}");
            }
        }
    });
    assert!(refused > 300, "{refused}");
}
