//! Tests of `bagdot help`.

use std::path::Path;

use crate::common::{fail, project, succeed};

#[test]
fn help_explains_commands_keys_and_numbers() {
    let here = Path::new(".");
    assert!(succeed(here, &["help"]).contains("bagdot help config"));
    assert!(succeed(here, &["help", "train"]).contains("--resume"));
    let all = succeed(here, &["help", "config"]);
    assert!(all.contains("[[data.categorical]]\n") && all.contains("\n  epochs = 15\n"), "{all}");
    let one = succeed(here, &["help", "config", "data.dense.missing"]);
    assert!(one.starts_with("[[data.dense]]\n  missing = \"mean\"\n"), "{one}");
    let schema = succeed(here, &["help", "config", "--schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["train"]["properties"]["epochs"]["default"], 15);
    assert!(succeed(here, &["help", "numbers"]).contains("- `calibration`: "));
    for (arguments, expected) in [
        (&["help", "config", "epoch"][..], "no key `epoch`; did you mean `epochs`?"),
        (&["help", "tarin"], "there is no help on \"tarin\""),
        (&["help", "train", "x"], "takes no key"),
        (&["help", "numbers", "--schema"], "--schema stands after"),
    ] {
        let (code, message) = fail(here, arguments);
        assert!(code == 2 && message.contains(expected), "{arguments:?} {code}: {message}");
    }
}

/// Returns the names of numbers in a line of metrics: the words before the numbers.
fn names(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split([' ', ';', '\n']).filter(|word| !word.is_empty()).collect();
    let is_number = |word: &str| word.parse::<f64>().is_ok() || word == "-";
    let names = words.windows(2).filter(|pair| is_number(pair[1]) && !is_number(pair[0]));
    names.map(|pair| pair[0].to_owned()).collect()
}

#[test]
fn help_numbers_explains_every_number_that_is_printed() {
    let folder = project(300);
    let train = ["train", "model.toml", "--epochs", "1", "--out", "m"];
    let shown = String::from_utf8(crate::common::run(folder.path(), &train).stderr).unwrap();
    let line = shown.lines().find(|line| line.starts_with("epoch 1")).unwrap();
    let test = succeed(folder.path(), &["eval", "m", "--quiet"]);
    let explained = succeed(folder.path(), &["help", "numbers"]);
    let mut printed = names(line.split_once(": ").unwrap().1);
    printed.extend(names(&test));
    assert!(printed.len() >= 11, "{printed:?}");
    let mut keys = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        printed.extend(value.as_object().unwrap().keys().cloned());
    };
    keys(&succeed(folder.path(), &["eval", "m", "--quiet", "--json"]));
    let epochs = std::fs::read_to_string(folder.path().join("m/metrics.jsonl")).unwrap();
    epochs.lines().for_each(&mut keys);
    for name in printed {
        // The parts of the rows are named, not explained.
        if !["train", "validation", "test", "epoch"].contains(&name.as_str()) {
            assert!(explained.contains(&format!("`{name}`")), "{name} is not explained");
        }
    }
}

/// The configurations in the documentation are valid, and its commands are those of the program.
#[test]
fn the_documentation_of_data_has_valid_configurations() {
    let page = include_str!("../../docs/data.md");
    let blocks = |fence: &str| -> Vec<&str> {
        page.split(fence).skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect()
    };
    let configurations = blocks("```toml\n");
    for text in &configurations {
        if let Err(message) = bagdot::train::Config::parse(text) {
            panic!("{message}\n{text}");
        }
    }
    assert_eq!(configurations.len(), 5);
    let folder = tempfile::tempdir().unwrap();
    let rows: String =
        (0..300).map(|k| format!("{},u{},{}\n", k % 50, k % 9, k * 7 % 3 % 2)).collect();
    for name in ["clicks.csv", "new.csv"] {
        std::fs::write(folder.path().join(name), format!("price,user,clicked\n{rows}")).unwrap();
    }
    let commands = blocks("```sh\n")[0].lines().map(|line| line.split(' ').skip(1).collect());
    for mut command in commands.collect::<Vec<Vec<&str>>>() {
        command.push("--quiet");
        succeed(folder.path(), &command);
    }
}
