//! [`interaction`](crate::ops::interaction) on a CUDA device: exact products of `f32` by
//! kernels/interaction.cu, others on the tensor cores by kernels/interaction_mma.cu, samples that
//! are too large for these by kernels/interaction_tiled.cu.

use super::Cuda;
use super::kernels::{
    Grid, InteractionBackward, InteractionBackwardMatrices, InteractionCopy, InteractionForward,
    InteractionForwardMatrices, InteractionMmaBackward, InteractionMmaForward,
    InteractionTiledBackward, InteractionTiledForward,
};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps, Sizes};
use crate::ops::pooled_interaction::PooledInteractionOps;
use crate::ops::{Interaction, Matrix, MatrixMut, PairOrder};

/// Dynamic shared memory that a block of any device has without asking.
const SHARED: usize = 48 << 10;
/// Threads of a block at most, as the kernels are compiled.
const THREADS: usize = 128;
const WARP: usize = 32;
/// Bytes that move at once.
const RUN: usize = 16;
/// Samples that do not fill a device, so that each is given as many threads as there can be.
const FEW_SAMPLES: usize = 1024;
/// interaction_mma.cu: bytes of a sample of which a multiprocessor has so many that a warp each
/// keeps it busy. Larger ones take more threads.
const MMA_LIGHT: usize = 9 << 10;

/// interaction.cu: a thread has the pairs of as many features with as many others in registers.
const TILE: usize = 4;
/// interaction.cu: a thread has a run of the gradients of as many features in registers.
const GRAD_ROWS: usize = 16;
/// interaction_mma.cu: features, or columns of their gradients, of a matrix product, and bytes of
/// each row.
const MMA_SIDE: usize = 16;
const MMA_DEPTH: usize = 32;
/// interaction_mma.cu: features whose gradients a warp has in registers, where they are few and
/// where they are many.
const MMA_GRADS: [usize; 2] = [32, 64];
/// interaction_tiled.cu: threads of a block, features and columns of its tiles.
const TILED_THREADS: u32 = 256;
const TILED_SIDE: usize = 64;
/// Threads of a block that copies.
const COPY_THREADS: u32 = 256;

// As in kernels/common/pairs.cuh.
const HAS_DENSE: u32 = 1;
const UPPER: u32 = 2;
const INCLUDE_SELF: u32 = 4;
const APPEND_SPARSE: u32 = 8;

impl PooledInteractionOps for Cuda {}

impl InteractionOps for Cuda {
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { interaction, dim, precision, features, output } = args;
        let output = Part::of_mut(&output, self)?;
        let Interaction::Dot { .. } = interaction else {
            let from = parts(&features, 0, self)?;
            let to = output.split::<E>(from[0].cols);
            return from.into_iter().zip(to).try_for_each(|(from, to)| self.copy::<E>(from, to));
        };
        if output.cols == 0 {
            return Ok(());
        }
        let sizes = features.sizes("interaction.forward", interaction, dim)?;
        let call = Dots { interaction, sizes, features: parts(&features, dim, self)?, output };
        match precision.is_exact::<E>() {
            true => self.dots::<E>(call),
            false => self.mma_dots::<E>(call),
        }
    }

    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward { interaction, dim, precision, features, grad_output, grad_features } = args;
        let output = Part::of(&grad_output, self)?;
        let Interaction::Dot { .. } = interaction else {
            let to = parts_mut(&grad_features, 0, self)?;
            let from = output.split::<E>(to[0].cols);
            return from.into_iter().zip(to).try_for_each(|(from, to)| self.copy::<E>(from, to));
        };
        let sizes = features.sizes("interaction.backward", interaction, dim)?;
        if sizes.num_features == 0 {
            return Ok(());
        }
        let call = Dots { interaction, sizes, features: parts(&features, dim, self)?, output };
        let grads = parts_mut(&grad_features, dim, self)?;
        match precision.is_exact::<E>() {
            true => self.dot_grads::<E>(call, grads),
            false => self.mma_dot_grads::<E>(call, grads),
        }
    }
}

/// Columns of a matrix on the device.
#[derive(Clone, Copy)]
struct Part {
    pointer: u64,
    rows: usize,
    cols: usize,
    ld: usize,
}

impl Part {
    fn of<E: Element>(matrix: &Matrix<'_, Cuda, E>, cuda: &Cuda) -> Result<Self> {
        Ok(Self {
            pointer: matrix.data.on(cuda)?,
            rows: matrix.rows,
            cols: matrix.cols,
            ld: matrix.ld,
        })
    }

    fn of_mut<E: Element>(matrix: &MatrixMut<'_, Cuda, E>, cuda: &Cuda) -> Result<Self> {
        Ok(Self {
            pointer: matrix.data.on(cuda)?,
            rows: matrix.rows,
            cols: matrix.cols,
            ld: matrix.ld,
        })
    }

    /// The first `cols` columns, and the others.
    fn split<E: Element>(self, cols: usize) -> [Self; 2] {
        let others = self.pointer + (cols * size_of::<E>()) as u64;
        [Self { cols, ..self }, Self { pointer: others, cols: self.cols - cols, ..self }]
    }
}

/// The first feature, of `dim` columns if all lie side by side, and the others.
fn parts<E: Element>(
    features: &Features<'_, Cuda, E>,
    dim: usize,
    cuda: &Cuda,
) -> Result<[Part; 2]> {
    Ok(match features {
        Features::Joined { block, .. } => Part::of(block, cuda)?.split::<E>(dim),
        Features::Split { dense, sparse } => [Part::of(dense, cuda)?, Part::of(sparse, cuda)?],
    })
}

/// As [`parts`].
fn parts_mut<E: Element>(
    features: &FeaturesMut<'_, Cuda, E>,
    dim: usize,
    cuda: &Cuda,
) -> Result<[Part; 2]> {
    Ok(match features {
        FeaturesMut::Joined { block } => Part::of_mut(block, cuda)?.split::<E>(dim),
        FeaturesMut::Split { dense, sparse } => {
            [Part::of_mut(dense, cuda)?, Part::of_mut(sparse, cuda)?]
        }
    })
}

/// What all kernels are about: features, and the output or its gradient.
#[derive(Clone, Copy)]
struct Dots {
    interaction: Interaction,
    sizes: Sizes,
    features: [Part; 2],
    output: Part,
}

impl Dots {
    fn flags(&self) -> u32 {
        let Interaction::Dot { order, include_self, append_sparse, .. } = self.interaction else {
            return 0;
        };
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        flag(self.sizes.has_dense, HAS_DENSE)
            | flag(order == PairOrder::UpperTriangle, UPPER)
            | flag(include_self, INCLUDE_SELF)
            | flag(append_sparse, APPEND_SPARSE)
    }

    fn forward(&self) -> InteractionForwardMatrices {
        let ([head, tail], output) = (self.features, self.output);
        InteractionForwardMatrices {
            head: head.pointer,
            tail: tail.pointer,
            output: output.pointer,
            head_ld: head.ld as u64,
            tail_ld: tail.ld as u64,
            output_ld: output.ld as u64,
            width: output.cols as u64,
            num_features: self.sizes.num_features as u32,
            dim: self.sizes.dim as u32,
            flags: self.flags(),
        }
    }

    fn backward(&self, [grad_head, grad_tail]: [Part; 2]) -> InteractionBackwardMatrices {
        let ([head, tail], grad_output) = (self.features, self.output);
        InteractionBackwardMatrices {
            head: head.pointer,
            tail: tail.pointer,
            grad_output: grad_output.pointer,
            grad_head: grad_head.pointer,
            grad_tail: grad_tail.pointer,
            head_ld: head.ld as u64,
            tail_ld: tail.ld as u64,
            grad_output_ld: grad_output.ld as u64,
            grad_head_ld: grad_head.ld as u64,
            grad_tail_ld: grad_tail.ld as u64,
            num_features: self.sizes.num_features as u32,
            dim: self.sizes.dim as u32,
            flags: self.flags(),
        }
    }

    /// The columns of the output without those of padding.
    fn filled(&self) -> usize {
        let Sizes { has_dense, num_features, dim, .. } = self.sizes;
        let Interaction::Dot { append_sparse, .. } = self.interaction else { return 0 };
        let vectors = if append_sparse { num_features } else { usize::from(has_dense) };
        vectors * dim + self.interaction.num_pairs(num_features)
    }

    /// Whether there are enough samples, of features that are few enough, for teams on the tensor
    /// cores that are no whole blocks.
    fn are_many_and_small(&self) -> bool {
        self.sizes.batch_size > FEW_SAMPLES && self.sizes.num_features <= MMA_GRADS[0]
    }

    /// A team of so many threads for each sample, which takes so many bytes of shared memory; none
    /// if these are too many. A block has several teams only if these are warps.
    fn teams(&self, threads: usize, bytes: usize) -> Option<(Grid, u32)> {
        let most = if threads == WARP { THREADS / WARP } else { 1 };
        let teams = most.min(SHARED / bytes);
        let blocks = self.sizes.batch_size.div_ceil(teams.max(1)) as u32;
        let grid = Grid {
            blocks: (blocks, 1),
            threads: (teams * threads) as u32,
            shared: (teams * bytes) as u32,
        };
        (teams > 0).then_some((grid, threads as u32))
    }
}

/// The elements that a row of the output may take in shared memory, where it begins as far behind a
/// multiple of 16 bytes as it really does.
fn row_room<E: Element>(width: usize) -> usize {
    let run = RUN / size_of::<E>();
    (width + run - 1).next_multiple_of(run)
}

// SAFETY of all launches below: the function is the kernel's, for `E`. The op has been validated:
// features, output and gradients are matrices of the sizes that the kernel is given, and what is
// written is an exclusive view. A block has the shared memory that its teams take.
impl Cuda {
    fn dots<E: Element>(&self, call: Dots) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let run = RUN / size_of::<E>();
        let side = num_features.div_ceil(TILE);
        let tiles = side * (side + 1) / 2;
        // An odd number of runs, so that neighbouring rows begin in different banks.
        let pitch = (dim.div_ceil(run) | 1) * run;
        let elements = num_features * pitch + row_room::<E>(call.output.cols);
        // What a thread sums up depends on how many there are.
        let threads = if tiles <= WARP { WARP } else { THREADS };
        let Some((grid, team_threads)) = call.teams(threads, elements * size_of::<E>()) else {
            return self.tiled_dots::<E>(call);
        };
        let slices = 1 << (team_threads as usize / tiles).clamp(1, WARP).ilog2();
        let (batch_size, pitch) = (batch_size as u32, pitch as u32);
        let kernel = InteractionForward {
            matrices: call.forward(),
            batch_size,
            team_threads,
            pitch,
            slices,
        };
        // SAFETY: see above.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_forward, grid) }
    }

    fn mma_dots<E: Element>(&self, call: Dots) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let pitch = dim.next_multiple_of(MMA_DEPTH / size_of::<E>()) + RUN / size_of::<E>();
        let bytes = (num_features * pitch + row_room::<E>(call.output.cols)) * size_of::<E>();
        let threads = if call.are_many_and_small() && bytes <= MMA_LIGHT { WARP } else { THREADS };
        let Some((grid, team_threads)) = call.teams(threads, bytes) else {
            return self.tiled_dots::<E>(call);
        };
        let batch_size = batch_size as u32;
        let kernel = InteractionMmaForward { matrices: call.forward(), batch_size, team_threads };
        // SAFETY: see above.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_mma_forward.of::<E>(), grid) }
    }

    fn tiled_dots<E: Element>(&self, call: Dots) -> Result<()> {
        let sides = call.sizes.num_features.div_ceil(TILED_SIDE);
        let tiles = (sides * (sides + 1) / 2).min(Grid::MAX_Y);
        let grid = Grid::new((call.sizes.batch_size as u32, tiles as u32), TILED_THREADS);
        let kernel = InteractionTiledForward { matrices: call.forward() };
        // SAFETY: see above.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_tiled_forward.of::<E>(), grid) }
    }

    fn dot_grads<E: Element>(&self, call: Dots, grads: [Part; 2]) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let run = RUN / size_of::<E>();
        let (groups, runs) = (num_features.div_ceil(GRAD_ROWS), dim.div_ceil(run));
        let elements =
            num_features * (runs * run + groups * GRAD_ROWS) + row_room::<E>(call.filled());
        let threads = match batch_size {
            ..=FEW_SAMPLES => THREADS,
            _ => (groups * runs).next_power_of_two().clamp(WARP, THREADS),
        };
        let Some((grid, team_threads)) = call.teams(threads, elements * size_of::<E>()) else {
            return self.tiled_dot_grads::<E>(call, grads);
        };
        let batch_size = batch_size as u32;
        let kernel =
            InteractionBackward { matrices: call.backward(grads), batch_size, team_threads };
        // SAFETY: see above.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_backward, grid) }
    }

    fn mma_dot_grads<E: Element>(&self, call: Dots, grads: [Part; 2]) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let pitch = dim.next_multiple_of(MMA_SIDE) + 8;
        let matrix_pitch =
            num_features.next_multiple_of(MMA_DEPTH / size_of::<E>()) + RUN / size_of::<E>();
        let bytes =
            (num_features * (pitch + matrix_pitch) + row_room::<E>(call.filled())) * size_of::<E>();
        let threads =
            if call.are_many_and_small() && bytes <= 2 * MMA_LIGHT { 2 * WARP } else { THREADS };
        let mut functions = MMA_GRADS.into_iter().zip(&self.inner.kernels.interaction_mma_backward);
        let of_size = functions.find(|(most, _)| num_features <= *most);
        let (Some((grid, team_threads)), Some((_, function))) =
            (call.teams(threads, bytes), of_size)
        else {
            return self.tiled_dot_grads::<E>(call, grads);
        };
        let batch_size = batch_size as u32;
        let kernel =
            InteractionMmaBackward { matrices: call.backward(grads), batch_size, team_threads };
        // SAFETY: see above.
        unsafe { kernel.launch(self, function.of::<E>(), grid) }
    }

    fn tiled_dot_grads<E: Element>(&self, call: Dots, grads: [Part; 2]) -> Result<()> {
        let tiles =
            call.sizes.num_features.div_ceil(TILED_SIDE) * call.sizes.dim.div_ceil(TILED_SIDE);
        let grid =
            Grid::new((call.sizes.batch_size as u32, tiles.min(Grid::MAX_Y) as u32), TILED_THREADS);
        let kernel = InteractionTiledBackward { matrices: call.backward(grads) };
        // SAFETY: see above.
        unsafe {
            kernel.launch(self, self.inner.kernels.interaction_tiled_backward.of::<E>(), grid)
        }
    }

    /// Copies a matrix to one of the same shape.
    fn copy<E: Element>(&self, from: Part, to: Part) -> Result<()> {
        let grid = Grid::looping(from.rows * from.cols, COPY_THREADS, Grid::FILLING);
        let kernel = InteractionCopy {
            from: from.pointer,
            to: to.pointer,
            from_ld: from.ld as u64,
            to_ld: to.ld as u64,
            rows: from.rows as u64,
            cols: from.cols as u64,
        };
        // SAFETY: see above.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_copy.of::<E>(), grid) }
    }
}
