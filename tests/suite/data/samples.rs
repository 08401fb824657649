//! Tests of the sample data and of Criteo lines against an independent computation.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bagdot::data::{Encoder, LabelUse, Part, RowStream, Source, Splits, hash64};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::{bag, config, fit, folder, gather, is_train, read_all, stdin};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

const CLOTHING: &str = r#"
    train = "clothing/reviews.csv.gz"
    label = "recommended"
    dense = [
        { column = "age", transform = "zscore" },
        { column = "positive_feedback", transform = ["log1p", "zscore"] },
    ]
    categorical = [
        { column = "clothing_id", min_count = 2 }, { column = "division", min_count = 2 },
        { column = "department", min_count = 2 }, { column = "class", min_count = 2 },
        { column = "words", separator = " ", min_count = 5, pooling = "mean" },
    ]
"#;

/// Reads the reviews for the reference. The file has no quotes, so each row is a line of eight
/// fields.
fn reviews() -> Vec<Vec<String>> {
    let mut text = String::new();
    let file = fs::File::open(data().join("clothing/reviews.csv.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// Returns the table row of each value that occurs at least `min_count` times in training. Rows
/// count from 1, in order of first appearance.
fn reference_rows<'a>(
    values: impl Iterator<Item = (usize, &'a str)> + Clone,
    min_count: u32,
) -> HashMap<&'a str, u32> {
    let mut counts = HashMap::new();
    let train = values.filter(|&(row, value)| is_train(row) && !value.is_empty());
    train.clone().for_each(|(_, value)| *counts.entry(value).or_insert(0) += 1);
    let mut rows = HashMap::new();
    for (_, value) in train.filter(|(_, value)| counts[value] >= min_count) {
        let next = rows.len() as u32 + 1;
        rows.entry(value).or_insert(next);
    }
    rows
}

#[test]
fn clothing_is_encoded_as_the_reference_says() {
    let mut progress = vec![];
    let config = config(CLOTHING);
    let encoder =
        Encoder::fit(&config, &data(), &mut |read, total| progress.push((read, total))).unwrap();
    let size = fs::metadata(data().join("clothing/reviews.csv.gz")).unwrap().len();
    assert!(
        progress.len() > 2 && progress.is_sorted() && *progress.last().unwrap() == (size, size),
        "{progress:?}"
    );
    let splits = Splits::load(&config, &encoder, &data(), &mut |_, _| ()).unwrap();
    assert_eq!(
        (splits.train.len(), splits.validation.len(), splits.test.len()),
        (17_614, 1_468, 4_404)
    );
    let positives =
        [&splits.train, &splits.validation, &splits.test].map(|d| d.labels().iter().sum::<f32>());
    assert_eq!(positives, [14_452.0, 1_214.0, 3_648.0]);
    let sizes: Vec<usize> =
        encoder.features().iter().map(|feature| feature.num_embeddings).collect();
    assert_eq!(sizes, [615, 4, 7, 20, 4_322]);

    let reviews = reviews();
    assert_eq!(reviews.len(), 23_486);
    let mean_std = |values: Vec<f64>| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (
            mean,
            (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt(),
        )
    };
    let train =
        || reviews.iter().enumerate().filter(|&(row, _)| is_train(row)).map(|(_, review)| review);
    let number = |text: &String| text.parse::<f64>().unwrap();
    let age = mean_std(train().map(|review| number(&review[1])).collect());
    let feedback = mean_std(train().map(|review| (1.0 + number(&review[2])).ln()).collect());
    let single: Vec<_> = [0, 3, 4, 5]
        .map(|field| {
            reference_rows(
                reviews.iter().enumerate().map(move |(row, review)| (row, review[field].as_str())),
                2,
            )
        })
        .into();
    let words = reference_rows(
        reviews
            .iter()
            .enumerate()
            .flat_map(|(row, review)| review[6].split(' ').map(move |word| (row, word))),
        5,
    );

    let all: Vec<u32> = (0..splits.train.len() as u32).collect();
    let batch = gather(&splits.train, &all);
    for (sample, review) in train().enumerate() {
        let expected = [
            (number(&review[1]) - age.0) / age.1,
            ((1.0 + number(&review[2])).ln() - feedback.0) / feedback.1,
        ];
        for (got, expected) in batch.dense[2 * sample..2 * sample + 2].iter().zip(expected) {
            assert!(
                (f64::from(*got) - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                "row {sample}: {got} {expected}"
            );
        }
        for (feature, field) in [0, 3, 4, 5].into_iter().enumerate() {
            let expected = single[feature].get(review[field].as_str()).copied().unwrap_or(0);
            assert_eq!(bag(&batch, feature, sample), [expected], "row {sample}, field {field}");
        }
        let expected: Vec<u32> =
            review[6].split(' ').filter_map(|word| words.get(word).copied()).collect();
        assert_eq!(bag(&batch, 4, sample), expected, "words of row {sample}");
        assert_eq!(batch.labels[sample], review[7].parse::<f32>().unwrap());
    }

    // A stored encoder streams the same rows, part by part.
    let stored: Encoder = serde_json::from_str(&serde_json::to_string(&encoder).unwrap()).unwrap();
    assert_eq!(stored, encoder);
    for (part, dataset) in [
        (Part::Train, &splits.train),
        (Part::Validation, &splits.validation),
        (Part::Test, &splits.test),
    ] {
        let sources = config.files(part, &data()).into_iter().map(Source::from);
        let mut stream = RowStream::open(&stored, sources, LabelUse::Required, Some(part)).unwrap();
        let mut start = 0;
        for batch in read_all(&mut stream, 1000).unwrap() {
            let rows: Vec<u32> = (start..start + batch.batch_size as u32).collect();
            assert_eq!(batch, gather(dataset, &rows), "{part} from row {start}");
            start += batch.batch_size as u32;
        }
        assert_eq!((start as usize, stream.bytes_read()), (dataset.len(), (size, size)));
    }
}

const RATINGS: &str = "\
userId,movieId,rating,timestamp
7,1,4.0,964982703
7,2,3.5,964981247
8,1,5.0,964982224
9,3,0.5,964983815
9,1,4.5,964982931
9,4,4.0,964982931
";

/// The side table, with a comma within quotes, a film without a year, and one without genres. Film
/// 4 is missing.
const MOVIES: &str = "\
movieId,title,genres
1,\"Postman, The (1997)\",Comedy|Drama
2,Jumanji (1995),(no genres listed)
3,A film without a year,Drama
";

const SETTINGS: &str = r#"
    train = "ratings.csv"
    label = "rating >= 4"
    split = { by = "hash", validation = 0.0, test = 0.0 }
    join = [{ path = "movies.csv", on = "movieId" }]
    derive = [
        { name = "year", from = "title", pattern = '\((\d{4})\)\s*$' },
        { name = "decade", from = "year", bucket = 10 },
        { name = "taste", from = ["userId", "decade"] },
    ]
    dense = [
        { column = "movieId", count = true, transform = "log1p" },
        { column = "year", transform = "none", missing = 1990, bins = 2 },
    ]
    categorical = [
        { column = "userId" }, { column = "movieId" }, { column = "decade" },
        { column = "genres", separator = "|" }, { column = "taste" },
    ]
"#;

#[test]
fn movies_are_joined_derived_and_counted() {
    let settings = config(SETTINGS);
    assert_eq!(
        config(&toml::to_string(&settings).unwrap()),
        settings,
        "settings survive being written"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ratings.csv"), RATINGS).unwrap();
    std::fs::write(folder.path().join("movies.csv"), MOVIES).unwrap();
    let (encoder, splits) = fit(&settings, folder.path()).unwrap();
    let sizes: Vec<_> =
        encoder.features().iter().map(|f| (f.name.as_str(), f.num_embeddings)).collect();
    // A table has one row more than values. The years are 1997 (three times) and 1995.
    let expected = [
        ("userId", 4),
        ("movieId", 5),
        ("decade", 2),
        ("genres", 4),
        ("taste", 5),
        ("year.bins", 3),
    ];
    assert_eq!(sizes, expected);
    assert_eq!(splits.train.labels(), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    let batch = gather(&splits.train, &[0, 1, 2, 3, 4, 5]);
    let count = |n: f64| n.ln_1p() as f32;
    let dense = [3.0, 1.0, 3.0, 1.0, 3.0, 1.0]
        .map(count)
        .into_iter()
        .zip([1997.0, 1995.0, 1997.0, 1990.0, 1997.0, 1990.0]);
    assert_eq!(batch.dense, dense.flat_map(|(count, year)| [count, year]).collect::<Vec<f32>>());
    let of =
        |feature| (0..6).map(|sample| bag(&batch, feature, sample).to_vec()).collect::<Vec<_>>();
    assert_eq!(of(0).concat(), [1, 1, 2, 3, 3, 3], "users");
    assert_eq!(of(1).concat(), [1, 2, 1, 3, 1, 4], "movies");
    assert_eq!(
        of(2).concat(),
        [1, 1, 1, 0, 1, 0],
        "both years are of the nineties, two are missing"
    );
    assert_eq!(of(3), [vec![1, 2], vec![3], vec![1, 2], vec![2], vec![1, 2], vec![]], "genres");
    assert_eq!(of(4).concat(), [1, 1, 2, 3, 4, 3], "a user and a decade, be it a missing one");
    assert_eq!(
        of(5).iter().map(|row| row[0] == 0).collect::<Vec<_>>(),
        [false, false, false, true, false, true]
    );

    // The encoder holds the side table, so it encodes ratings without the file, with columns in any
    // order, and without labels.
    let text = "timestamp,movieId,userId\n0,1,7\n0,1,nobody\n0,no film,7\n";
    let mut stream = RowStream::open(&encoder, stdin(text), LabelUse::Optional, None).unwrap();
    let raw = read_all(&mut stream, 10).unwrap().remove(0);
    assert_eq!(raw.dense[..2], batch.dense[..2]);
    assert_eq!(bag(&raw, 3, 0), bag(&batch, 3, 0));
    assert!(raw.labels.iter().all(|label| label.is_nan()));
    assert_eq!((bag(&raw, 0, 1), bag(&raw, 1, 2)), ([0].as_slice(), [0].as_slice()));
    assert_eq!([bag(&raw, 2, 2), bag(&raw, 3, 2), bag(&raw, 5, 2)], [[0].as_slice(), &[], &[0]]);
    assert_eq!(raw.dense[4], 0.0, "an unknown film has been counted 0 times");
}

pub(crate) fn criteo_line(k: usize) -> String {
    let integers = (0..13).map(|i| {
        if (k + i).is_multiple_of(5) { String::new() } else { ((k * (i + 1)) % 97).to_string() }
    });
    let categories = (0..26).map(|i| {
        if (k + i).is_multiple_of(7) { String::new() } else { format!("{:08x}", (k * k) % (i + 2)) }
    });
    let mut fields: Vec<String> =
        std::iter::once(format!("{}", k % 3 % 2)).chain(integers).chain(categories).collect();
    if k % 5 == 1 {
        fields[2] = "-3".into();
    }
    fields.join("\t")
}

#[test]
fn criteo_needs_no_columns() {
    let lines: Vec<String> = (0..2000).map(criteo_line).collect();
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(format!("\u{feff}{}\n", lines[..1000].join("\n")).as_bytes()).unwrap();
    let mut gz = GzEncoder::new(gz.finish().unwrap(), Compression::fast());
    gz.write_all(lines[1000..1500].join("\n").as_bytes()).unwrap();
    // The first file has two gzip members, a byte order mark, and no `.gz` in its name. The second
    // one is plain.
    let folder = folder(&[
        ("day_0", &gz.finish().unwrap()),
        ("day_1", lines[1500..].join("\r\n").as_bytes()),
    ]);
    let config = config("format = 'criteo'\ntrain = ['day_0', 'day_1']\n[criteo]\nmin_count = 3");
    let (encoder, splits) = fit(&config, folder.path()).unwrap();
    assert_eq!((encoder.num_dense(), encoder.features().len()), (13, 26));
    assert_eq!(
        (encoder.dense_names()[1].as_str(), encoder.features()[25].name.as_str()),
        ("I2", "C26")
    );
    assert_eq!(splits.train.len() + splits.validation.len() + splits.test.len(), 2000);
    // The values of the first category are squares modulo 2: 0 and 1.
    assert_eq!(encoder.features()[0].num_embeddings, 3);
    let row = splits.train.len() - 1;
    let line = (0..2000).rev().find(|&k| is_train(k)).unwrap();
    let batch = gather(&splits.train, &[row as u32]);
    assert_eq!(batch.labels[0], (line % 3 % 2) as f32);
    let fields: Vec<&str> = lines[line].split('\t').collect();
    let column = |field: usize| {
        (0..2000)
            .filter(|&k| is_train(k))
            .map(move |k| criteo_line(k).split('\t').nth(field).unwrap().to_owned())
    };
    for (k, got) in batch.dense.iter().enumerate() {
        let signed_log =
            |text: &str| text.parse::<f64>().ok().map(|x| x.signum() * x.abs().ln_1p());
        let values: Vec<f64> = column(k + 1).filter_map(|text| signed_log(&text)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let std =
            (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        let expected = signed_log(fields[k + 1]).map_or(0.0, |x| (x - mean) / std);
        assert!((f64::from(*got) - expected).abs() < 1e-5, "I{}: {got} {expected}", k + 1);
    }
    // Criteo's test data have no labels.
    let unlabelled = lines[line].split_once('\t').unwrap().1;
    let mut stream =
        RowStream::open(&encoder, stdin(unlabelled), LabelUse::Optional, None).unwrap();
    let streamed = read_all(&mut stream, 10).unwrap().remove(0);
    assert_eq!((streamed.dense, streamed.indices), (batch.dense, batch.indices));
    assert!(streamed.labels[0].is_nan());
    let error = read_all(
        &mut RowStream::open(&encoder, stdin(unlabelled), LabelUse::Required, None).unwrap(),
        10,
    )
    .unwrap_err();
    assert!(
        error.to_string().starts_with("standard input:1: expected 40 fields, found 39"),
        "{error}"
    );

    let hashed = super::config("format = 'criteo'\ntrain = 'day_1'\n[criteo]\nhash = 50");
    let (encoder, splits) = fit(&hashed, folder.path()).unwrap();
    assert!(encoder.features().iter().all(|feature| feature.num_embeddings == 51));
    let first = (0..500).find(|&k| is_train(k)).unwrap();
    let value = criteo_line(1500 + first).split('\t').nth(39).unwrap().to_owned();
    let expected = if value.is_empty() { 0 } else { 1 + (hash64(value.as_bytes()) % 50) as u32 };
    assert_eq!(bag(&gather(&splits.train, &[0]), 25, 0), [expected]);
}
