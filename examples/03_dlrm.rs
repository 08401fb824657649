//! A DLRM that learns a rule from drawn clicks.
//!
//! `cargo run --release --example 03_dlrm`

use bagdot::nn::{BatchView, Dlrm, DlrmConfig, Optimizers};
use bagdot::ops::{Bags, Feature, Matrix, Optimizer, Pooling, Table};
use bagdot::{Cpu, Philox, Result};

const BATCH_SIZE: usize = 256;

/// A batch that owns its values: a view of it can be made at any time.
struct Clicks {
    dense: Vec<f32>,
    ids: Vec<i64>,
    labels: Vec<f32>,
}

impl Clicks {
    /// Draws clicks: a user clicks an item if both numbers are odd, or both even.
    fn draw(seed: u64) -> Self {
        let mut random = Philox::new(seed, 0);
        let ids: Vec<i64> =
            (0..2 * BATCH_SIZE).map(|_| i64::from(random.next_u32() % 50)).collect();
        let (users, items) = ids.split_at(BATCH_SIZE);
        let clicks = users.iter().zip(items).map(|(user, item)| f32::from((user + item) % 2 == 0));
        Self { dense: vec![1.0; BATCH_SIZE], labels: clicks.collect(), ids }
    }

    fn view(&self) -> BatchView<'_, Cpu, i64> {
        let dense = Matrix::contiguous(&self.dense, BATCH_SIZE, 1);
        BatchView::new(dense, Bags::of_length(BATCH_SIZE, &self.ids, 1)).labels(&self.labels)
    }
}

fn main() -> Result<()> {
    let feature = |table| Feature { table, pooling: Pooling::Sum, padding_idx: None };
    let config = DlrmConfig {
        num_dense: 1,
        bottom_mlp: vec![8],
        tables: vec![Table { num_embeddings: 50, embedding_dim: 8 }; 2],
        features: vec![feature(0), feature(1)],
        top_mlp: vec![16, 1],
        ..DlrmConfig::default()
    };
    let mut model = Dlrm::new(Cpu::new()?, config, 42)?;
    model.optimize_with(Optimizers::same(Optimizer::Adagrad { eps: 1e-8 }, 0.1))?;
    for step in 1..=300 {
        model.train_step(Clicks::draw(step).view())?;
        if step % 100 == 0 {
            println!("step {step}: loss {:.4}", model.last_loss()?);
        }
    }
    let (test, mut probabilities) = (Clicks::draw(0), [0.0; BATCH_SIZE]);
    model.predict(test.view(), &mut probabilities)?;
    let pairs = probabilities.iter().zip(&test.labels);
    let right = pairs.filter(|(p, y)| (**p > 0.5) == (**y > 0.5)).count();
    println!("{right} of {BATCH_SIZE} new clicks are predicted");
    assert!(right > BATCH_SIZE * 9 / 10);
    Ok(())
}
