//! From text to encoded rows, on one core: Criteo rows whose categories are hashed, or looked up in
//! dictionaries; and learning those. Throughput is that of the text.
#![allow(clippy::unwrap_used)]

// What runs on devices is not called here.
#[allow(unused_imports, unused_macros)]
mod common;

use std::io::Cursor;
use std::sync::Arc;

use bagdot::data::{
    Batch, DataConfig, Encoder, IdDistribution, LabelUse, RowStream, Source, Synthetic,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

criterion_group! { name = benches; config = common::settings(); targets = criteo }
criterion_main!(benches);

const BATCH_SIZE: usize = 2048;

fn criteo(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let rows = Synthetic { rows: 50_000, values: 100_000, ids: IdDistribution::Zipf, seed: 1 };
    let mut text = vec![];
    rows.write(&mut text).unwrap();
    std::fs::write(folder.path().join("day_0"), &text).unwrap();
    let text: Arc<[u8]> = text.into();
    let config = |encoding: &str| -> DataConfig {
        toml::from_str(&format!("format = 'criteo'\ntrain = 'day_0'\n[criteo]\n{encoding}"))
            .unwrap()
    };
    let fit = |config: &DataConfig| Encoder::fit(config, folder.path(), &mut |_, _| ()).unwrap();

    let mut group = criterion.benchmark_group("readers");
    group.throughput(Throughput::BytesDecimal(text.len() as u64));
    for (name, encoding) in [("hashed", "hash = 100_000"), ("dictionaries", "min_count = 4")] {
        let encoder = fit(&config(encoding));
        let mut batch = Batch::default();
        group.bench_function(BenchmarkId::new("criteo", name), |bencher| {
            bencher.iter(|| {
                let reader = Box::new(Cursor::new(text.clone()));
                let source = Source::Reader { name: "text".into(), reader };
                let mut stream =
                    RowStream::open(&encoder, [source], LabelUse::Required, None).unwrap();
                while stream.next_batch(BATCH_SIZE, &mut batch).unwrap() {}
            });
        });
    }
    let config = config("min_count = 4");
    group.bench_function(BenchmarkId::new("criteo", "learning dictionaries"), |bencher| {
        bencher.iter(|| fit(&config))
    });
}
