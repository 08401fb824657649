//! Tests of lists and patterns of columns, and of settings that say how all columns are written.

use std::fs;

use bagdot::data::{Encoder, LabelUse, RowStream, Source};

use super::{config, fit, folder, gather, message, read_all};

/// Returns the names of the dense and of the sparse features.
fn features(toml: &str, header: &str) -> Result<(String, String), String> {
    let count = header.split(',').count();
    let label = header.split(',').position(|name| name == "y").unwrap();
    let row = |k: usize| {
        let field = |column| if column == label { k % 2 } else { (k + column) % 3 };
        (0..count).map(|column| field(column).to_string()).collect::<Vec<_>>().join(",") + "\n"
    };
    let text = format!("{header}\n{}", (0..64).map(row).collect::<String>());
    let folder = folder(&[("f.csv", text.as_bytes()), ("s.csv", b"k,side\n0,p\n1,q\n")]);
    let config = config(&format!("train = 'f.csv'\nlabel = 'y'\n{toml}"));
    let encoder = Encoder::fit(&config, folder.path(), &mut |_, _| ());
    let encoder = encoder.map_err(|error| error.to_string())?;
    let stored: Encoder = serde_json::from_str(&serde_json::to_string(&encoder).unwrap()).unwrap();
    stored.check().unwrap();
    let sparse: Vec<&str> = encoder.features().iter().map(|f| f.name.as_str()).collect();
    Ok((encoder.dense_names().join(" "), sparse.join(" ")))
}

#[test]
fn lists_and_patterns_are_the_columns_of_the_file() {
    let header = "x1,x2,g_a,g_b,id,y,y2";
    for (toml, dense, sparse) in [
        ("dense = [{ columns = ['x2', 'x1'] }]", "x2 x1", ""),
        ("dense = [{ columns = 'x*' }]", "x1 x2", ""),
        ("dense = [{ columns = ['x2', 'x*'] }]", "x2 x1", ""),
        ("dense = [{ columns = ['*'] }]", "x1 x2 g_a g_b id y2", ""),
        ("dense = [{ columns = ['y*', 'x1'] }]", "y2 x1", ""),
        (
            "dense = [{ columns = '*' }]\ncategorical = [{ columns = 'g_*' }, { column = 'id' }]",
            "x1 x2 y2",
            "g_a g_b id",
        ),
        (
            "dense = [{ columns = 'g*' }]\ncategorical = [{ columns = ['g_*', 'id'] }]",
            "g_a g_b",
            "g_a g_b id",
        ),
        (
            "dense = [{ columns = ['*'] }]\nsplit = { by = 'time', column = 'id' }",
            "x1 x2 g_a g_b y2",
            "",
        ),
        (
            "dense = [{ columns = ['*'] }]\njoin = [{ path = 's.csv', on = { left = 'id', right = \
             'k' } }]\ncategorical = [{ columns = 's*' }]",
            "x1 x2 g_a g_b y2",
            "side",
        ),
        (
            "dense = [{ columns = '*' }]\nderive = [{ name = 'd', from = 'x1' }]\ncategorical = \
             [{ column = 'd' }]",
            "x2 g_a g_b id y2",
            "d",
        ),
    ] {
        let expected = (dense.to_owned(), sparse.to_owned());
        assert_eq!(features(toml, header).unwrap(), expected, "{toml}");
    }
    let error = |toml: &str| features(toml, header).unwrap_err();
    assert_eq!(
        error("dense = [{ column = 'x1' }, { columns = ['z*'] }]"),
        "data.dense[1].columns: no column matches \"z*\"; the columns are x1, x2, g_a, g_b, id, \
         y, y2"
    );
    assert!(
        error("dense = [{ columns = ['*', 'x*', 'g*', 'id', 'y2'] }]")
            .contains("is left for \"*\"")
    );
    assert!(error("dense = [{ columns = ['x1', 'z'] }]").contains("there is no column \"z\""));
}

#[test]
fn the_settings_of_a_pattern_are_those_of_its_columns() {
    let text = "a1,a2,y\n".to_owned()
        + &(0..64).map(|k| format!("{},{},{}\n", k % 4, k % 5, k % 2)).collect::<String>();
    let folder = folder(&[("f.csv", text.as_bytes())]);
    let load = |columns: &str| {
        let config = config(&format!("train = 'f.csv'\nlabel = 'y'\n{columns}"));
        fit(&config, folder.path()).unwrap()
    };
    let settings = "transform = 'quantile', bins = 3, missing = 2";
    let (by_pattern, by_name) = (
        load(&format!("dense = [{{ columns = 'a*', {settings} }}]")),
        load(&format!(
            "dense = [{{ column = 'a1', {settings} }}, {{ column = 'a2', {settings} }}]"
        )),
    );
    assert_eq!(by_pattern, by_name);
}

#[test]
fn lists_of_columns_that_contradict_themselves_are_refused() {
    for (toml, expected) in [
        ("dense = [{}]", "data.dense[0]: name a column, or a list of columns"),
        ("categorical = [{ min_count = 3 }]", "data.categorical[0]: name a column"),
        ("dense = [{ column = 'x', columns = ['x'] }]", "data.dense[0]: column and columns"),
        ("dense = [{ columns = ['x', ''] }]", "data.dense[0]: columns: \"\" is no column"),
        ("dense = [{ columns = ['x', 'y'] }]", "data.dense[0].column: column \"y\" is the label"),
        (
            "dense = [{ columns = '*' }]\ncategorical = [{ columns = '*' }]",
            "data.categorical: \"*\" stands twice",
        ),
        ("dense = [{ columns = ['*', '**'] }]", "data.categorical: \"*\" stands twice"),
        ("header = ['x', 'x']\ndense = [{ column = 'x' }]", "data.header: \"x\" stands twice"),
        ("header = ['x', '']\ndense = [{ column = 'x' }]", "data.header: \"\" is no name"),
        ("decimal = ';'\ndense = [{ column = 'x' }]", "data.decimal: ';': must be"),
        ("thousands = '.'\ndense = [{ column = 'x' }]", "data.thousands: '.' is the decimal"),
        ("thousands = '5'\ndense = [{ column = 'x' }]", "data.thousands: '5': must be"),
    ] {
        let message = message(&format!("label = 'y'\n{toml}"), "x,y\n1,0\n");
        assert!(message.starts_with(expected), "{toml}: {message}");
    }
}

/// Compares a file and its settings with a plain file of the same rows.
fn assert_same(toml: &str, text: &str, plain_text: &str) {
    let columns = "dense = [{ columns = ['x', 'b'], transform = 'none', missing = 'zero' }]\n\
        categorical = [{ columns = ['c', 'b'] }]\n\
        derive = [{ name = 'b', from = 'x', bucket = 0.5 }]\nlabel = 'y > 0.5'";
    let folder = folder(&[("f.csv", text.as_bytes()), ("g.csv", plain_text.as_bytes())]);
    let load = |file: &str, toml: &str| {
        let config = config(&format!("train = '{file}'\n{toml}\n{columns}"));
        let (_, splits) = fit(&config, folder.path()).unwrap_or_else(|error| panic!("{error}"));
        // The examples of unknown values are texts, which differ.
        [splits.train, splits.validation, splits.test].map(|rows| {
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            gather(&rows, &all)
        })
    };
    assert_eq!(load("f.csv", toml), load("g.csv", ""), "{toml}");
}

#[test]
fn files_are_read_as_they_are_written() {
    let rows = |row: &dyn Fn(usize) -> String| (0..64).map(row).collect::<String>();
    let plain = rows(&|k| {
        let x = if k % 5 == 0 { String::new() } else { format!("{}.5", 1000 * k) };
        let c = if k % 7 == 0 { String::new() } else { format!("c{}", k % 3) };
        format!("{x},{c},0.{}\n", 1 + 5 * (k % 2))
    });
    let plain = format!("x,c,y\n{plain}");
    let marked = rows(&|k| {
        let x = if k % 5 == 0 { "NA".into() } else { format!("{}.5", 1000 * k) };
        let c = if k % 7 == 0 { "?".into() } else { format!("c{}", k % 3) };
        format!("{x},{c},0.{}\n", 1 + 5 * (k % 2))
    });
    assert_same("missing_values = ['NA', '?']", &format!("x,c,y\n{marked}"), &plain);
    let headless = plain.split_once('\n').unwrap().1;
    assert_same("header = ['x', 'c', 'y']", headless, &plain);
    let german = rows(&|k| {
        let x = match (k % 5, k) {
            (0, _) => String::new(),
            (_, k) => format!("{k}.000,5"),
        };
        let c = if k % 7 == 0 { String::new() } else { format!("c{}", k % 3) };
        format!("{x};{c};0,{}\n", 1 + 5 * (k % 2))
    });
    let settings = "delimiter = ';'\ndecimal = ','\nthousands = '.'";
    assert_same(settings, &format!("x;c;y\n{german}"), &plain);
    // Without these settings the texts are no numbers, or rows are missing.
    let columns = "label = 'y > 0.5'\ndense = [{ column = 'x' }]";
    assert!(message(columns, &format!("x,c,y\n{marked}")).contains("holds \"NA\", not a finite"));
    assert!(message(columns, headless).contains("there is no column"));
    let german = message(&format!("delimiter = ';'\n{columns}"), &format!("x;c;y\n{german}"));
    assert!(german.contains("\"0,1\", but the condition"), "{german}");
}

#[test]
fn folders_and_patterns_are_files_whose_columns_may_be_in_any_order() {
    let folder = folder(&[("m.toml", b"")]);
    fs::create_dir(folder.path().join("days")).unwrap();
    let rows = |k: usize| (0..64).map(move |i| (i + k, i % 2));
    let first: String = rows(0).map(|(x, y)| format!("{x},{y}\n")).collect();
    let second: String = rows(7).map(|(x, y)| format!("{y},{x}\n")).collect();
    fs::write(folder.path().join("days/b.csv"), format!("y,x\n{second}")).unwrap();
    fs::write(folder.path().join("days/a.csv"), format!("x,y\n{first}")).unwrap();
    let load = |train: &str| {
        let mut config = config(&format!(
            "train = {train}\nlabel = 'y'\ndense = [{{ column = 'x', transform = 'none' }}]"
        ));
        config.find_files(folder.path()).map_err(|error| error.to_string())?;
        Ok::<_, String>(fit(&config, folder.path()).unwrap())
    };
    let (encoder, splits) = load("['days/a.csv', 'days/b.csv']").unwrap();
    assert_eq!(load("'days'").unwrap(), (encoder.clone(), splits.clone()));
    assert_eq!(load("'days/*.csv'").unwrap(), (encoder.clone(), splits.clone()));
    assert_eq!(splits.train.len() + splits.validation.len() + splits.test.len(), 128);
    assert!(load("'days/*.tsv'").unwrap_err().ends_with("*.tsv: this stands for no file"));
    let sources = ["days/b.csv", "days/a.csv"].map(|path| Source::from(folder.path().join(path)));
    let mut stream = RowStream::open(&encoder, sources, LabelUse::Required, None).unwrap();
    let all = read_all(&mut stream, 200).unwrap().remove(0);
    assert_eq!((all.dense[0], all.dense[64]), (7.0, 0.0));
}

#[test]
fn parts_of_dates_are_columns() {
    let text = "x,c,y\n".to_owned()
        + &(0..64)
            .map(|k| format!("{},2024-01-{:02}T{:02}:00,{}\n", k, 1 + k % 31, k % 24, k % 2))
            .collect::<String>();
    let folder = folder(&[("f.csv", text.as_bytes())]);
    let toml = "train = 'f.csv'\nlabel = 'y'\nderive = [{ name = 's', from = 'c', date = \
                'seconds' }, { name = 'w', from = 'c', date = 'weekday' }, { name = 'h', from = \
                'c', date = 'hour', bucket = 6 }]\ndense = [{ column = 's', transform = 'none' \
                }]\ncategorical = [{ column = 'w' }, { column = 'h' }]\nsplit = { by = 'time', \
                column = 's', validation = 0.1, test = 0.2 }";
    let (encoder, splits) = fit(&config(toml), folder.path()).unwrap();
    // Seven days, four buckets of the hour, and row 0 of each.
    let sizes: Vec<_> = encoder.features().iter().map(|f| f.num_embeddings).collect();
    assert_eq!(sizes, [8, 5]);
    let seconds = |rows: &bagdot::data::Dataset| {
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        gather(rows, &all).dense
    };
    let first = 1_704_067_200.0;
    let (train, test) = (seconds(&splits.train), seconds(&splits.test));
    assert!(train.iter().chain(&test).all(|&x| (first..first + 31.0 * 86_400.0).contains(&x)));
    let latest = train.iter().copied().fold(f32::MIN, f32::max);
    assert!(test.iter().all(|&x| x >= latest), "{latest}");
    let wrong = message(&toml.replace("train = 'f.csv'\n", ""), &text.replace("-31T", "-32T"));
    assert!(wrong.starts_with("f.csv:32: column \"c\" holds \"2024-01-32T06:00\", in"), "{wrong}");
    let missing = text.replace("2024-01-02T01:00", "");
    let message = message(
        &toml.replace("train = 'f.csv'\n", "").replace("'time', column = 's'", "'hash'"),
        &missing,
    );
    assert_eq!(message, "no error");
}
