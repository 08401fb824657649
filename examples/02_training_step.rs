//! A training step from single ops: lookup, interaction, loss, and back to the rows. The logit is
//! the dot product of a user's row and an item's row: a factorisation of the matrix of clicks.
//!
//! `cargo run --example 02_training_step`

use bagdot::Cpu;
use bagdot::ops::interaction::{self, Features, FeaturesMut};
use bagdot::ops::sparse_update::{self, Scratch};
use bagdot::ops::*;

const SAMPLES: usize = 4;
const DIM: usize = 8;
const WIDTH: usize = 2 * DIM;

fn main() -> bagdot::Result<()> {
    let cpu = Cpu::new()?;
    let table = Table { num_embeddings: 100, embedding_dim: DIM };
    let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
    let optimizer = Optimizer::RowwiseAdagrad { eps: 1e-8 };
    let rule = UpdateRule::new(optimizer, 0.05);
    let initial = |k: usize| ((k * 37 % 101) as f32 - 50.0) / 200.0;
    let mut rows: Vec<f32> = (0..tables.num_weights()).map(initial).collect();
    let mut state = OptimizerState::of_tables(&cpu, optimizer, &tables)?;
    let mut scratch = Scratch::new(&cpu)?;

    // Four users, then four items. Each bag has one id, so that the batch needs no offsets.
    let bags = Bags::of_length(SAMPLES, &[7_u32, 9, 7, 3, 50, 50, 51, 52], 1);
    let labels = [1.0_f32, 0.0, 0.0, 1.0];
    let (mut pooled, mut grad_pooled) = ([0.0; SAMPLES * WIDTH], [0.0; SAMPLES * WIDTH]);
    let (mut logits, mut grad_logits, mut mean) = ([0.0; SAMPLES], [0.0; SAMPLES], [0.0]);
    let mut workspace = vec![0; loss::Forward::workspace_len(&cpu, SAMPLES)];

    for step in 1..=100 {
        let output = MatrixMut::contiguous(&mut pooled, SAMPLES, WIDTH);
        embedding_bag::Forward::new(&tables, &rows, bags, output).run(&cpu)?;
        let block = Matrix::contiguous(&pooled, SAMPLES, WIDTH);
        let (dot, features) =
            (Interaction::default(), Features::Joined { block, has_dense: false });
        let output = MatrixMut::contiguous(&mut logits, SAMPLES, 1);
        interaction::Forward::new(dot, DIM, features, output).run(&cpu)?;
        loss::Forward::new(Loss::BceWithLogits, &logits, &labels, &mut mean, &mut workspace)
            .grad_logits(&mut grad_logits)
            .run(&cpu)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.4}", mean[0]);
        }
        let grad_output = Matrix::contiguous(&grad_logits, SAMPLES, 1);
        let block = MatrixMut::contiguous(&mut grad_pooled, SAMPLES, WIDTH);
        let grad_features = FeaturesMut::Joined { block };
        interaction::Backward::new(dot, DIM, features, grad_output, grad_features).run(&cpu)?;
        let (rows, grad) = (&mut rows, &grad_pooled);
        sparse_update::step(&cpu, &tables, bags, grad, rule, rows, &mut state, &mut scratch)?;
    }
    assert!(mean[0] < 0.1, "the loss must fall: {}", mean[0]);
    Ok(())
}
