//! [`interaction`](crate::ops::interaction) on a CUDA device: kernels/interaction.cu and kernels/interaction_tiled.cu say how.

use super::Cuda;
use super::kernels::{
    Grid, InteractionBackward, InteractionCopy, InteractionForward, InteractionTiledBackward, InteractionTiledForward,
};
use crate::error::Result;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps, Sizes};
use crate::ops::{Interaction, Matrix, MatrixMut, PairOrder};

/// Dynamic shared memory that a block of any device has without asking.
const SHARED: usize = 48 << 10;
/// Threads of a block at most, as the kernels are compiled.
const THREADS: usize = 128;
const WARP: usize = 32;
/// Floats that move at once.
const RUN: usize = 4;
/// A thread has the pairs of as many features with as many others in registers.
const TILE: usize = 4;
/// A thread has a run of the gradients of as many features in registers.
const GRAD_ROWS: usize = 16;

/// Threads of a block of interaction_tiled.cu, and the features and columns of its tiles.
const TILED_THREADS: u32 = 256;
const TILED_SIDE: usize = 64;
/// The limit of the second dimension of a grid.
const MAX_BLOCKS_Y: usize = 65_535;

/// Threads of a block that copies, and enough blocks to fill any device.
const COPY_THREADS: u32 = 256;
const MAX_COPY_BLOCKS: usize = 4096;

// As in kernels/common/pairs.cuh.
const HAS_DENSE: u32 = 1;
const UPPER: u32 = 2;
const INCLUDE_SELF: u32 = 4;
const APPEND_SPARSE: u32 = 8;

impl InteractionOps for Cuda {
    fn interaction_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        let Forward { interaction, dim, features, output } = args;
        let output = Part::of_mut(&output);
        let Interaction::Dot { .. } = interaction else {
            let from = parts(&features, 0);
            let to = output.split(from[0].cols);
            return from.into_iter().zip(to).try_for_each(|(from, to)| self.copy(from, to));
        };
        let sizes = features.sizes("interaction.forward", interaction, dim)?;
        match output.cols {
            0 => Ok(()),
            _ => self.dots(interaction, sizes, parts(&features, dim), output),
        }
    }

    fn interaction_backward(&self, args: Backward<'_, Self>) -> Result<()> {
        let Backward { interaction, dim, features, grad_output, grad_features } = args;
        let grad_output = Part::of(&grad_output);
        let Interaction::Dot { .. } = interaction else {
            let to = parts_mut(&grad_features, 0);
            let from = grad_output.split(to[0].cols);
            return from.into_iter().zip(to).try_for_each(|(from, to)| self.copy(from, to));
        };
        let sizes = features.sizes("interaction.backward", interaction, dim)?;
        match sizes.num_features {
            0 => Ok(()),
            _ => self.dot_grads(interaction, sizes, parts(&features, dim), grad_output, parts_mut(&grad_features, dim)),
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
    fn of(matrix: &Matrix<'_, Cuda, f32>) -> Self {
        Self { pointer: matrix.data.pointer(), rows: matrix.rows, cols: matrix.cols, ld: matrix.ld }
    }

    fn of_mut(matrix: &MatrixMut<'_, Cuda, f32>) -> Self {
        Self { pointer: matrix.data.pointer(), rows: matrix.rows, cols: matrix.cols, ld: matrix.ld }
    }

    /// The first `cols` columns, and the others.
    fn split(self, cols: usize) -> [Self; 2] {
        let others = self.pointer + (cols * size_of::<f32>()) as u64;
        [Self { cols, ..self }, Self { pointer: others, cols: self.cols - cols, ..self }]
    }
}

/// The first feature, of `dim` columns if all lie side by side, and the others.
fn parts(features: &Features<'_, Cuda>, dim: usize) -> [Part; 2] {
    match features {
        Features::Joined { block, .. } => Part::of(block).split(dim),
        Features::Split { dense, sparse } => [Part::of(dense), Part::of(sparse)],
    }
}

/// As [`parts`].
fn parts_mut(features: &FeaturesMut<'_, Cuda>, dim: usize) -> [Part; 2] {
    match features {
        FeaturesMut::Joined { block } => Part::of_mut(block).split(dim),
        FeaturesMut::Split { dense, sparse } => [Part::of_mut(dense), Part::of_mut(sparse)],
    }
}

fn flags(interaction: Interaction, sizes: Sizes) -> u32 {
    let Interaction::Dot { order, include_self, append_sparse, .. } = interaction else { return 0 };
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    flag(sizes.has_dense, HAS_DENSE)
        | flag(order == PairOrder::UpperTriangle, UPPER)
        | flag(include_self, INCLUDE_SELF)
        | flag(append_sparse, APPEND_SPARSE)
}

/// A team of threads for each sample, which takes `floats` of shared memory; none if these are too many. A warp does up to `light` units of work
/// fast enough.
fn teams(batch_size: usize, work: usize, light: usize, floats: usize) -> Option<(Grid, usize)> {
    let bytes = floats * size_of::<f32>();
    let threads = if work <= light { WARP } else { THREADS };
    let teams = (THREADS / threads).min(SHARED / bytes);
    let blocks = batch_size.div_ceil(teams.max(1)) as u32;
    let grid = Grid { blocks: (blocks, 1), threads: (teams * threads) as u32, shared: (teams * bytes) as u32 };
    (teams > 0).then_some((grid, threads))
}

impl Cuda {
    /// Dense vector, pairs, appended features and zeros.
    fn dots(&self, interaction: Interaction, sizes: Sizes, [head, tail]: [Part; 2], output: Part) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = sizes;
        let (side, units) = (num_features.div_ceil(TILE), dim.div_ceil(RUN));
        let tiles = side * (side + 1) / 2;
        // An odd number of runs, so that neighbouring rows begin in different banks.
        let pitch = (units | 1) * RUN;
        let pairs = interaction.num_pairs(num_features).next_multiple_of(RUN);
        let floats = (num_features - 1) * pitch + units * RUN + pairs;
        let Some((grid, threads)) = teams(batch_size, tiles, WARP, floats) else {
            return self.tiled_dots(interaction, sizes, [head, tail], output);
        };
        let kernel = InteractionForward {
            head: head.pointer,
            tail: tail.pointer,
            output: output.pointer,
            head_ld: head.ld as u64,
            tail_ld: tail.ld as u64,
            output_ld: output.ld as u64,
            width: output.cols as u64,
            batch_size: batch_size as u32,
            num_features: num_features as u32,
            dim: dim as u32,
            flags: flags(interaction, sizes),
            team_threads: threads as u32,
            pitch: pitch as u32,
            slices: 1 << (threads / tiles).clamp(1, WARP).ilog2(),
        };
        // SAFETY: the function is the kernel's. The op has been validated: features and output are matrices of the sizes that the kernel is
        // given, and the output is an exclusive view. A block has the shared memory that its teams take.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_forward, grid) }
    }

    fn tiled_dots(&self, interaction: Interaction, sizes: Sizes, [head, tail]: [Part; 2], output: Part) -> Result<()> {
        let sides = sizes.num_features.div_ceil(TILED_SIDE);
        let tiles = (sides * (sides + 1) / 2).min(MAX_BLOCKS_Y);
        let kernel = InteractionTiledForward {
            head: head.pointer,
            tail: tail.pointer,
            output: output.pointer,
            head_ld: head.ld as u64,
            tail_ld: tail.ld as u64,
            output_ld: output.ld as u64,
            width: output.cols as u64,
            num_features: sizes.num_features as u32,
            dim: sizes.dim as u32,
            flags: flags(interaction, sizes),
        };
        let grid = Grid::new((sizes.batch_size as u32, tiles as u32), TILED_THREADS);
        // SAFETY: as in `dots`, without dynamic shared memory.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_tiled_forward, grid) }
    }

    /// The gradients of all features.
    fn dot_grads(
        &self,
        interaction: Interaction,
        sizes: Sizes,
        [head, tail]: [Part; 2],
        grad_output: Part,
        [grad_head, grad_tail]: [Part; 2],
    ) -> Result<()> {
        let Sizes { batch_size, num_features, dim, has_dense } = sizes;
        let (groups, units) = (num_features.div_ceil(GRAD_ROWS), dim.div_ceil(RUN));
        let direct = if has_dense { dim } else { 0 };
        let grads = (direct + interaction.num_pairs(num_features)).next_multiple_of(RUN);
        let floats = num_features * (units * RUN + groups * GRAD_ROWS) + grads;
        let flags = flags(interaction, sizes);
        let Some((grid, threads)) = teams(batch_size, groups * units, 2 * WARP, floats) else {
            let tiles = num_features.div_ceil(TILED_SIDE) * dim.div_ceil(TILED_SIDE);
            let kernel = InteractionTiledBackward {
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
                num_features: num_features as u32,
                dim: dim as u32,
                flags,
            };
            let grid = Grid::new((batch_size as u32, tiles.min(MAX_BLOCKS_Y) as u32), TILED_THREADS);
            // SAFETY: as below, without dynamic shared memory.
            return unsafe { kernel.launch(self, self.inner.kernels.interaction_tiled_backward, grid) };
        };
        let kernel = InteractionBackward {
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
            batch_size: batch_size as u32,
            num_features: num_features as u32,
            dim: dim as u32,
            flags,
            team_threads: threads as u32,
        };
        // SAFETY: the function is the kernel's. The op has been validated: features, their gradients and the gradient of the output are matrices
        // of the sizes that the kernel is given, and the gradients of the features are exclusive views. A block has the shared memory that its
        // teams take.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_backward, grid) }
    }

    /// Copies a matrix to one of the same shape.
    fn copy(&self, from: Part, to: Part) -> Result<()> {
        let runs = (from.rows * from.cols).div_ceil(COPY_THREADS as usize);
        let kernel = InteractionCopy {
            from: from.pointer,
            to: to.pointer,
            from_ld: from.ld as u64,
            to_ld: to.ld as u64,
            rows: from.rows as u64,
            cols: from.cols as u64,
        };
        let grid = Grid::new((runs.min(MAX_COPY_BLOCKS) as u32, 1), COPY_THREADS);
        // SAFETY: the function is the kernel's. The op has been validated: both are matrices of that shape, and what is written is part of an
        // exclusive view.
        unsafe { kernel.launch(self, self.inner.kernels.interaction_copy, grid) }
    }
}
