//! An embedding bag by itself: ids in, pooled vectors out, on slices of one's own.
//!
//! `cargo run --example 01_embedding_bag`

use bagdot::Cpu;
use bagdot::ops::embedding_bag::Forward;
use bagdot::ops::{Bags, Feature, MatrixMut, Pooling, Table, TableBatch};

fn main() -> bagdot::Result<()> {
    let cpu = Cpu::new()?;
    // Two tables of different widths. The second is looked up by two features; its id 0 is padding.
    let tables = vec![
        Table { num_embeddings: 4, embedding_dim: 2 },
        Table { num_embeddings: 3, embedding_dim: 1 },
    ];
    let features = vec![
        Feature { table: 0, pooling: Pooling::Sum, padding_idx: None },
        Feature { table: 1, pooling: Pooling::Mean, padding_idx: Some(0) },
        Feature { table: 1, pooling: Pooling::Max, padding_idx: None },
    ];
    let tables = TableBatch::new(tables, features)?;

    // The weights of all tables, one table after another, row by row.
    let weights = [
        [0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].as_slice(), // 4 rows of 2
        &[10.0, 20.0, 30.0],                                     // 3 rows of 1
    ]
    .concat();

    // Two samples, feature after feature: [1, 3] and [2], [0, 1, 2] and [], [1, 2] and [0].
    let ids = [1_u32, 3, 2, 0, 1, 2, 1, 2, 0];
    let offsets = [0_i64, 2, 3, 6, 6, 8, 9];
    let bags = Bags::new(2, &ids, &offsets);

    let width = tables.width();
    let mut pooled = vec![0.0; 2 * width];
    let output = MatrixMut::contiguous(&mut pooled, 2, width);
    Forward::new(&tables, &weights, bags, output).run(&cpu)?;
    for (sample, row) in pooled.chunks(width).enumerate() {
        println!("sample {sample}: sum {:?}, mean {}, max {}", &row[..2], row[2], row[3]);
    }
    assert_eq!(pooled, [8.0, 10.0, 25.0, 30.0, 4.0, 5.0, 0.0, 10.0]);

    // A bad id is named, and nothing is lost.
    let bad = Bags::new(2, &[1_u32, 4, 2, 0, 1, 2, 1, 2, 0], &offsets);
    let output = MatrixMut::contiguous(&mut pooled, 2, width);
    match Forward::new(&tables, &weights, bad, output).run(&cpu) {
        Err(error) => println!("{error}"),
        Ok(()) => unreachable!("table 0 has no row 4"),
    }
    Ok(())
}
