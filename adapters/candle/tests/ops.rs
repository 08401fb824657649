//! The ops beside the same written in candle alone, and beside bagdot's own ops.

#![allow(clippy::unwrap_used, clippy::panic)]

use bagdot_candle::bagdot::ops::sparse_update::{self, Scratch};
use bagdot_candle::bagdot::ops::{
    Bags, Feature, Interaction, Optimizer, OptimizerState, PairOrder, Pooling, Table, TableBatch,
    UpdateRule,
};
use bagdot_candle::bagdot::{self, Cpu};
use bagdot_candle::{EmbeddingBagCollection, Error, Ops, Result};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};

const CPU: Device = Device::Cpu;
const BATCH: usize = 3;
const DIM: usize = 4;
/// The ids of three samples: of a feature with one id each, and of one with bags of 2, 0 and 3.
const IDS: [u32; 8] = [1, 0, 1, 4, 2, 2, 0, 2];
const OFFSETS: [u32; 7] = [0, 1, 2, 3, 5, 5, 8];
/// The least upper bound of the relative error of one operation.
const ROUNDING: f32 = f32::EPSILON / 2.0;

fn tables() -> Vec<Tensor> {
    let table = |rows| Tensor::rand(-1_f32, 1.0, (rows, DIM), &CPU).unwrap();
    vec![table(2), table(5)]
}

fn ops() -> Ops {
    Ops::new(&CPU).unwrap()
}

fn sgd(learning_rate: f32) -> UpdateRule {
    UpdateRule::new(Optimizer::Sgd, learning_rate)
}

fn collection(tables: &[Tensor], rule: UpdateRule) -> EmbeddingBagCollection {
    EmbeddingBagCollection::from_tables(&ops(), tables, Pooling::Sum, rule).unwrap()
}

fn ids() -> Tensor {
    Tensor::new(&IDS, &CPU).unwrap()
}

fn offsets() -> Tensor {
    Tensor::new(&OFFSETS, &CPU).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// The pooled vectors in candle alone: gathered rows, multiplied by a matrix of 1 and 0.
fn pooled_by_candle(tables: &[Tensor]) -> candle_core::Result<Tensor> {
    let columns = tables.iter().enumerate().map(|(f, table)| {
        let bounds = &OFFSETS[f * BATCH..];
        let (first, end) = (bounds[0] as usize, bounds[BATCH] as usize);
        let rows = table.index_select(&Tensor::new(&IDS[first..end], &CPU)?, 0)?;
        let mut of_bag = vec![0_f32; BATCH * (end - first)];
        for sample in 0..BATCH {
            for id in bounds[sample] as usize..bounds[sample + 1] as usize {
                of_bag[sample * (end - first) + id - first] = 1.0;
            }
        }
        Tensor::from_vec(of_bag, (BATCH, end - first), &CPU)?.matmul(&rows)
    });
    Tensor::cat(&columns.collect::<candle_core::Result<Vec<_>>>()?, 1)
}

/// The pairs (1,0), (2,0), (2,1) in candle alone, behind the dense vectors.
fn interaction_by_candle(dense: &Tensor, pooled: &Tensor) -> candle_core::Result<Tensor> {
    let vector = |v: usize| match v {
        0 => Ok(dense.clone()),
        _ => pooled.narrow(1, (v - 1) * DIM, DIM),
    };
    let dot = |i, j| (vector(i)? * vector(j)?)?.sum_keepdim(1);
    Tensor::cat(&[dense.clone(), dot(1, 0)?, dot(2, 0)?, dot(2, 1)?], 1)
}

fn assert_close(ours: &Tensor, theirs: &Tensor, bound: f32) {
    let (ours, theirs) = (values(ours), values(theirs));
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(&theirs) {
        assert!((a - b).abs() <= bound, "{a} differs from {b} by more than {bound}");
    }
}

#[test]
fn training_agrees_with_candle() -> Result<()> {
    let (tables, dense) = (tables(), Var::rand(-1_f32, 1.0, (BATCH, DIM), &CPU)?);
    let factors = Tensor::rand(-1_f32, 1.0, (BATCH, DIM + 3), &CPU)?;
    let bags = collection(&tables, sgd(0.125));
    let vars: Vec<_> = tables.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?;

    let pooled = bags.forward(&ids(), &offsets())?;
    let ours = ops().interaction(Interaction::default(), dense.as_tensor(), &pooled)?;
    let their_tables: Vec<_> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let their_pooled = pooled_by_candle(&their_tables)?;
    let theirs = interaction_by_candle(dense.as_tensor(), &their_pooled)?;
    // A sum of 3 values of at most 1, on both sides: 2 additions with sums of at most 3.
    assert_close(&pooled, &their_pooled, 2.0 * 2.0 * 3.0 * ROUNDING);
    // A dot product of 4 products of at most 3 * 3, whose factors have the error above: 12 for
    // each product by a factor of 3 and twice, and 4 roundings of a sum of at most 36.
    assert_close(&ours, &theirs, 2.0 * (4.0 * 2.0 * 3.0 * 6.0 + 4.0 * 36.0) * ROUNDING);

    let grads = (&ours * &factors)?.sum_all()?.backward()?;
    let their_grads = (&theirs * &factors)?.sum_all()?.backward()?;
    // A gradient is a sum of 3 terms of at most 3; its errors stay below those of the products.
    let bound = 2.0 * (4.0 * 2.0 * 3.0 * 6.0 + 4.0 * 36.0) * ROUNDING;
    assert_close(grads.get(&dense).unwrap(), their_grads.get(&dense).unwrap(), bound);
    for (t, var) in vars.iter().enumerate() {
        let theirs = (var.as_tensor() - (their_grads.get(var).unwrap() * 0.125)?)?;
        // A row has up to 3 such gradients, and moves by an eighth of them.
        assert_close(&bags.table(t)?, &theirs, 3.0 * 0.125 * bound + 4.0 * ROUNDING);
        assert_ne!(values(&bags.table(t)?), values(&tables[t]), "table {t} has not moved");
    }
    Ok(())
}

#[test]
fn steps_are_those_of_bagdot() -> Result<()> {
    let optimizers = [
        Optimizer::Sgd,
        Optimizer::Adagrad { eps: 1e-8 },
        Optimizer::RowwiseAdagrad { eps: 1e-8 },
        Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
    ];
    for optimizer in optimizers {
        let (tables, rule) = (tables(), UpdateRule::new(optimizer, 0.1));
        let bags = collection(&tables, rule);
        let factors = Tensor::rand(-1_f32, 1.0, (BATCH, 2 * DIM), &CPU)?;

        let cpu = Cpu::on_current_thread();
        let sizes = tables.iter().map(|table| {
            let (num_embeddings, embedding_dim) = table.dims2().unwrap();
            Table { num_embeddings, embedding_dim }
        });
        let layout = TableBatch::one_feature_each(sizes.collect(), Pooling::Sum)?;
        let mut weights: Vec<f32> = tables.iter().flat_map(values).collect();
        let mut state = OptimizerState::of_tables(&cpu, optimizer, &layout)?;
        let mut scratch = Scratch::new(&cpu)?;
        for _ in 0..3 {
            (bags.forward(&ids(), &offsets())? * &factors)?.sum_all()?.backward()?;
            let (batch, grad) = (Bags::new(BATCH, &IDS, &OFFSETS), values(&factors));
            let (w, s) = (&mut weights, &mut state);
            sparse_update::step(&cpu, &layout, batch, &grad, rule, w, s, &mut scratch)?;
        }
        let ours = [values(&bags.table(0)?), values(&bags.table(1)?)].concat();
        assert_eq!(ours, weights, "{optimizer:?}");
        assert_eq!(bags.state()?.steps, 3);
    }
    Ok(())
}

#[test]
fn a_run_goes_on_from_its_state() -> Result<()> {
    let (tables, adam) = (tables(), Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
    let rule = UpdateRule::new(adam, 0.1);
    let train = |bags: &EmbeddingBagCollection| -> Result<()> {
        bags.forward(&ids(), &offsets())?.sqr()?.sum_all()?.backward()?;
        Ok(())
    };
    let whole = collection(&tables, rule);
    train(&whole)?;
    let resumed = collection(&[whole.table(0)?, whole.table(1)?], rule);
    resumed.set_state(&whole.state()?)?;
    train(&whole)?;
    train(&resumed)?;
    assert_eq!(values(&whole.table(1)?), values(&resumed.table(1)?));

    let error = resumed.set_state(&collection(&tables, sgd(0.1)).state()?).unwrap_err();
    assert_eq!(error.to_string(), "state: [] values, but the optimizer has [28, 28]");
    Ok(())
}

#[test]
fn the_fused_op_is_the_two_ops() -> Result<()> {
    let (tables, dense) = (tables(), Var::rand(-1_f32, 1.0, (BATCH, DIM), &CPU)?);
    let (order, include_self, append_sparse, pad_to) = (PairOrder::UpperTriangle, true, true, 8);
    let interaction = Interaction::Dot { order, include_self, append_sparse, pad_to };
    let (two, one) = (collection(&tables, sgd(0.5)), collection(&tables, sgd(0.5)));
    let of_two =
        ops().interaction(interaction, dense.as_tensor(), &two.forward(&ids(), &offsets())?)?;
    let of_one = one.pooled_interaction(interaction, dense.as_tensor(), &ids(), &offsets())?;
    assert_eq!(of_one.dims(), [BATCH, 24]);
    assert_eq!(values(&of_one), values(&of_two));

    let grads = [of_two.sqr()?.sum_all()?.backward()?, of_one.sqr()?.sum_all()?.backward()?];
    let [of_two, of_one] = grads.map(|grads| values(grads.get(&dense).unwrap()));
    assert_eq!(of_one, of_two);
    for (t, before) in tables.iter().enumerate() {
        assert_eq!(values(&one.table(t)?), values(&two.table(t)?));
        assert_ne!(values(&one.table(t)?), values(before));
    }
    Ok(())
}

#[test]
fn factors_of_ids_have_a_gradient() -> Result<()> {
    let table = Tensor::new(&[[1_f32, 2.0], [3.0, 4.0]], &CPU)?;
    let bags = collection(&[table], sgd(1.0));
    let factors = Var::new(&[2_f32, -1.0, 0.5], &CPU)?;
    let (ids, offsets) = (Tensor::new(&[0_i64, 1, 1], &CPU)?, Tensor::new(&[0_i32, 2, 3], &CPU)?);
    let pooled = bags.forward_weighted(&ids, &offsets, factors.as_tensor())?;
    assert_eq!(pooled.to_vec2::<f32>()?, [[-1.0, 0.0], [1.5, 2.0]]);
    let grads = pooled.sum_all()?.backward()?;
    // The sum of each row before the step; each row then loses the sum of its factors.
    assert_eq!(values(grads.get(&factors).unwrap()), [3.0, 7.0, 7.0]);
    assert_eq!(values(&bags.table(0)?), [-1.0, 0.0, 3.5, 4.5]);
    Ok(())
}

#[test]
fn tensors_may_be_parts_and_of_any_index_type() -> Result<()> {
    let bags = collection(&tables(), sgd(1.0));
    let expected = values(&bags.forward(&ids(), &offsets())?);
    let padded = Tensor::cat(&[ids().zeros_like()?, ids()], 0)?.narrow(0, IDS.len(), IDS.len())?;
    for dtype in [DType::U32, DType::I32, DType::I64] {
        let pooled = bags.forward(&padded.to_dtype(dtype)?, &offsets())?;
        assert_eq!(values(&pooled), expected, "ids of {dtype:?}");
        let pooled = bags.forward(&padded, &offsets().to_dtype(dtype)?)?;
        assert_eq!(values(&pooled), expected, "offsets of {dtype:?}");
    }
    let dense = Tensor::rand(-1_f32, 1.0, (DIM, BATCH), &CPU)?.t()?;
    let pooled = bags.forward(&ids(), &offsets())?;
    let theirs = interaction_by_candle(&dense, &pooled)?;
    let ours = ops().interaction(Interaction::default(), &dense, &pooled)?;
    // Four products of at most 3 * 3 and their sums, on both sides.
    assert_close(&ours, &theirs, 2.0 * (4.0 * 9.0 + 4.0 * 36.0) * ROUNDING);
    Ok(())
}

#[test]
fn elements_of_16_bits_interact() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        let tensor = |columns| -> candle_core::Result<Tensor> {
            Tensor::rand(-1_f32, 1.0, (BATCH, columns), &CPU)?.to_dtype(dtype)
        };
        let (dense, pooled) = (tensor(DIM)?, tensor(2 * DIM)?);
        let ours = ops().interaction(Interaction::default(), &dense, &pooled)?;
        assert_eq!(ours.dtype(), dtype);
        let (dense, pooled) = (dense.to_dtype(DType::F32)?, pooled.to_dtype(DType::F32)?);
        // The sum of 4 products of at most 1 is rounded once, to at least 8 bits.
        assert_close(&ours, &interaction_by_candle(&dense, &pooled)?, 4.0 / 256.0 + 1e-5);
    }
    Ok(())
}

#[test]
fn a_bad_id_is_named_and_changes_nothing() -> Result<()> {
    let tables = tables();
    let bags = collection(&tables, sgd(1.0));
    let mut bad = IDS;
    bad[6] = 5;
    match bags.forward(&Tensor::new(&bad, &CPU)?, &offsets()) {
        Err(Error::Bagdot(bagdot::Error::IndexOutOfRange {
            table, bag, position, value, ..
        })) => {
            assert_eq!((table, bag, position, value), (1, 5, 6, 5));
        }
        other => panic!("expected an error of the id, not {:?}", other.map(|_| ())),
    }
    assert_eq!(values(&bags.table(1)?), values(&tables[1]));
    bags.forward(&ids(), &offsets())?.sum_all()?.backward()?;
    assert_ne!(values(&bags.table(1)?), values(&tables[1]));
    Ok(())
}

#[test]
fn only_a_backward_pass_steps() -> Result<()> {
    let tables = tables();
    let bags = collection(&tables, sgd(1.0));
    bags.forward(&ids(), &offsets())?.detach().sum_all()?;
    assert_eq!(values(&bags.table(0)?), values(&tables[0]));
    // Two lookups in one graph are two steps.
    let sum = (bags.forward(&ids(), &offsets())? + bags.forward(&ids(), &offsets())?)?;
    sum.sum_all()?.backward()?;
    assert_eq!(bags.state()?.steps, 2);
    // Row 0 of the first table occurs once in a batch: each step takes 1 from it.
    let expected: Vec<f32> = values(&tables[0])[..DIM].iter().map(|w| (w - 1.0) - 1.0).collect();
    assert_eq!(values(&bags.table(0)?)[..DIM], expected);
    bags.set_learning_rate(0.0)?;
    bags.forward(&ids(), &offsets())?.sum_all()?.backward()?;
    assert_eq!(values(&bags.table(0)?)[..DIM], expected);
    assert!(bags.set_learning_rate(f32::NAN).is_err());
    Ok(())
}

#[test]
fn wrong_arguments_are_errors() -> Result<()> {
    let bags = collection(&tables(), sgd(1.0));
    let error = |result: Result<Tensor>| result.unwrap_err().to_string();
    let short = offsets().narrow(0, 0, 6)?;
    assert_eq!(
        error(bags.forward(&ids(), &short)),
        "offsets: 6 of them, but there must be one more than a multiple of 2 features"
    );
    let floats = ids().to_dtype(DType::F32)?;
    let text = error(bags.forward(&floats, &offsets()));
    assert_eq!(text, "ids: elements of F32, which the op does not take");
    let dense = Tensor::zeros((BATCH + 1, DIM), DType::F32, &CPU)?;
    let text = error(bags.pooled_interaction(Interaction::default(), &dense, &ids(), &offsets()));
    assert!(text.contains("interaction"), "{text}");
    let dense = Tensor::zeros((BATCH, 3), DType::F32, &CPU)?;
    let pooled = bags.forward(&ids(), &offsets())?;
    let text = error(ops().interaction(Interaction::default(), &dense, &pooled));
    assert!(text.contains("no multiple of the dimension 3"), "{text}");
    let text = error(ops().interaction(
        Interaction::default(),
        &dense.zeros_like()?.to_dtype(DType::F64)?,
        &pooled,
    ));
    assert!(text.contains("F64"), "{text}");

    let storage = Storage::Cpu(CpuStorage::F32(vec![0.0; 4]));
    let short = Tensor::from_storage(storage, (BATCH, DIM), BackpropOp::none(), false);
    let text = error(ops().interaction(Interaction::default(), &short, &pooled));
    assert_eq!(text, "tensor: it ends at element 12, but its storage has 4");

    let table = Table { num_embeddings: 2, embedding_dim: 2 };
    let feature = Feature { table: 0, pooling: Pooling::Max, padding_idx: None };
    let layout = TableBatch::new(vec![table], vec![feature])?;
    assert!(EmbeddingBagCollection::new(&ops(), layout, sgd(1.0)).is_err());
    assert!(bags.set_table(2, &dense).is_err());
    let text = bags.set_table(0, &dense).unwrap_err().to_string();
    assert_eq!(text, "values: 3 x 3, but table 0 is 2 x 4");
    Ok(())
}
