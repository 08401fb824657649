//! Tests that call each op on the CPU with absurd sizes and values. Arguments that do not fit must
//! give an error, and nothing may panic. Overflow checks and debug assertions are on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{Apply, Merge, PooledGrad, Reduce, SparseGrad};
use bagdot::ops::{
    Accum, Activation, Bags, Device, Feature, Interaction, Loss, Matrix, MatrixMut, Optimizer,
    OptimizerStateMut, PairOrder, Pooling, Precision, Rounding, StepControl, StepValues, Table,
    TableBatch, UpdateRule, View, WeightDecay, cast, dense_update, embedding_bag, finite_check,
    head, interaction, linear, loss, moving_average, pooled_interaction, sparse_update,
};
use bagdot::{Cpu, Jagged, Philox, Result, Scalar, f16};

use crate::common::rounds::seeds;

/// The number of calls of each op.
const ROUNDS: u64 = 3000;

/// The seeds of calls that once panicked: a product without terms, with a leading dimension of
/// 2^32.
const FOUND: [u64; 1] = [1_796_004_395_481_888_409];

/// The number of elements of each buffer that views are cut from.
const ROOM: usize = 400;

/// A generator of the arguments of one call.
struct Draw(Philox);

impl Draw {
    /// Draws one of the choices.
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.below(choices.len() as u64) as usize]
    }

    /// Draws true with a probability of `1 / calls`.
    fn one_in(&mut self, calls: u64) -> bool {
        self.0.below(calls) == 0
    }

    /// Draws a size that is off by one, or too large for any memory.
    fn hostile(&mut self, size: usize) -> usize {
        let off = [size.wrapping_add(1), size.wrapping_sub(1), 0, 1];
        let huge = [
            usize::MAX,
            usize::MAX / 2 + 1,
            usize::MAX / 2 + 2,
            isize::MAX as usize,
            1 << 32,
            (1 << 31) + 1,
            1 << 59,
        ];
        if self.one_in(2) { self.of(&off) } else { self.of(&huge) }
    }

    /// Returns this size, or one time in 12 a hostile one.
    fn about(&mut self, size: usize) -> usize {
        if self.one_in(12) { self.hostile(size) } else { size }
    }

    /// Draws a small size, or one time in 12 a hostile one.
    fn size(&mut self) -> usize {
        let size = self.of(&[0, 1, 2, 3, 5, 7]);
        self.about(size)
    }

    /// Draws the length of a view that should have `len` elements.
    fn len(&mut self, len: usize) -> usize {
        self.about(len).min(ROOM)
    }

    /// Returns a view that should have `len` elements.
    fn shared<'a, T>(&mut self, data: &'a [T], len: usize) -> &'a [T] {
        &data[..self.len(len).min(data.len())]
    }

    /// Returns a mutable view that should have `len` elements.
    fn exclusive<'a, T>(&mut self, data: &'a mut [T], len: usize) -> &'a mut [T] {
        let len = self.len(len).min(data.len());
        &mut data[..len]
    }

    /// Draws rows, columns, leading dimension and length of a matrix.
    fn shape(&mut self, rows: usize, cols: usize) -> [usize; 4] {
        let (rows, cols) = (self.about(rows), self.about(cols));
        let gap = self.of(&[0, 0, 1, 3]);
        let ld = self.about(cols.saturating_add(gap));
        let needed = rows.saturating_mul(ld);
        [rows, cols, ld, self.len(needed)]
    }

    fn matrix<'a, T: Scalar>(
        &mut self,
        data: &'a [T],
        rows: usize,
        cols: usize,
    ) -> Matrix<'a, Cpu, T> {
        let [rows, cols, ld, len] = self.shape(rows, cols);
        Matrix { data: (&data[..len]).into(), rows, cols, ld }
    }

    fn matrix_mut<'a, T: Scalar>(
        &mut self,
        data: &'a mut [T],
        rows: usize,
        cols: usize,
    ) -> MatrixMut<'a, Cpu, T> {
        let [rows, cols, ld, len] = self.shape(rows, cols);
        MatrixMut { data: (&mut data[..len]).into(), rows, cols, ld }
    }

    fn float(&mut self) -> f32 {
        self.of(&[
            0.0,
            -0.0,
            1.0,
            0.5,
            -1.0,
            3e38,
            1e-45,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ])
    }

    fn floats(&mut self) -> Vec<f32> {
        (0..ROOM).map(|_| self.float()).collect()
    }

    fn rule(&mut self) -> UpdateRule {
        let eps = self.of(&[0.0, 1e-45, 1e-8, -1.0, f32::NAN]);
        let (beta1, beta2) = (self.of(&[0.9, 0.0, 1.0, f32::NAN]), self.of(&[0.999, 0.0, 2.0]));
        let decay = self.float();
        let optimizers = [
            Optimizer::Sgd,
            Optimizer::Adagrad { eps },
            Optimizer::RowwiseAdagrad { eps },
            Optimizer::Adam { beta1, beta2, eps },
        ];
        UpdateRule {
            optimizer: self.of(&optimizers),
            learning_rate: self.float(),
            step: self.of(&[1, 1, 0, 7, 1 << 53, u64::MAX]),
            weight_decay: self.of(&[
                WeightDecay::None,
                WeightDecay::L2(decay),
                WeightDecay::Decoupled(decay),
            ]),
            rounding: self.of(&[Rounding::Nearest, Rounding::Stochastic { seed: u64::MAX }]),
        }
    }

    /// Returns the state of an optimizer, mostly of the kind and size that it needs.
    fn state<'a>(
        &mut self,
        [first, second]: &'a mut [Vec<f32>; 2],
        rule: &UpdateRule,
        sizes: (usize, usize),
    ) -> OptimizerStateMut<'a, Cpu> {
        let [first_len, second_len] = rule.optimizer.state_len(sizes.0, sizes.1);
        let first = self.exclusive(first, first_len);
        match if self.one_in(20) { Optimizer::Sgd } else { rule.optimizer } {
            Optimizer::Sgd => OptimizerStateMut::None,
            Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. } => {
                OptimizerStateMut::SumOfSquares(first.into())
            }
            Optimizer::Adam { .. } => {
                let second = self.exclusive(second, second_len);
                OptimizerStateMut::Moments { first: first.into(), second: second.into() }
            }
        }
    }

    fn control<'a>(
        &mut self,
        values: &'a [StepValues; 2],
        gate: &'a [u64; 2],
    ) -> StepControl<'a, Cpu> {
        let (values, gate) = (self.shared(&values[..], 1), self.shared(&gate[..], 1));
        StepControl {
            values: self.one_in(4).then_some(values.into()),
            gate: self.one_in(4).then_some(gate.into()),
        }
    }

    fn tables(&mut self) -> Result<TableBatch> {
        let tables: Vec<_> = (0..1 + self.0.below(2))
            .map(|_| Table {
                num_embeddings: 1 + self.0.below(6) as usize,
                embedding_dim: self.of(&[1, 2, 3, 16, 17]),
            })
            .collect();
        let features = (0..self.0.below(4)).map(|_| Feature {
            table: self.0.below(tables.len() as u64) as usize,
            pooling: self.of(&[Pooling::Sum, Pooling::Sum, Pooling::Mean, Pooling::Max]),
            padding_idx: self.one_in(4).then_some(0),
        });
        let features = features.collect();
        TableBatch::new(tables, features)
    }
}

/// Calls the op with the arguments of all seeds. Some calls must succeed, and some must fail.
fn never_panics(op: &str, call: impl Fn(&mut Draw) -> Result<()>) {
    let (mut fine, mut refused) = (0, 0);
    for seed in FOUND.into_iter().chain(seeds(ROUNDS)) {
        match catch_unwind(AssertUnwindSafe(|| call(&mut Draw(Philox::new(seed, 0))))) {
            Ok(Ok(())) => fine += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("{op} has panicked, with seed {seed}"),
        }
    }
    assert!(fine > 0 && refused > 0, "{op}: {fine} calls were fine, {refused} were not");
}

fn cpu() -> Cpu {
    Cpu::on_current_thread()
}

/// The ids of a batch, which may be wrong in any way.
struct Ids {
    batch_size: usize,
    indices: Vec<i64>,
    offsets: Vec<i64>,
    weights: Option<Vec<f32>>,
    has_slack: bool,
}

impl Ids {
    fn new(draw: &mut Draw, tables: &TableBatch) -> Self {
        let batch_size = draw.of(&[0, 1, 2, 5]);
        let mut offsets = vec![0];
        for bag in 0..tables.features().len() * batch_size {
            offsets.push(offsets[bag] + draw.of(&[0, 1, 1, 2]));
        }
        let has_slack = draw.one_in(4);
        let len = offsets.last().copied().unwrap_or(0) as usize
            + if has_slack { draw.of(&[0, 1, 9]) } else { 0 };
        let mut indices: Vec<i64> = (0..len).map(|_| draw.of(&[0, 0, 0, 1])).collect();
        let wild = [-1, i64::MIN, i64::MAX, 0, 1, 100, 1 << 32, len as i64 + 1];
        match draw.0.below(12) {
            0 => indices.iter_mut().for_each(|id| *id = draw.of(&wild)),
            1 => offsets.iter_mut().for_each(|offset| *offset = draw.of(&wild)),
            2 => offsets.reverse(),
            3 => offsets.truncate(draw.0.below(3) as usize),
            _ => {}
        }
        let weights = draw.one_in(3).then(|| vec![draw.float(); draw.len(len)]);
        Self { batch_size: draw.about(batch_size), indices, offsets, weights, has_slack }
    }

    fn view(&self) -> Bags<'_, Cpu, i64> {
        let mut bags = Bags::new(self.batch_size, &self.indices, &self.offsets);
        bags.per_sample_weights = self.weights.as_deref().map(View::from);
        bags.has_slack = self.has_slack;
        bags
    }
}

#[test]
fn lookups() {
    let (floats, sources) = (vec![0.5; ROOM], ROOM);
    never_panics("embedding_bag", |draw| {
        let tables = draw.tables()?;
        let ids = Ids::new(draw, &tables);
        let (mut output, mut argmax, mut grads) =
            (vec![0.0; ROOM], vec![0; sources], vec![0.0; ROOM]);
        let weights = draw.shared(&floats, tables.num_weights());
        let mut forward = embedding_bag::Forward::new(
            &tables,
            weights,
            ids.view(),
            draw.matrix_mut(&mut output, ids.batch_size, tables.width()),
        );
        forward.argmax =
            draw.one_in(2).then(|| draw.matrix_mut(&mut argmax, ids.batch_size, tables.width()));
        let result = forward.run(&cpu());
        let backward = embedding_bag::WeightGrad::new(
            &tables,
            weights,
            ids.view(),
            draw.matrix(&floats, ids.batch_size, tables.width()),
            draw.exclusive(&mut grads, ids.indices.len()),
        );
        result.and(backward.run(&cpu()))
    });
}

#[test]
fn lookups_with_interaction() {
    let floats = vec![0.5; ROOM];
    never_panics("pooled_interaction", |draw| {
        let (dim, rows) = (draw.of(&[1, 2, 16]), draw.of(&[1, 5]));
        let features = vec![
            Feature { table: 0, pooling: Pooling::Sum, padding_idx: None };
            draw.0.below(3) as usize
        ];
        let tables =
            TableBatch::new(vec![Table { num_embeddings: rows, embedding_dim: dim }], features)?;
        let (ids, interaction) = (Ids::new(draw, &tables), draw_interaction(draw));
        let (mut pooled, mut output) = (vec![0.0; ROOM], vec![0.0; ROOM]);
        let width = interaction.width(true, tables.features().len(), dim);
        let lookup = embedding_bag::Forward::new(
            &tables,
            draw.shared(&floats, tables.num_weights()),
            ids.view(),
            draw.matrix_mut(&mut pooled, ids.batch_size, tables.width()),
        );
        let interact = pooled_interaction::Interact::new(
            interaction,
            draw.about(dim),
            draw.matrix(&floats, ids.batch_size, dim),
            draw.matrix_mut(&mut output, ids.batch_size, width),
        )
        .keeps_pooled(draw.one_in(2));
        pooled_interaction::Forward { lookup, interact }.run(&cpu())
    });
}

/// Checks a sort and the ops that take its order. The sort may have failed, and the batch may be
/// another one.
#[test]
fn orders_and_updates() {
    never_panics("index_sort and sparse_update", |draw| {
        let (tables, cpu) = (draw.tables()?, cpu());
        let ids = Ids::new(draw, &tables);
        let (n, num_bags) =
            (ids.indices.len(), tables.features().len().saturating_mul(ids.batch_size).min(ROOM));
        let mut sorted = SortedIndices::new(&cpu, draw.len(n), draw.len(num_bags))?;
        let mut words = vec![0; ROOM];
        let sort = Sort::new(&tables, ids.view(), &mut sorted, &mut words[..]);
        let mut result = sort.run(&cpu);
        let floats = draw.floats();
        let other = Ids::new(draw, &tables);
        let bags = if draw.one_in(3) { other.view() } else { ids.view() };
        let argmax = vec![draw.of(&[0, 1, u32::MAX]); ROOM];
        let width = tables.width();
        let source = |draw: &mut Draw| {
            let mut source = PooledGrad::new(
                &tables,
                bags,
                &sorted,
                draw.matrix(&floats, bags.batch_size, width),
            )
            .argmax(draw.matrix(&argmax, bags.batch_size, width));
            source.max_gradient = draw.one_in(4).then(|| draw.float());
            source
        };
        let (capacity, rule) = (draw.len(n), draw.rule());
        let mut grad = SparseGrad::new(&cpu, &tables, capacity)?;
        let mut workspace = vec![0; ROOM];
        let reduce = Reduce::new(source(draw), &mut grad, &mut workspace[..]);
        result = result.and(reduce.run(&cpu));
        let (values, gate) = ([StepValues::new(&rule, f32::NAN); 2], [draw.of(&[0, 1]); 2]);
        let (mut weights, mut state) = (floats.clone(), [vec![0.5; ROOM], vec![0.5; ROOM]]);
        let (sizes, scale) = ((tables.num_rows(), tables.num_weights()), vec![f32::NAN; ROOM]);
        let mut update = sparse_update::Update::new(
            source(draw),
            rule,
            draw.exclusive(&mut weights, sizes.1),
            draw.state(&mut state, &rule, sizes),
            &mut words[..],
        )
        .control(draw.control(&values, &gate));
        update.decay_scale = draw.one_in(4).then(|| draw.shared(&scale, sizes.0).into());
        result = result.and(update.run(&cpu));
        let (foreign, mut sum) = (draw.tables()?, SparseGrad::new(&cpu, &tables, draw.len(2 * n))?);
        let foreign = SparseGrad::new(&cpu, &foreign, n)?;
        let b = if draw.one_in(4) { &foreign } else { &grad };
        result = result.and(Merge::new(&tables, &grad, b, &mut sum, &mut words[..]).run(&cpu));
        let apply = Apply::new(
            &tables,
            if draw.one_in(4) { &foreign } else { &sum },
            rule,
            draw.exclusive(&mut weights, sizes.1),
            draw.state(&mut state, &rule, sizes),
        );
        result.and(apply.run(&cpu))
    });
}

fn draw_interaction(draw: &mut Draw) -> Interaction {
    let pad_to = draw.of(&[0, 1, 1, 8]);
    let (include_self, append_sparse) = (draw.one_in(2), draw.one_in(2));
    let order = draw.of(&[PairOrder::LowerTriangle, PairOrder::UpperTriangle]);
    draw.of(&[Interaction::Cat, Interaction::Dot { order, include_self, append_sparse, pad_to }])
}

#[test]
fn interactions() {
    let floats = vec![0.5; ROOM];
    never_panics("interaction", |draw| {
        let (interaction, [batch_size, dim]) =
            (draw_interaction(draw), [draw.of(&[0, 1, 3]), draw.of(&[0, 1, 3, 16])]);
        let (num_sparse, has_dense) = (draw.of(&[0, 1, 4]), draw.one_in(2));
        let width = interaction.width(has_dense, num_sparse, dim);
        let cols = (num_sparse + usize::from(has_dense)) * dim;
        let (mut output, mut grads) = (vec![0.0; ROOM], vec![0.0; ROOM]);
        let features = |draw: &mut Draw| interaction::Features::Joined {
            block: draw.matrix(&floats, batch_size, cols),
            has_dense,
        };
        let (precision, dim) = (Precision::Full, draw.about(dim));
        let forward = interaction::Forward::new(
            interaction,
            dim,
            features(draw),
            draw.matrix_mut(&mut output, batch_size, width),
        )
        .precision(precision);
        let result = forward.run(&cpu());
        let backward = interaction::Backward::new(
            interaction,
            dim,
            features(draw),
            draw.matrix(&floats, batch_size, width),
            interaction::FeaturesMut::Joined {
                block: draw.matrix_mut(&mut grads, batch_size, cols),
            },
        )
        .precision(precision);
        result.and(backward.run(&cpu()))
    });
}

#[test]
fn layers() {
    let floats = vec![0.5; ROOM];
    never_panics("linear", |draw| {
        let [m, n, k] = [draw.size(), draw.size(), draw.size()];
        let mut buffers = [(); 5].map(|()| vec![0.0; ROOM]);
        let [output, grad_output, grad_input, grad_weight, grad_bias] = &mut buffers;
        let (packed, mut words) = ([0; 2], vec![0; ROOM]);
        let (precision, activation) =
            (Precision::Tf32, draw.of(&[Activation::None, Activation::Relu]));
        let (input, weight) = (draw.matrix(&floats, m, k), draw.matrix(&floats, n, k));
        let mut forward = linear::Forward::<Cpu, f32>::new(
            input,
            weight,
            draw.shared(&floats, n),
            draw.matrix_mut(output, m, n),
        )
        .activation(activation)
        .precision(precision);
        forward.packed_weight = draw.one_in(8).then(|| (&packed[..]).into());
        let result = forward.run(&cpu());
        let mut backward = linear::Backward::<Cpu, f32>::new(
            input,
            weight,
            draw.matrix(&floats, m, n),
            draw.matrix_mut(grad_output, m, n),
            draw.matrix_mut(grad_weight, n, k),
            draw.exclusive(grad_bias, n),
            &mut words[..],
        )
        .activation(activation)
        .precision(precision)
        .accum(draw.of(&[Accum::Add, Accum::Replace]));
        backward.grad_input = draw.one_in(2).then(|| draw.matrix_mut(grad_input, m, k));
        result.and(backward.run(&cpu()))
    });
}

#[test]
fn losses() {
    never_panics("loss", |draw| {
        let (n, logits, mut labels) = (draw.of(&[0, 1, 5, 300]), draw.floats(), vec![0.5; ROOM]);
        if draw.one_in(2) {
            labels = draw.floats();
        }
        let weighted = Loss::WeightedBce { negative: draw.float(), positive: draw.float() };
        let (mut mean, mut grads) = (vec![0.0; 2], vec![0.0; ROOM]);
        let mut forward = loss::Forward::<Cpu>::new(
            draw.of(&[Loss::BceWithLogits, Loss::Mse, weighted]),
            &logits[..n],
            draw.shared(&labels, n),
            if draw.one_in(12) { &mut mean[..] } else { &mut mean[..1] },
            &mut [],
        )
        .threshold(draw.of(&[0.0, 0.1, 0.5, -1.0, f32::NAN]))
        .loss_scale(draw.of(&[1.0, 1024.0, 0.0, -1.0, 3.0, f32::NAN]));
        forward.grad_logits = draw.one_in(2).then(|| draw.exclusive(&mut grads, n).into());
        forward.run(&cpu())
    });
}

#[test]
fn heads() {
    let floats = vec![0.5; ROOM];
    never_panics("head", |draw| {
        let (m, k) = (draw.size(), draw.size());
        let (mut logits, mut grad_logits) = (vec![0.0; ROOM], vec![0.0; ROOM]);
        let (mut dx, mut dw) = (vec![0.0; ROOM], vec![0.0; ROOM]);
        let (mut mean, mut db) = ([0.0; 2], [0.0; 2]);
        head::LossAndGrads::<Cpu, f32>::new(
            draw.of(&[Loss::BceWithLogits, Loss::Mse]),
            head::Forward::new(
                draw.matrix(&floats, m, k),
                draw.shared(&floats, k),
                if draw.one_in(12) { &floats[..2] } else { &floats[..1] },
                draw.exclusive(&mut logits, m),
            ),
            draw.shared(&floats, m),
            if draw.one_in(12) { &mut mean[..] } else { &mut mean[..1] },
            head::Grads::new(
                draw.exclusive(&mut grad_logits, m),
                draw.matrix_mut(&mut dx, m, k),
                draw.exclusive(&mut dw, k),
                if draw.one_in(12) { &mut db[..] } else { &mut db[..1] },
            ),
            &mut [],
        )
        .threshold(draw.of(&[0.0, 0.1, 0.5, f32::NAN]))
        .loss_scale(draw.of(&[1.0, 1024.0, 0.0, 3.0]))
        .run(&cpu())
    });
}

#[test]
fn casts() {
    let floats = vec![0.5; ROOM];
    never_panics("cast", |draw| {
        let ([rows, cols], mut halves) = ([draw.size(), draw.size()], vec![f16::ZERO; ROOM]);
        let (factor, from) =
            (draw.of(&[1.0, 0.125, 3.0, 0.0, f32::NAN]), draw.matrix(&floats, rows, cols));
        cast::Cast { factor, from, to: draw.matrix_mut(&mut halves, rows, cols) }.run(&cpu())
    });
}

#[test]
fn dense_updates_and_averages() {
    never_panics("dense_update and moving_average", |draw| {
        let (len, rule, floats) = (draw.of(&[0, 1, 7, 65]), draw.rule(), draw.floats());
        let (values, gate) = ([StepValues::new(&rule, f32::NAN); 2], [draw.of(&[0, 1]); 2]);
        let (mut parameters, mut state) = (floats.clone(), [floats.clone(), floats.clone()]);
        let (mut halves, mut average) = (vec![f16::ZERO; ROOM], floats.clone());
        let dense = UpdateRule { optimizer: rule.optimizer.for_dense(), ..rule };
        let mut update = dense_update::Update::new(
            rule,
            draw.shared(&floats, len),
            draw.exclusive(&mut parameters, len),
            draw.state(&mut state, &dense, (len, len)),
        )
        .control(draw.control(&values, &gate))
        .loss_scale(draw.of(&[1.0, 1.0, 0.5, 0.0, f32::NAN]));
        update.max_gradient = draw.one_in(4).then(|| draw.float());
        update.rounded = draw.one_in(2).then(|| draw.exclusive(&mut halves, len).into());
        let result = update.run(&cpu());
        let averaged = moving_average::Update::new(
            draw.float(),
            draw.shared(&floats, len),
            draw.exclusive(&mut average, len),
        )
        .control(draw.control(&values, &gate));
        result.and(averaged.run(&cpu()))
    });
}

#[test]
fn checks_and_copies() {
    never_panics("finite_check, copy, upload and download", |draw| {
        let (len, floats, cpu) = (draw.size().min(ROOM), draw.floats(), cpu());
        let (mut verdict, losses) = (vec![draw.of(&[0, u64::MAX - 1]); 6], [f64::NAN; 2]);
        let values = [StepValues::new(&draw.rule(), 0.5); 2];
        let mut check = finite_check::Check::new(
            draw.of(&[finite_check::NonFinite::Error, finite_check::NonFinite::SkipStep]),
            draw.of(&[0, 1, u64::MAX]),
            draw.shared(&losses[..], 1),
            [draw.shared(&floats, len).into(), (&floats).into()],
            draw.exclusive(&mut verdict, finite_check::Verdict::WORDS),
        );
        check.values = draw.one_in(2).then(|| draw.shared(&values[..], 1).into());
        let mut result = check.run(&cpu);
        let (mut target, mut host) = (vec![0.0; ROOM], vec![0.0; ROOM]);
        result = result.and(
            cpu.copy(draw.shared(&floats, len).into(), draw.exclusive(&mut target, len).into()),
        );
        result = result
            .and(cpu.upload(draw.shared(&floats, len), draw.exclusive(&mut target, len).into()));
        result.and(cpu.download(draw.shared(&target, len).into(), draw.exclusive(&mut host, len)))
    });
}

#[test]
fn tables_and_batches() {
    never_panics("TableBatch", |draw| {
        let tables = (0..draw.0.below(4))
            .map(|_| Table { num_embeddings: draw.size(), embedding_dim: draw.size() });
        let tables: Vec<Table> = tables.collect();
        let feature = |draw: &mut Draw| Feature {
            table: draw.size(),
            pooling: Pooling::Sum,
            padding_idx: draw.one_in(2).then(|| draw.size()),
        };
        let features = (0..draw.of(&[0, 1, 2, 64])).map(|_| feature(draw)).collect();
        let batch = TableBatch::new(tables, features)?;
        assert_eq!(
            batch.width(),
            batch.features().iter().map(|f| batch.tables()[f.table].embedding_dim).sum::<usize>()
        );
        Ok(())
    });
    never_panics("Jagged", |draw| {
        let lengths = (0..draw.0.below(5))
            .map(|_| draw.of(&[0, 1, 1, 2, i64::MAX, -1, i64::MIN]))
            .collect::<Vec<_>>();
        let sum = lengths.iter().fold(0_i64, |sum, &length| sum.saturating_add(length.clamp(0, 3)));
        let batch_size = draw.about(lengths.len());
        Jagged::from_lengths(vec![0_i64; draw.len(sum as usize)], &lengths, batch_size).map(|_| ())
    });
}
