//! The readers: from text to encoded rows, on one core, with Criteo rows whose categories are
//! hashed or looked up in dictionaries; and the learning of dictionaries. Throughput is in rows.
#![allow(clippy::unwrap_used)]

// The parts that run on devices are not called here.
#[allow(unused_imports, unused_macros)]
mod common;

use std::cell::LazyCell;
use std::io::Cursor;
use std::sync::Arc;

use bagdot::data::{
    Batch, DataConfig, Encoder, IdDistribution, LabelUse, RowStream, Source, Synthetic,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

criterion_group! { name = benches; config = common::settings(); targets = criteo }
criterion_main!(benches);

const BATCH_SIZE: usize = 2048;

/// The number of rows of the text.
const ROWS: u64 = 50_000;

const HASHED: &str = "hash = 100_000";
const DICTIONARIES: &str = "min_count = 4";

/// The text in memory, and in a file of a folder.
struct Input {
    text: Arc<[u8]>,
    folder: TempDir,
}

impl Input {
    fn new() -> Self {
        let rows = Synthetic { rows: ROWS, values: 100_000, ids: IdDistribution::Zipf, seed: 1 };
        let mut text = vec![];
        rows.write(&mut text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("day_0"), &text).unwrap();
        Self { text: text.into(), folder }
    }

    /// Learns an encoder whose categories are encoded in this way.
    fn fit(&self, encoding: &str) -> Encoder {
        let config = format!("format = 'criteo'\ntrain = 'day_0'\n[criteo]\n{encoding}");
        let config: DataConfig = toml::from_str(&config).unwrap();
        Encoder::fit(&config, self.folder.path(), &mut |_, _| ()).unwrap()
    }
}

fn criteo(criterion: &mut Criterion) {
    let input = LazyCell::new(Input::new);
    let mut group = criterion.benchmark_group("readers");
    group.throughput(Throughput::Elements(ROWS));
    for (name, encoding) in [("hashed", HASHED), ("dictionaries", DICTIONARIES)] {
        let encoder = LazyCell::new(|| input.fit(encoding));
        let mut batch = Batch::default();
        group.bench_function(BenchmarkId::new("criteo", name), |bencher| {
            let (text, encoder) = (&input.text, &*encoder);
            bencher.iter(|| {
                let reader = Box::new(Cursor::new(text.clone()));
                let source = Source::Reader { name: "text".into(), reader };
                let mut stream =
                    RowStream::open(encoder, [source], LabelUse::Required, None).unwrap();
                while stream.next_batch(BATCH_SIZE, &mut batch).unwrap() {}
            });
        });
    }
    group.bench_function(BenchmarkId::new("criteo", "learning dictionaries"), |bencher| {
        let input = &*input;
        bencher.iter(|| input.fit(DICTIONARIES))
    });
}
