//! Tests of the warnings about values that training has not seen, and about keys that match
//! nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const CONFIG: &str = "
[data]
train = 't.csv'
label = 'y'
categorical = [{ column = 'shop' }, { column = 'g' }]
join = [{ path = 's.csv', on = 'shop' }]
[model]
bottom_mlp = [4]
top_mlp = [4]
[train]
epochs = 1
";

/// Runs a command, and returns whether it succeeded, its standard output and its standard error.
/// The warning that a model is no better than a constant is left out, since the models here learn
/// nothing.
fn run(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bagdot"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said: String = text(output.stderr)
        .lines()
        .filter(|line| !line.contains("no better"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    (output.status.success(), text(output.stdout), said)
}

/// Returns rows of two shops, whose names have this end.
fn rows(end: &str) -> String {
    "shop,y\n".to_owned()
        + &(0..200).map(|k| format!("{}{end},{}\n", k % 2, k % 4 / 2)).collect::<String>()
}

#[test]
fn unknown_values_are_reported_however_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, text) in [
        ("t.csv", rows("")),
        ("f.csv", rows(".0")),
        ("s.csv", "shop,g\n0,a\n1,b\n".into()),
        ("c.toml", CONFIG.into()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let (ok, _, said) = run(folder, &["train", "c.toml", "-q", "--out", "m"]);
    assert!(ok && said.is_empty(), "{said}");
    let (ok, _, said) = run(folder, &["eval", "m", "-q"]);
    assert!(ok && said.is_empty(), "{said}");
    let column = "bagdot: warning: column \"shop\": 200 of 200 values (100 %) were not among those \
        of training (the first one: \"0.0\")\n";
    let join = "bagdot: warning: join s.csv: 200 of 200 keys \"shop\" (100 %) have no row there \
        (the first one: \"0.0\")\n";
    for arguments in
        [["eval", "m", "--data", "f.csv", "-q"].as_slice(), &["predict", "m", "f.csv", "-q"]]
    {
        let (ok, _, said) = run(folder, arguments);
        assert!(ok && said == format!("{column}{join}"), "{said}");
    }
    let (_, json, _) = run(folder, &["eval", "m", "--data", "f.csv", "--json", "-q"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["auc"].is_f64() && json["samples"] == 200, "{json}");
    let (column, join) = (&json["unknown"]["columns"][0], &json["unknown"]["joins"][0]);
    assert_eq!(
        (&column["column"], &column["unknown"], &column["first"]),
        (&"shop".into(), &200.into(), &"0.0".into())
    );
    assert_eq!(
        (&join["side_table"], &join["values"], &join["unknown"]),
        (&"s.csv".into(), &200.into(), &200.into())
    );

    // Training reports it about its own rows.
    fs::write(folder.join("s.csv"), "shop,g\n0.0,a\n1.0,b\n").unwrap();
    let (ok, _, said) = run(folder, &["train", "c.toml", "-q", "--out", "n"]);
    assert!(ok && said.lines().count() == 3, "{said}");
    assert!(
        said.starts_with("bagdot: warning: training rows: join s.csv: ")
            && said.contains("validation rows: join s.csv: "),
        "{said}"
    );
    // With a limit, it is an error.
    fs::write(folder.join("c.toml"), CONFIG.replace("label", "max_unknown = 0.9\nlabel")).unwrap();
    let (ok, _, said) = run(folder, &["train", "c.toml", "-q", "--out", "o"]);
    assert!(
        !ok && said.contains("join s.csv: ") && said.contains("more than data.max_unknown = 0.9"),
        "{said}"
    );
}
