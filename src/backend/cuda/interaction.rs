//! [`interaction`](crate::ops::interaction) on a CUDA device. kernels/interaction.cu computes exact
//! products of `f32`, kernels/interaction_mma.cu computes other products on the tensor cores, and
//! kernels/interaction_tiled.cu takes samples that are too large for the shared memory of either.
//! The headers of these files describe the algorithms.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::{Function, Grid};
use super::runtime::module::{ByElement, Module};
use super::runtime::params::pairs::{
    InteractionBackwardMatrices, InteractionFlag, InteractionForwardMatrices, TILE,
};
use super::runtime::params::vec::VECTOR_BYTES;
use super::runtime::params::{
    interaction as exact, interaction_mma as mma, interaction_tiled as tiled,
};
use super::runtime::pointer::{Ptr, PtrMut};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps, Sizes};
use crate::ops::{Interaction, Matrix, MatrixMut, PairOrder, ViewMut};

/// Bytes of dynamic shared memory that a block has on any device without an attribute of the
/// kernel.
const SHARED: usize = 48 << 10;
/// The number of lanes of a warp.
const WARP: usize = 32;
/// The most samples that do not fill a device, so that each sample gets as many threads as
/// possible.
const FEW_SAMPLES: usize = 1024;
/// The most bytes of shared memory that a sample of interaction_mma.cu may take for each warp of
/// its team: so many such samples fit on a multiprocessor that these warps keep it busy. A larger
/// sample gets a whole block.
const MMA_LIGHT: usize = 9 << 10;

/// The most features whose gradients a warp holds in registers, in the instance for few features
/// and in the instance for many.
const MMA_GRADS: [usize; 2] =
    [(mma::FEW_GROUPS * mma::SIDE) as usize, (mma::MANY_GROUPS * mma::SIDE) as usize];
/// Bytes of each row that one step on the tensor cores multiplies.
const MMA_DEPTH: usize = mma::DEPTH_BYTES as usize;

/// The kernels of the three kernel files.
#[derive(Debug)]
pub(super) struct Kernels {
    forward: Function<exact::InteractionForward>,
    backward: Function<exact::InteractionBackward>,
    copy: ByElement<exact::InteractionCopy<()>>,
    mma_forward: ByElement<mma::InteractionMmaForward<()>>,
    /// The instances for few features and for many.
    mma_backward: [ByElement<mma::InteractionMmaBackward<()>>; 2],
    tiled_forward: ByElement<tiled::InteractionTiledForward<()>>,
    tiled_backward: ByElement<tiled::InteractionTiledBackward<()>>,
    _modules: [Module; 3],
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let exact = Module::load(context, "interaction")?;
        let mma = Module::load(context, "interaction_mma")?;
        let tiled = Module::load(context, "interaction_tiled")?;
        Ok(Self {
            forward: exact.function()?,
            backward: exact.function()?,
            copy: exact.by_element("")?,
            mma_forward: mma.by_element("")?,
            mma_backward: [mma.by_element("_few")?, mma.by_element("_many")?],
            tiled_forward: tiled.by_element("")?,
            tiled_backward: tiled.by_element("")?,
            _modules: [exact, mma, tiled],
        })
    }
}

impl InteractionOps for Cuda {
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Interaction::Dot { .. } = args.interaction else {
            let from = parts(&args.features, 0, self)?;
            let to = Part::of_mut(&args.output, self)?.split(from[0].cols, PtrMut::add);
            let mut copies = from.into_iter().zip(to);
            return copies.try_for_each(|(from, to)| self.copy::<E>(from, to, PtrMut::NULL));
        };
        if args.output.cols == 0 {
            return Ok(());
        }
        let call = Dots::of_forward(&args, self)?;
        match args.precision.is_exact::<E>() {
            true => self.dots::<E>(call),
            false => self.mma_dots::<E>(call),
        }
    }

    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward { interaction, dim, precision, features, .. } = args;
        let Backward { grad_output, grad_features, non_finite, .. } = args;
        let output = Part::of(&grad_output, self)?;
        let non_finite = ViewMut::on_or_null(&non_finite, self)?;
        let Interaction::Dot { .. } = interaction else {
            let to = parts_mut(&grad_features, 0, self)?;
            let from = output.split(to[0].cols, Ptr::add);
            let mut copies = from.into_iter().zip(to);
            return copies.try_for_each(|(from, to)| self.copy::<E>(from, to, non_finite));
        };
        let sizes = features.sizes("interaction.backward", interaction, dim)?;
        if sizes.num_features == 0 {
            return Ok(());
        }
        let call = Dots { interaction, sizes, features: parts(&features, dim, self)?, output };
        let grads = Grads { parts: parts_mut(&grad_features, dim, self)?, non_finite };
        match precision.is_exact::<E>() {
            true => self.dot_grads::<E>(call, grads),
            false => self.mma_dot_grads::<E>(call, grads),
        }
    }
}

/// Some columns of a matrix on the device; `P` is a [`Ptr`] or a [`PtrMut`].
#[derive(Clone, Copy)]
pub(super) struct Part<P> {
    pointer: P,
    rows: usize,
    cols: usize,
    ld: usize,
}

impl<P: Copy> Part<P> {
    /// Splits off the first `cols` columns. `add` is the addition of `P`.
    fn split(self, cols: usize, add: impl Fn(P, usize) -> P) -> [Self; 2] {
        let others = add(self.pointer, cols);
        [Self { cols, ..self }, Self { pointer: others, cols: self.cols - cols, ..self }]
    }
}

impl<E: Element> Part<Ptr<E>> {
    fn of(matrix: &Matrix<'_, Cuda, E>, cuda: &Cuda) -> Result<Self> {
        let &Matrix { rows, cols, ld, .. } = matrix;
        Ok(Self { pointer: matrix.data.on(cuda)?, rows, cols, ld })
    }
}

impl<E: Element> Part<PtrMut<E>> {
    fn of_mut(matrix: &MatrixMut<'_, Cuda, E>, cuda: &Cuda) -> Result<Self> {
        let &MatrixMut { rows, cols, ld, .. } = matrix;
        Ok(Self { pointer: matrix.data.on(cuda)?, rows, cols, ld })
    }
}

/// Returns the first feature and the others. If all features lie in one block, the first one has
/// `dim` columns.
fn parts<E: Element>(
    features: &Features<'_, Cuda, E>,
    dim: usize,
    cuda: &Cuda,
) -> Result<[Part<Ptr<E>>; 2]> {
    Ok(match features {
        Features::Joined { block, .. } => Part::of(block, cuda)?.split(dim, Ptr::add),
        Features::Split { dense, sparse } => [Part::of(dense, cuda)?, Part::of(sparse, cuda)?],
    })
}

/// Returns the first feature and the others for writing, as [`parts`] does for reading.
fn parts_mut<E: Element>(
    features: &FeaturesMut<'_, Cuda, E>,
    dim: usize,
    cuda: &Cuda,
) -> Result<[Part<PtrMut<E>>; 2]> {
    Ok(match features {
        FeaturesMut::Joined { block } => Part::of_mut(block, cuda)?.split(dim, PtrMut::add),
        FeaturesMut::Split { dense, sparse } => {
            [Part::of_mut(dense, cuda)?, Part::of_mut(sparse, cuda)?]
        }
    })
}

/// The arguments of dot products: the features, and the output or its gradient.
#[derive(Clone, Copy)]
pub(super) struct Dots<E, P> {
    interaction: Interaction,
    sizes: Sizes,
    features: [Part<Ptr<E>>; 2],
    output: Part<P>,
}

/// The gradients of the features, and the word that says whether one is not finite, or null.
#[derive(Clone, Copy)]
struct Grads<E> {
    parts: [Part<PtrMut<E>>; 2],
    non_finite: PtrMut<u64>,
}

impl<E: Element, P: Copy> Dots<E, P> {
    fn flags(&self) -> u32 {
        let Interaction::Dot { order, include_self, append_sparse, .. } = self.interaction else {
            return 0;
        };
        let flag = |is_set: bool, flag: InteractionFlag| if is_set { flag as u32 } else { 0 };
        flag(self.sizes.has_dense, InteractionFlag::HasDense)
            | flag(order == PairOrder::UpperTriangle, InteractionFlag::Upper)
            | flag(include_self, InteractionFlag::IncludeSelf)
            | flag(append_sparse, InteractionFlag::AppendSparse)
    }

    /// Returns the number of columns of the output without padding.
    fn filled(&self) -> usize {
        let Sizes { has_dense, num_features, dim, .. } = self.sizes;
        let Interaction::Dot { append_sparse, .. } = self.interaction else { return 0 };
        let vectors = if append_sparse { num_features } else { usize::from(has_dense) };
        vectors * dim + self.interaction.num_pairs(num_features)
    }

    /// Returns whether a team on the tensor cores may be smaller than a block: there are many
    /// samples, of few features.
    fn are_many_and_small(&self) -> bool {
        self.sizes.batch_size > FEW_SAMPLES && self.sizes.num_features <= MMA_GRADS[0]
    }

    /// Returns a grid with a team of `threads` threads for each sample, which takes `bytes` of
    /// shared memory, and the number of threads of a team. Returns `None` if a sample needs too
    /// much shared memory. A block has several teams only if a team is a warp.
    fn teams(&self, threads: usize, bytes: usize) -> Option<(Grid, u32)> {
        let most = if threads == WARP { exact::THREADS / WARP } else { 1 };
        let teams = most.min(SHARED / bytes);
        let blocks = self.sizes.batch_size.div_ceil(teams.max(1)) as u32;
        let shared = (teams * bytes) as u32;
        let grid = Grid { shared, ..Grid::new((blocks, 1), teams * threads) };
        (teams > 0).then_some((grid, threads as u32))
    }
}

impl<E: Element> Dots<E, PtrMut<E>> {
    /// Returns the dot products of a forward pass.
    pub(super) fn of_forward(args: &Forward<'_, Cuda, E>, cuda: &Cuda) -> Result<Self> {
        let Forward { interaction, dim, features, output, .. } = args;
        Ok(Self {
            interaction: *interaction,
            sizes: features.sizes("interaction.forward", *interaction, *dim)?,
            features: parts(features, *dim, cuda)?,
            output: Part::of_mut(output, cuda)?,
        })
    }

    /// Returns the grid and the number of threads of a team on the tensor cores, or `None` if a
    /// sample needs too much shared memory.
    pub(super) fn mma_teams(&self) -> Option<(Grid, u32)> {
        let Sizes { num_features, dim, .. } = self.sizes;
        let pitch =
            dim.next_multiple_of(MMA_DEPTH / size_of::<E>()) + VECTOR_BYTES / size_of::<E>();
        let bytes = (num_features * pitch + row_room::<E>(self.output.cols)) * size_of::<E>();
        let threads =
            if self.are_many_and_small() && bytes <= MMA_LIGHT { WARP } else { mma::THREADS };
        self.teams(threads, bytes)
    }

    /// Returns the parameters of the kernels for `F`, which is `E`.
    pub(super) fn forward<F: Element>(&self) -> InteractionForwardMatrices<F> {
        debug_assert_eq!(E::DTYPE, F::DTYPE);
        let ([head, tail], output) = (self.features, self.output);
        InteractionForwardMatrices {
            head: head.pointer.cast(),
            tail: tail.pointer.cast(),
            output: output.pointer.cast(),
            head_ld: head.ld as u64,
            tail_ld: tail.ld as u64,
            output_ld: output.ld as u64,
            width: output.cols as u64,
            num_features: self.sizes.num_features as u32,
            dim: self.sizes.dim as u32,
            flags: self.flags(),
        }
    }
}

impl<E: Element> Dots<E, Ptr<E>> {
    /// Returns the parameters of the kernels for `F`, which is `E`.
    fn backward<F: Element>(
        &self,
        Grads { parts: [grad_head, grad_tail], non_finite }: Grads<E>,
    ) -> InteractionBackwardMatrices<F> {
        debug_assert_eq!(E::DTYPE, F::DTYPE);
        let ([head, tail], grad_output) = (self.features, self.output);
        InteractionBackwardMatrices {
            head: head.pointer.cast(),
            tail: tail.pointer.cast(),
            grad_output: grad_output.pointer.cast(),
            grad_head: grad_head.pointer.cast(),
            grad_tail: grad_tail.pointer.cast(),
            non_finite,
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
}

/// Returns the number of elements that a row of the output may take in shared memory. There it
/// begins as many bytes behind a multiple of 16 bytes as it does in global memory.
fn row_room<E: Element>(width: usize) -> usize {
    let run = VECTOR_BYTES / size_of::<E>();
    (width + run - 1).next_multiple_of(run)
}

// SAFETY of all launches below: the function is the instance of the kernel for `E`. The op has been
// validated: features, output and gradients are matrices of the sizes that the kernel is given, and
// the memory that is written is an exclusive view. A block has the shared memory that its teams
// need.
impl Cuda {
    fn dots<E: Element>(&self, call: Dots<E, PtrMut<E>>) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let run = VECTOR_BYTES / size_of::<E>();
        let side = num_features.div_ceil(TILE);
        let tiles = side * (side + 1) / 2;
        // The pitch is an odd number of runs, so that neighbouring rows begin in different banks.
        let pitch = (dim.div_ceil(run) | 1) * run;
        let elements = num_features * pitch + row_room::<E>(call.output.cols);
        // The number of threads decides how a dot product is split into sums, so it does not depend
        // on the batch size.
        let threads = if tiles <= WARP { WARP } else { exact::THREADS };
        let Some((grid, team_threads)) = call.teams(threads, elements * size_of::<E>()) else {
            return self.tiled_dots::<E>(call);
        };
        let slices = 1 << (team_threads as usize / tiles).clamp(1, WARP).ilog2();
        let (batch_size, pitch) = (batch_size as u32, pitch as u32);
        let parameters = exact::InteractionForward {
            matrices: call.forward(),
            batch_size,
            team_threads,
            pitch,
            slices,
        };
        // SAFETY: see above.
        unsafe { self.inner.kernels.interaction.forward.launch(self, grid, parameters) }
    }

    fn mma_dots<E: Element>(&self, call: Dots<E, PtrMut<E>>) -> Result<()> {
        let Some((grid, team_threads)) = call.mma_teams() else {
            return self.tiled_dots::<E>(call);
        };
        let batch_size = call.sizes.batch_size as u32;
        let parameters =
            mma::InteractionMmaForward { matrices: call.forward::<E>(), batch_size, team_threads };
        // SAFETY: see above.
        unsafe {
            self.inner.kernels.interaction.mma_forward.of::<E>().launch(self, grid, parameters)
        }
    }

    fn tiled_dots<E: Element>(&self, call: Dots<E, PtrMut<E>>) -> Result<()> {
        let sides = call.sizes.num_features.div_ceil(tiled::SIDE);
        let tiles = (sides * (sides + 1) / 2).min(Grid::MAX_Y);
        let grid = Grid::new((call.sizes.batch_size as u32, tiles as u32), tiled::THREADS);
        let parameters = tiled::InteractionTiledForward { matrices: call.forward::<E>() };
        // SAFETY: see above.
        unsafe {
            self.inner.kernels.interaction.tiled_forward.of::<E>().launch(self, grid, parameters)
        }
    }

    fn dot_grads<E: Element>(&self, call: Dots<E, Ptr<E>>, grads: Grads<E>) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let run = VECTOR_BYTES / size_of::<E>();
        let (groups, runs) = (num_features.div_ceil(exact::GRAD_ROWS), dim.div_ceil(run));
        let elements =
            num_features * (runs * run + groups * exact::GRAD_ROWS) + row_room::<E>(call.filled());
        let threads = match batch_size {
            ..=FEW_SAMPLES => exact::THREADS,
            _ => (groups * runs).next_power_of_two().clamp(WARP, exact::THREADS),
        };
        let Some((grid, team_threads)) = call.teams(threads, elements * size_of::<E>()) else {
            return self.tiled_dot_grads::<E>(call, grads);
        };
        let batch_size = batch_size as u32;
        let parameters =
            exact::InteractionBackward { matrices: call.backward(grads), batch_size, team_threads };
        // SAFETY: see above.
        unsafe { self.inner.kernels.interaction.backward.launch(self, grid, parameters) }
    }

    fn mma_dot_grads<E: Element>(&self, call: Dots<E, Ptr<E>>, grads: Grads<E>) -> Result<()> {
        let Sizes { batch_size, num_features, dim, .. } = call.sizes;
        let pitch = dim.next_multiple_of(mma::SIDE as usize) + 8;
        let matrix_pitch = num_features.next_multiple_of(MMA_DEPTH / size_of::<E>())
            + VECTOR_BYTES / size_of::<E>();
        let bytes =
            (num_features * (pitch + matrix_pitch) + row_room::<E>(call.filled())) * size_of::<E>();
        let threads = if call.are_many_and_small() && bytes <= 2 * MMA_LIGHT {
            2 * WARP
        } else {
            mma::THREADS
        };
        let mut functions = MMA_GRADS.into_iter().zip(&self.inner.kernels.interaction.mma_backward);
        let of_size = functions.find(|(most, _)| num_features <= *most);
        let (Some((grid, team_threads)), Some((_, function))) =
            (call.teams(threads, bytes), of_size)
        else {
            return self.tiled_dot_grads::<E>(call, grads);
        };
        let batch_size = batch_size as u32;
        let parameters = mma::InteractionMmaBackward {
            matrices: call.backward::<E>(grads),
            batch_size,
            team_threads,
        };
        // SAFETY: see above.
        unsafe { function.of::<E>().launch(self, grid, parameters) }
    }

    fn tiled_dot_grads<E: Element>(&self, call: Dots<E, Ptr<E>>, grads: Grads<E>) -> Result<()> {
        let tiles =
            call.sizes.num_features.div_ceil(tiled::SIDE) * call.sizes.dim.div_ceil(tiled::SIDE);
        let grid = Grid::new(
            (call.sizes.batch_size as u32, tiles.min(Grid::MAX_Y) as u32),
            tiled::THREADS,
        );
        let parameters = tiled::InteractionTiledBackward { matrices: call.backward::<E>(grads) };
        // SAFETY: see above.
        unsafe {
            self.inner.kernels.interaction.tiled_backward.of::<E>().launch(self, grid, parameters)
        }
    }

    /// Copies a matrix to one of the same shape. Sets the word `non_finite`, unless it is null, if
    /// a value is not finite.
    fn copy<E: Element>(
        &self,
        from: Part<Ptr<E>>,
        to: Part<PtrMut<E>>,
        non_finite: PtrMut<u64>,
    ) -> Result<()> {
        let grid = Grid::looping(from.rows * from.cols, exact::COPY_THREADS, Grid::FILLING);
        let parameters = exact::InteractionCopy {
            from: from.pointer,
            to: to.pointer,
            non_finite,
            from_ld: from.ld as u64,
            to_ld: to.ld as u64,
            rows: from.rows as u64,
            cols: from.cols as u64,
        };
        // SAFETY: see above.
        unsafe { self.inner.kernels.interaction.copy.of::<E>().launch(self, grid, parameters) }
    }
}
