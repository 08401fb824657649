//! Tests that no bytes of a file or an encoder make the readers panic, and that results are valid.

use std::io::Write;

use bagdot::data::{Batch, Encoder, LabelUse, Result, RowStream, Splits};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::sample::Index;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::samples::criteo_line;
use super::{bag, config, folder, gather, read_all, rich_encoder, rows, stdin};

/// Fits, loads and streams the bytes. Fails if one of these panics, gives invalid results, or
/// differs from the others.
pub fn survives(toml: &str, bytes: &[u8]) {
    let files = folder(&[("f", bytes)]);
    let config = config(&format!(
        "train = 'f'\nsplit = {{ by = 'hash', validation = 0, test = 0 }}\n{toml}"
    ));
    let Ok(encoder) = Encoder::fit(&config, files.path(), &mut |_, _| ()) else { return };
    encoder.check().unwrap();
    let stored: Encoder = serde_json::from_str(&serde_json::to_string(&encoder).unwrap()).unwrap();
    let streamed = stream(&encoder, bytes.to_vec());
    assert_eq!(streamed, stream(&stored, bytes.to_vec()));
    if let Ok(splits) = Splits::load(&config, &encoder, files.path(), &mut |_, _| ()) {
        let all = gather(&splits.train, &(0..splits.train.len() as u32).collect::<Vec<_>>());
        assert_eq!(streamed.unwrap(), [all]);
    }
}

/// Encodes a text and ignores errors.
pub fn encodes(encoder: &Encoder, text: Vec<u8>) {
    let _ = stream(encoder, text);
}

/// Encodes a text as one batch. Fails unless all values are finite and all ids within the tables.
fn stream(encoder: &Encoder, text: Vec<u8>) -> Result<Vec<Batch>, String> {
    let mut stream = RowStream::open(encoder, stdin(text), LabelUse::Required, None)
        .map_err(|error| error.to_string())?;
    let batches = read_all(&mut stream, usize::MAX).map_err(|error| error.to_string())?;
    for batch in &batches {
        assert_eq!(batch.dense.len(), batch.batch_size * encoder.num_dense());
        assert!(batch.dense.iter().all(|x| x.is_finite()));
        assert_eq!(batch.offsets.len(), encoder.features().len() * batch.batch_size + 1);
        assert!(
            batch.offsets.is_sorted()
                && batch.offsets.last() == Some(&(batch.indices.len() as i64))
        );
        for (f, feature) in encoder.features().iter().enumerate() {
            let ids = (0..batch.batch_size).flat_map(|sample| bag(batch, f, sample));
            assert!(ids.into_iter().all(|&id| (id as usize) < feature.num_embeddings));
        }
        let has_weights = encoder.features().iter().any(|feature| feature.interpolated);
        assert_eq!(batch.weights.len(), if has_weights { batch.indices.len() } else { 0 });
        assert!(batch.weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
    }
    Ok(batches)
}

/// Returns a strategy for plausible text with a few arbitrary bytes.
fn text(plausible: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        20 => prop::sample::select(plausible).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

/// Settings with columns of every kind.
pub const ANY_COLUMNS: &str = r#"
    label = "y"
    dense = [
        { column = "x", transform = ["signed_log1p", "zscore"], bins = 3 },
        { column = "x", transform = "quantile", knots = 4 }, { column = "c", count = true },
    ]
    categorical = [{ column = "c", separator = " ", unknown = "row" }, { column = "x", hash = 3 }]
"#;

const DELIMITED: &[&str] = &[
    "1,",
    "-7e3,",
    ",",
    "a b a",
    "0\n",
    ",1\n",
    "\r\n",
    "\"",
    "nan",
    "é",
    "3,u,0\n",
    "1e39,v,1\n",
    "2,w w,1\n",
    " ",
    "\t",
    "\"\"",
    "4, \"w\" ,0\n",
    "5,\"w\n\"\"\",1\n",
];
const CRITEO: &[&str] =
    &["\t", "\t\t\t\t\t\t\t\t\t\t\t\t\t", "1", "\n", "-2", "68fd1e64", "\r\n", "x", FULL_LINE];
/// A line of 40 fields.
const FULL_LINE: &str = concat!(
    "1\t-3",
    "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
    "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
    "a\n"
);
const CELLS: [&str; 5] = ["a", "b c", "\"d, \"", "\"\"", ""];
const JSON: &[&str] = &["", "0", "9", "-", "e9", "\"", ",", "null", "[]", "{}", "x"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_bytes_as_delimited(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(ANY_COLUMNS, &bytes);
        survives(ANY_COLUMNS, &[b"x,c,y\n", bytes.as_slice()].concat());
    }

    #[test]
    fn any_text_as_delimited(bytes in text(DELIMITED)) {
        for settings in ["", "trim = false\n", "max_field_bytes = 4\n"] {
            let text = [b"x,c,y\n1,a,0\n2,b,1\n", bytes.as_slice()].concat();
            survives(&format!("{settings}{ANY_COLUMNS}"), &text);
        }
    }

    #[test]
    fn blanks_between_fields_change_nothing(
        fields in prop::collection::vec((0..9u8, prop::sample::select(&CELLS[..]), 0..2u8), 2..20),
        blanks in prop::collection::vec(prop::sample::select(&["", " ", "\t", "  "][..]), 6..60),
    ) {
        let text = |blanks: &[&str]| {
            let mut blanks = blanks.iter().cycle();
            let mut field = |text: String| {
                format!("{}{text}{}", blanks.next().unwrap(), blanks.next().unwrap())
            };
            fields.iter().fold("x,c,y\n".to_owned(), |text, (x, c, y)| {
                let row = [x.to_string(), (*c).to_owned(), y.to_string()].map(&mut field);
                text + &row.join(",") + "\n"
            })
        };
        let encoder = rich_encoder();
        let without = stream(&encoder, text(&[""]).into());
        prop_assert_eq!(stream(&encoder, text(&blanks).into()), without);
    }

    #[test]
    fn any_bytes_as_packed(
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<Index>(), bit in 0..8u32,
    ) {
        let text = rows(20, |k| format!("{k},a,{}", k % 2));
        let mut gz = GzEncoder::new(vec![], Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        let zstd = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        let magics = [&[0x1f, 0x8b][..], &[0x28, 0xb5, 0x2f, 0xfd]];
        for (packed, magic) in [gz.finish().unwrap(), zstd].into_iter().zip(magics) {
            survives(ANY_COLUMNS, &[magic, bytes.as_slice()].concat());
            survives(ANY_COLUMNS, &[packed.as_slice(), bytes.as_slice()].concat());
            let at = at.index(packed.len());
            survives(ANY_COLUMNS, &packed[..at]);
            let mut packed = packed;
            packed[at] ^= 1 << bit;
            survives(ANY_COLUMNS, &packed);
        }
    }

    #[test]
    fn any_bytes_as_criteo(bytes in text(CRITEO)) {
        survives("format = 'criteo'", &bytes);
        let good = format!("{}\n{}\n", criteo_line(1), criteo_line(2));
        survives("format = 'criteo'", &[good.as_bytes(), &bytes].concat());
    }

    #[test]
    fn any_json_as_encoder(
        at in any::<Index>(), with in prop::sample::select(JSON), length in 0..4usize,
    ) {
        let json = serde_json::to_string(&rich_encoder()).unwrap();
        let at = at.index(json.len());
        let json = format!("{}{with}{}", &json[..at], json.get(at + length..).unwrap_or_default());
        if let Ok(encoder) = serde_json::from_str::<Encoder>(&json) {
            let _ = stream(&encoder, b"x,c,y\n1,2 3,0\n0,2 2,1\n3,,1\n".to_vec());
        }
    }
}
