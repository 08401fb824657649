//! Helpers for the ops of `sparse_update`: rules, optimizer state, and the backward pass of a
//! [`BagCase`].

use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::ops::sparse_update::{Merge, PooledGrad, Reduce, SparseGrad, SparseUpdateOps, Update};
use bagdot::ops::{Device, Optimizer, OptimizerStateMut, Rounding, UpdateRule, WeightDecay};
use bagdot::{Index, Result};

use super::cases::{BagCase, DeviceBags, Id, draw};
use super::memory::{Grid, Poison, download, download_view, poisoned, upload};
use super::reference::{self, RowGradients};
use super::tolerance::{Stored, exact};

/// Returns every optimizer with every kind of weight decay, at step 5. `eps` is large, so that a
/// result shows where it is added.
pub fn rules() -> Vec<UpdateRule> {
    let optimizers = [
        Optimizer::Sgd,
        Optimizer::Adagrad { eps: 0.125 },
        Optimizer::RowwiseAdagrad { eps: 0.25 },
        Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 0.0625 },
    ];
    let decays = [WeightDecay::None, WeightDecay::L2(0.125), WeightDecay::Decoupled(0.25)];
    let rule = |optimizer, weight_decay| UpdateRule {
        optimizer,
        learning_rate: 0.1,
        step: 5,
        weight_decay,
        rounding: Rounding::Nearest,
    };
    optimizers.iter().flat_map(|&optimizer| decays.map(|decay| rule(optimizer, decay))).collect()
}

/// The state of an optimizer, on a device.
pub struct State<B: Device> {
    /// The sums of squares, or the first moments.
    pub first: B::Buffer<f32>,
    /// The second moments.
    pub second: B::Buffer<f32>,
}

impl<B: Device> State<B> {
    /// Uploads these values, as many of each kind as the optimizer has.
    pub fn new(device: &B, [first, second]: &[Vec<f32>; 2]) -> Self {
        Self { first: upload(device, first), second: upload(device, second) }
    }

    /// Views the state as that of an optimizer.
    pub fn view_mut(&mut self, optimizer: Optimizer) -> OptimizerStateMut<'_, B> {
        match optimizer {
            Optimizer::Sgd => OptimizerStateMut::None,
            Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. } => {
                OptimizerStateMut::SumOfSquares(B::view_mut(&mut self.first))
            }
            Optimizer::Adam { .. } => OptimizerStateMut::Moments {
                first: B::view_mut(&mut self.first),
                second: B::view_mut(&mut self.second),
            },
        }
    }

    /// Returns the values.
    pub fn download(&self, device: &B) -> [Vec<f32>; 2] {
        [download(device, &self.first), download(device, &self.second)]
    }
}

/// Draws the state of an optimizer after some steps. First moments have either sign; sums of
/// squares and second moments are squares.
pub fn state_values(optimizer: Optimizer, rows: usize, elements: usize) -> [Vec<f32>; 2] {
    let squares = |len| draw(len, 77).iter().map(|x| x * x).collect();
    match optimizer {
        Optimizer::Sgd => [vec![], vec![]],
        Optimizer::Adagrad { .. } => [squares(elements), vec![]],
        Optimizer::RowwiseAdagrad { .. } => [squares(rows), vec![]],
        Optimizer::Adam { .. } => [draw(elements, 78), squares(elements)],
    }
}

/// A batch on a device after its sort, with all that the gradient of its rows is computed from.
pub struct Backward<B: Device, I: Index, G: Stored = f32> {
    pub bags: DeviceBags<B, I>,
    pub sorted: SortedIndices<B>,
    /// The gradient of the pooled output.
    pub grad: (Grid<G>, B::Buffer<G>),
    /// The factor that the gradient contains.
    pub loss_scale: f32,
    /// The sources of maxima, if a feature is pooled by max.
    pub argmax: Option<(Grid<u32>, B::Buffer<u32>)>,
    pub max_gradient: Option<f32>,
    /// The result of the sort, an error if an id is bad.
    pub sort_result: Result<()>,
    /// The gradient of the reference.
    pub expected: RowGradients,
}

impl<B: IndexSortOps + SparseUpdateOps, I: Id, G: Stored + Poison> Backward<B, I, G> {
    /// Sorts the case. The sources of maxima are those of [`BagCase::weights`].
    pub fn new(device: &B, case: &BagCase, grad_output: &[G], max_gradient: Option<f32>) -> Self {
        let (_, sources) = reference::embedding_bag(case, &exact(&case.weights::<f32>()));
        Self::with_sources(device, case, grad_output, max_gradient, &sources)
    }

    /// Sorts the case, with these sources of maxima.
    pub fn with_sources(
        device: &B,
        case: &BagCase,
        grad_output: &[G],
        max_gradient: Option<f32>,
        sources: &[Option<u32>],
    ) -> Self {
        let bags = case.upload::<B, I>(device);
        let num_bags = case.features.len() * case.batch_size;
        let mut sorted = SortedIndices::new(device, case.indices.len(), num_bags).unwrap();
        let words = Sort::<B, I>::workspace_len(device, &case.layout(), case.indices.len());
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let sort = Sort::new(&bags.tables, bags.view(), &mut sorted, B::view_mut(&mut workspace));
        let sort_result = sort.run(device).and_then(|()| device.synchronize());
        let expected = reference::row_gradients(case, &exact(grad_output), sources, max_gradient);
        // If the width allows it, rows start at multiples of 16 bytes in spite of the slack.
        let gap = |other| if case.width().is_multiple_of(4) { 4 } else { other };
        let grad = Grid::new(case.batch_size, case.width(), gap(3), grad_output);
        let argmax = case.layout().has_max().then(|| {
            let sources: Vec<u32> =
                sources.iter().map(|source| source.unwrap_or(u32::POISON)).collect();
            let grid = Grid::new(case.batch_size, case.width(), gap(1), &sources);
            let buffer = grid.upload(device);
            (grid, buffer)
        });
        let grad_buffer = grad.upload(device);
        Self {
            bags,
            sorted,
            grad: (grad, grad_buffer),
            loss_scale: 1.0,
            argmax,
            max_gradient,
            sort_result,
            expected,
        }
    }

    /// Returns the argument from which the ops compute the gradient of rows.
    pub fn source(&self) -> PooledGrad<'_, B, I, G> {
        let mut source = PooledGrad::new(
            &self.bags.tables,
            self.bags.view(),
            &self.sorted,
            self.grad.0.view(&self.grad.1),
        );
        source.argmax = self.argmax.as_ref().map(|(grid, buffer)| grid.view(buffer));
        source.max_gradient = self.max_gradient;
        source.loss_scale(self.loss_scale)
    }

    /// Runs a [`Reduce`].
    pub fn reduce(&self, device: &B, grad: &mut SparseGrad<B>) -> Result<()> {
        let (tables, n) = (self.bags.tables.as_ref(), self.bags.view().num_indices());
        let mut workspace =
            upload(device, &poisoned::<u64>(Reduce::<B, I>::workspace_len(device, tables, n)));
        let reduce = Reduce::new(self.source(), grad, B::view_mut(&mut workspace));
        reduce.run(device).and_then(|()| device.synchronize())
    }

    /// Returns weights and state after an [`Update`].
    pub fn update<E: Stored>(
        &self,
        device: &B,
        case: &BagCase,
        rule: UpdateRule,
        weights: &[E],
        state: &[Vec<f32>; 2],
    ) -> (Vec<E>, [Vec<f32>; 2]) {
        self.update_scaled(device, case, (rule, None), weights, state)
    }

    /// Does what [`Self::update`] does, with a factor for the weight decay of each row.
    pub fn update_scaled<E: Stored>(
        &self,
        device: &B,
        case: &BagCase,
        (rule, decay_scale): (UpdateRule, Option<&[f32]>),
        weights: &[E],
        state: &[Vec<f32>; 2],
    ) -> (Vec<E>, [Vec<f32>; 2]) {
        let decay_scale = decay_scale.map(|scale| upload(device, scale));
        let mut weights = upload(device, weights);
        let mut state = State::new(device, state);
        let words = Update::<B, E, I>::workspace_len(device, &case.layout(), case.indices.len());
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let mut update = Update::new(
            self.source(),
            rule,
            B::view_mut(&mut weights),
            state.view_mut(rule.optimizer),
            B::view_mut(&mut workspace),
        );
        update.decay_scale = decay_scale.as_ref().map(B::view);
        update.run(device).and_then(|()| device.synchronize()).unwrap();
        (download(device, &weights), state.download(device))
    }
}

/// Returns a gradient of no rows whose buffers are poisoned. It has room for `capacity` rows, or
/// for all rows if these are fewer.
pub fn poisoned_grad<B: Device>(device: &B, case: &BagCase, capacity: usize) -> SparseGrad<B> {
    let layout = case.layout();
    let capacity = capacity.min(layout.num_rows());
    let values = upload(device, &poisoned(capacity * layout.max_dim()));
    let [rows, starts] = [capacity, capacity + 1].map(|len| upload(device, &poisoned(len)));
    let counts = upload(device, &poisoned(1));
    SparseGrad::with_buffers(device, &layout, rows, starts, values, counts).unwrap()
}

/// Runs a [`Merge`].
pub fn merge<B: SparseUpdateOps>(
    device: &B,
    tables: &B::Tables,
    (a, b): (&SparseGrad<B>, &SparseGrad<B>),
    out: &mut SparseGrad<B>,
) -> Result<()> {
    let words = Merge::workspace_len(device, tables.as_ref(), a.capacity() + b.capacity());
    let mut workspace = upload(device, &poisoned::<u64>(words));
    let merge = Merge::new(tables, a, b, out, B::view_mut(&mut workspace));
    merge.run(device).and_then(|()| device.synchronize())
}

/// Downloads a gradient: the linear number and the values of each row.
pub fn download_grad<B: Device>(device: &B, grad: &SparseGrad<B>) -> Vec<(u64, Vec<f32>)> {
    let count = download_view(device, grad.counts())[0] as usize;
    let (rows, starts) = (download_view(device, grad.rows()), download_view(device, grad.starts()));
    let values = download_view(device, grad.values());
    let range = |k: usize| starts[k] as usize..starts[k + 1] as usize;
    let grad: Vec<_> = (0..count).map(|k| (rows[k], values[range(k)].to_vec())).collect();
    assert_eq!(starts[0], 0, "the values of the first row start at 0");
    grad
}
