//! The keys of a configuration file and the kinds of their values. They make the explanations of
//! files that cannot be read.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A key of a table.
struct Key {
    name: &'static str,
    kind: Kind,
    is_required: bool,
    /// One or several valid lines.
    example: &'static str,
}

/// The kind of value that a key takes.
enum Kind {
    /// A whole number, up to this one.
    Whole(u64),
    Number,
    Switch,
    Text,
    Character,
    Choice(&'static [&'static str]),
    /// A list of whole numbers.
    Wholes,
    /// One value of this kind, or a list of them.
    OneOrMany(&'static Kind),
    Either(&'static [Kind]),
    Table(&'static [Key]),
    /// A table with exactly one of these keys.
    OneOf(&'static [Key]),
    /// A table in which the key of this name decides the other keys.
    Tagged(&'static str, &'static [(&'static str, &'static [Key])]),
    Tables(&'static [Key]),
}

use Kind::{
    Character, Choice, Either, Number, OneOf, OneOrMany, Switch, Table, Tables, Tagged, Text,
    Whole, Wholes,
};

const fn key(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key { name, kind, is_required: false, example }
}

const fn required(name: &'static str, kind: Kind, example: &'static str) -> Key {
    Key { name, kind, is_required: true, example }
}

const U32: Kind = Whole(u32::MAX as u64);
const U64: Kind = Whole(u64::MAX);

const FILE: &[Key] = &[
    required("data", Table(DATA), "[data]\ntrain = \"clicks.csv\"\nlabel = \"clicked\""),
    key("model", Table(MODEL), "[model]\nbottom_mlp = [32, 16]"),
    key("train", Table(TRAIN), "[train]\nepochs = 15"),
];

const DATA: &[Key] = &[
    key("format", Choice(&["delimited", "criteo"]), "format = \"criteo\""),
    key("train", OneOrMany(&Text), "train = \"clicks.csv\""),
    key("validation", OneOrMany(&Text), "validation = \"later.csv\""),
    key("test", OneOrMany(&Text), "test = \"last.csv\""),
    key("delimiter", Character, "delimiter = \";\""),
    key("trim", Switch, "trim = false"),
    key("max_field_bytes", U64, "max_field_bytes = 1048576"),
    key("label", Text, "label = \"rating >= 4\""),
    key("split", Tagged("by", SPLITS), "split = { by = \"hash\", test = 0.2 }"),
    key("join", Tables(JOIN), "[[data.join]]\npath = \"movies.csv\"\non = \"movieId\""),
    key(
        "derive",
        Tables(DERIVE),
        "[[data.derive]]\nname = \"decade\"\nfrom = \"year\"\nbucket = 10",
    ),
    key("dense", Tables(DENSE_COLUMN), "[[data.dense]]\ncolumn = \"age\""),
    key("categorical", Tables(CATEGORICAL), "[[data.categorical]]\ncolumn = \"shop\""),
    key("max_unknown", Number, "max_unknown = 0.5"),
    key("criteo", Table(CRITEO), "criteo = { min_count = 4 }"),
];

const VALIDATION: Key = key("validation", Number, "validation = 0.1");
const TEST: Key = key("test", Number, "test = 0.2");

const SPLITS: &[(&str, &[Key])] = &[
    ("hash", &[key("seed", U64, "seed = 7"), VALIDATION, TEST]),
    ("time", &[required("column", Text, "column = \"timestamp\""), VALIDATION, TEST]),
    ("file", &[]),
];

const JOIN: &[Key] = &[
    required("path", Text, "path = \"movies.csv\""),
    required("on", Either(&[Text, Table(PAIR)]), "on = \"movieId\""),
    key("delimiter", Character, "delimiter = \";\""),
];

const PAIR: &[Key] = &[
    required("left", Text, "left = \"column here\""),
    required("right", Text, "right = \"column there\""),
];

const DERIVE: &[Key] = &[
    required("name", Text, "name = \"decade\""),
    required("from", OneOrMany(&Text), "from = \"year\""),
    key("pattern", Text, "pattern = '^(\\d+)'"),
    key("bucket", Number, "bucket = 10"),
];

const TRANSFORM: Kind = Choice(&["none", "log1p", "signed_log1p", "zscore", "quantile"]);

const DENSE_COLUMN: &[Key] = &[
    key("column", Text, "column = \"age\""),
    key("transform", OneOrMany(&TRANSFORM), "transform = \"zscore\""),
    key("missing", Either(&[Choice(&["mean", "zero", "error"]), Number]), "missing = \"mean\""),
    key("bins", U64, "bins = 64"),
    key("count", Switch, "count = true"),
];

const CATEGORICAL: &[Key] = &[
    required("column", Text, "column = \"shop\""),
    key("separator", Text, "separator = \"|\""),
    key("min_count", U32, "min_count = 10"),
    key("hash", U32, "hash = 100000"),
    key("pooling", Choice(&["sum", "mean", "max"]), "pooling = \"mean\""),
    key("unknown", Choice(&["drop", "row"]), "unknown = \"row\""),
];

const CRITEO: &[Key] = &[key("min_count", U32, "min_count = 4"), key("hash", U32, "hash = 100000")];

const MODEL: &[Key] = &[
    key("bottom_mlp", Wholes, "bottom_mlp = [32, 16]"),
    key("top_mlp", Wholes, "top_mlp = [64, 32]"),
    key("interaction", Choice(&["dot", "cat"]), "interaction = \"dot\""),
    key(
        "pair_order",
        Choice(&["lower_triangle", "upper_triangle"]),
        "pair_order = \"lower_triangle\"",
    ),
    key("include_self", Switch, "include_self = true"),
    key("append_sparse", Switch, "append_sparse = true"),
    key("table_dtype", Choice(&["f32", "f16", "bf16"]), "table_dtype = \"f32\""),
    key(
        "table_init",
        Either(&[Choice(&["inverse_root"]), OneOf(TABLE_INIT)]),
        "table_init = { uniform = 0.02 }",
    ),
    key("precision", Choice(&["f32", "tf32", "bf16", "f16"]), "precision = \"bf16\""),
];

const TABLE_INIT: &[Key] =
    &[key("uniform", Number, "uniform = 0.02"), key("normal", Number, "normal = 0.02")];

const TRAIN: &[Key] = &[
    key("epochs", U32, "epochs = 15"),
    key("batch_size", U64, "batch_size = 256"),
    key("seed", U64, "seed = 1"),
    key("evaluate_every", OneOf(EVALUATE_EVERY), "evaluate_every = { steps = 1000 }"),
    key("patience", U32, "patience = 3"),
    key("select", Choice(&["loss", "logloss", "auc"]), "select = \"auc\""),
    key(
        "loss",
        Either(&[Choice(&["bce_with_logits", "mse"]), OneOf(LOSS)]),
        "loss = \"bce_with_logits\"",
    ),
    key("loss_threshold", Number, "loss_threshold = 0.0"),
    key("loss_scale", Number, "loss_scale = 4096.0"),
    key("non_finite", Choice(&["error", "skip-step"]), "non_finite = \"skip-step\""),
    key("schedule", Table(SCHEDULE), "schedule = { decay_epochs = 15.0 }"),
    key("members", U64, "members = 3"),
    key("averaging", Number, "averaging = 0.998"),
    key("bag_dropout", Number, "bag_dropout = 0.3"),
    key("even_decay", Switch, "even_decay = true"),
    key("checkpoint_seconds", U64, "checkpoint_seconds = 300"),
    key("optimizer", Table(GROUP), "[train.optimizer]\nkind = \"adam\""),
    key("tables", Table(GROUP), "[train.tables]\nlearning_rate = 0.01"),
    key("dense", Table(GROUP), "[train.dense]\nlearning_rate = 0.002"),
];

const EVALUATE_EVERY: &[Key] =
    &[key("steps", U64, "steps = 1000"), key("rows", U64, "rows = 1000000")];

const LOSS: &[Key] =
    &[key("weighted_bce", Table(WEIGHTS), "weighted_bce = { negative = 1.0, positive = 5.0 }")];

const WEIGHTS: &[Key] = &[
    required("negative", Number, "negative = 1.0"),
    required("positive", Number, "positive = 5.0"),
];

const SCHEDULE: &[Key] = &[
    key("warmup_steps", U64, "warmup_steps = 1000"),
    key("decay_start", U64, "decay_start = 10000"),
    key("decay_steps", U64, "decay_steps = 5000"),
    key("decay_epochs", Number, "decay_epochs = 15.0"),
    key("power", Number, "power = 1.0"),
    key("floor", Number, "floor = 0.3"),
];

const GROUP: &[Key] = &[
    key("kind", Choice(&["sgd", "adagrad", "rowwise_adagrad", "adam"]), "kind = \"adam\""),
    key("learning_rate", Number, "learning_rate = 0.01"),
    key("eps", Number, "eps = 1e-8"),
    key("beta1", Number, "beta1 = 0.9"),
    key("beta2", Number, "beta2 = 0.999"),
    key("weight_decay", Either(&[Choice(&["none"]), OneOf(DECAY)]), "weight_decay = { l2 = 1e-5 }"),
    key("max_gradient", Number, "max_gradient = 10.0"),
    key("rounding", Either(&[Choice(&["nearest"]), OneOf(ROUNDING)]), "rounding = \"nearest\""),
];

const DECAY: &[Key] =
    &[key("l2", Number, "l2 = 1e-5"), key("decoupled", Number, "decoupled = 1e-2")];

const ROUNDING: &[Key] = &[key("stochastic", Table(SEED), "stochastic = { seed = 1 }")];

const SEED: &[Key] = &[required("seed", U64, "seed = 1")];

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

/// Returns the first fault in the text of a configuration file: its place, and an explanation.
pub(super) fn first_fault(text: &str) -> Option<(Range<usize>, String)> {
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
    for key in keys.iter().filter(|key| key.is_required && !table.contains_key(key.name)) {
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

fn describe(kind: &Kind) -> String {
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
    let hint = match ELSEWHERE.iter().find(|(other, _)| *other == name) {
        Some((_, hint)) => format!("; {hint}"),
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
fn did_you_mean<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let nearest = names.map(|name| (strsim::damerau_levenshtein(text, name), name)).min()?;
    let (distance, name) = nearest;
    (distance <= name.len().div_ceil(2)).then(|| format!("; did you mean `{name}`?"))
}

fn names(keys: &[Key]) -> String {
    list(keys.iter().map(|key| format!("`{}`", key.name)))
}

/// Formats a list as `a, b or c`.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{} or {last}", items.join(", ")) }
}

fn example(lines: &str) -> String {
    match lines.contains('\n') {
        true => format!(", such as\n  {}", lines.replace('\n', "\n  ")),
        false => format!(", such as {lines}"),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;

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
            Either(kinds) => {
                kinds.iter().for_each(|kind| visit_below(kind, name, path, file, visitor))
            }
            Table(keys) => visit(
                keys,
                path,
                &|line| file(&format!("{name} = {{ {} }}", whole(keys, line))),
                visitor,
            ),
            OneOf(keys) => {
                visit(keys, path, &|line| file(&format!("{name} = {{ {line} }}")), visitor)
            }
            Tables(keys) => {
                let file = |line: &str| file(&format!("{name} = [{{ {} }}]", whole(keys, line)));
                visit(keys, &format!("{path}[0]"), &file, visitor);
            }
            Tagged(tag, kinds) => {
                for (of_tag, keys) in *kinds {
                    let file = |line: &str| {
                        file(&format!("{name} = {{ {tag} = {of_tag:?}, {} }}", whole(keys, line)))
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
            .filter(|key| key.is_required && !line.starts_with(&format!("{} =", key.name)));
        others.map(|key| key.example).chain([line]).collect::<Vec<_>>().join(", ")
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
        let padded =
            format!(" {} ", message.replace(|c: char| !c.is_alphanumeric() && c != '_', " "));
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
                assert!(
                    message.starts_with("line ") && !speaks_rust(&message),
                    "{text}\n{message}"
                );
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
            (
                "label = 'z'\n",
                COLUMNS,
                "line 4, column 1: the key `label` stands twice in its table",
            ),
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
}
