//! Values of all tables, weights or optimizer state: in one buffer, or in memory of each table's
//! own.

use std::sync::Arc;

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::tables::{Feature, Table, TableBatch};
use super::views::{Memory, View, ViewMut};
use crate::dtype::Scalar;
use crate::error::{Result, expect_size, invalid};

const OP: &str = "SeparateTables";

/// The parts of a table that have a value each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    /// The elements, as of weights and of most optimizer state.
    Element,
    /// The rows, as of the state of row-wise Adagrad.
    Row,
}

impl Per {
    /// Returns the number of values of a row.
    pub(crate) fn columns(self, table: &Table) -> usize {
        match self {
            Self::Element => table.embedding_dim,
            Self::Row => 1,
        }
    }

    /// Returns the number of values of all tables.
    fn total(self, tables: &TableBatch) -> usize {
        match self {
            Self::Element => tables.num_weights(),
            Self::Row => tables.num_rows(),
        }
    }
}

/// The values of all tables, for reading: one view in which table follows table
/// ([`TableBatch::weight_offsets`]), or [`SeparateTables`].
///
/// Ops take `impl Into<TableValues>`: a reference to a `Vec`, an array or a buffer, a slice, a
/// [`View`], or a reference to tables in memory of their own.
pub enum TableValues<'a, D: Device, T: Scalar> {
    /// One view of all tables.
    Joined(View<'a, D, T>),
    /// A matrix for each table.
    Separate(SeparateTables<'a, D, T>),
}

/// The values of all tables, for writing; see [`TableValues`].
pub enum TableValuesMut<'a, D: Device, T: Scalar> {
    /// One view of all tables.
    Joined(ViewMut<'a, D, T>),
    /// A matrix for each table.
    Separate(SeparateTablesMut<'a, D, T>),
}

/// Tables that lie in memory of their own: a matrix for each, with a leading dimension of its own.
///
/// A lookup reads the tables where they are, in one launch for all of them. On a CUDA device the
/// addresses are copied there when this value is made, so make it once for tables that do not move;
/// on the CPU it costs no more than its vector. Keep it as long as a graph of yours that was
/// captured with it. The values are weights, with a column for each
/// element of a row, or optimizer state.
///
/// ```
/// use bagdot::Cpu;
/// use bagdot::ops::{Bags, Matrix, MatrixMut, Pooling, SeparateTables, Table, TableBatch};
/// use bagdot::ops::embedding_bag::Forward;
///
/// let cpu = Cpu::on_current_thread();
/// let table = |num_embeddings, embedding_dim| Table { num_embeddings, embedding_dim };
/// let tables = TableBatch::one_feature_each(vec![table(2, 1), table(2, 2)], Pooling::Sum)?;
/// // Two rows of one element; two rows of two elements, each followed by a gap of one.
/// let (users, items) = (vec![1.0_f32, 2.0], vec![3.0_f32, 4.0, 0.0, 5.0, 6.0]);
/// let (users, items) = (
///     Matrix::contiguous(&users, 2, 1),
///     Matrix { data: (&items).into(), rows: 2, cols: 2, ld: 3 },
/// );
/// let weights = SeparateTables::new(&cpu, &tables, vec![users, items])?;
///
/// let bags = Bags::of_length(1, &[1_i64, 1], 1);
/// let mut pooled = [0.0; 3];
/// Forward::new(&tables, &weights, bags, MatrixMut::contiguous(&mut pooled, 1, 3)).run(&cpu)?;
/// assert_eq!(pooled, [2.0, 5.0, 6.0]);
/// # Ok::<(), bagdot::Error>(())
/// ```
pub struct SeparateTables<'a, D: Device, T: Scalar> {
    /// The tables that this was made for.
    layout: Arc<[Table]>,
    /// The features that this was made for, since a device has the places of their tables.
    features: Arc<[Feature]>,
    pub(crate) values: Vec<Matrix<'a, D, T>>,
    pub(crate) places: Arc<D::TablePlaces>,
}

/// Tables that lie in memory of their own, for writing; see [`SeparateTables`].
///
/// Optimizer state is given in the same way, as matrices of as many columns as the table has, or of
/// one column for [`Optimizer::RowwiseAdagrad`](super::Optimizer::RowwiseAdagrad):
///
/// ```
/// use bagdot::Cpu;
/// use bagdot::ops::index_sort::{Sort, SortedIndices};
/// use bagdot::ops::sparse_update::{PooledGrad, Update};
/// use bagdot::ops::{Bags, Matrix, MatrixMut, Optimizer, Pooling, SeparateTablesMut, Table};
/// use bagdot::ops::{TableBatch, TableStateMut, UpdateRule};
///
/// let cpu = Cpu::on_current_thread();
/// let table = Table { num_embeddings: 2, embedding_dim: 2 };
/// let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
/// let (mut users, mut items) = (vec![1.0_f32; 4], vec![1.0_f32; 4]);
/// let (mut user_sums, mut item_sums) = (vec![0.0_f32; 2], vec![0.0_f32; 2]);
/// let matrices = [&mut users, &mut items].map(|w| MatrixMut::contiguous(w, 2, 2));
/// let mut weights = SeparateTablesMut::new(&cpu, &tables, matrices.into())?;
/// let matrices = [&mut user_sums, &mut item_sums].map(|s| MatrixMut::contiguous(s, 2, 1));
/// let mut sums = SeparateTablesMut::new(&cpu, &tables, matrices.into())?;
///
/// let bags = Bags::of_length(1, &[0_i64, 1], 1);
/// let mut workspace = vec![0; Sort::<Cpu, i64>::workspace_len(&cpu, &tables, 2)];
/// let mut sorted = SortedIndices::new(&cpu, 2, 2)?;
/// Sort::new(&tables, bags, &mut sorted, &mut workspace).run(&cpu)?;
/// let grad = [0.5_f32, 0.5, 2.0, 2.0];
/// let source = PooledGrad::new(&tables, bags, &sorted, Matrix::contiguous(&grad, 1, 4));
/// let rule = UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 0.0 }, 0.25);
/// let state = TableStateMut::SumOfSquares((&mut sums).into());
/// Update::new(source, rule, &mut weights, state, &mut workspace).run(&cpu)?;
/// // Each step is the learning rate, since the state was 0.
/// assert_eq!(users, [0.75, 0.75, 1.0, 1.0]);
/// assert_eq!(items, [1.0, 1.0, 0.75, 0.75]);
/// assert_eq!((user_sums, item_sums), (vec![0.25, 0.0], vec![0.0, 4.0]));
/// # Ok::<(), bagdot::Error>(())
/// ```
pub struct SeparateTablesMut<'a, D: Device, T: Scalar> {
    /// The tables that this was made for.
    layout: Arc<[Table]>,
    /// The features that this was made for, since a device has the places of their tables.
    features: Arc<[Feature]>,
    pub(crate) values: Vec<MatrixMut<'a, D, T>>,
    pub(crate) places: Arc<D::TablePlaces>,
}

impl<D: Device, T: Scalar> Clone for SeparateTables<'_, D, T> {
    fn clone(&self) -> Self {
        let Self { layout, features, values, places } = self;
        Self {
            layout: Arc::clone(layout),
            features: Arc::clone(features),
            values: values.clone(),
            places: Arc::clone(places),
        }
    }
}

impl<D: Device, T: Scalar> Clone for TableValues<'_, D, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Joined(view) => Self::Joined(*view),
            Self::Separate(tables) => Self::Separate(tables.clone()),
        }
    }
}

impl<'a, D: Device, T: Scalar> SeparateTables<'a, D, T> {
    /// Takes a matrix for each table, with as many rows as the table has, and with as many columns
    /// or, for row-wise state, with one.
    ///
    /// # Errors
    /// Returns an error for another number of matrices, or for one with another shape than its
    /// table. On CUDA, copies the addresses to the device, and propagates errors of that.
    pub fn new(device: &D, tables: &TableBatch, values: Vec<Matrix<'a, D, T>>) -> Result<Self> {
        check_matrices(tables, &values)?;
        let places = Arc::new(device.place_tables(tables, &values)?);
        let layout = Arc::clone(tables.shared_tables());
        Ok(Self { layout, features: Arc::clone(tables.shared_features()), values, places })
    }
}

impl<'a, D: Device, T: Scalar> SeparateTablesMut<'a, D, T> {
    /// Takes a matrix for each table, as [`SeparateTables::new`] does.
    ///
    /// # Errors
    /// Returns the errors of [`SeparateTables::new`].
    pub fn new(device: &D, tables: &TableBatch, values: Vec<MatrixMut<'a, D, T>>) -> Result<Self> {
        let shared: Vec<_> = values.iter().map(MatrixMut::as_matrix).collect();
        check_matrices(tables, &shared)?;
        let places = Arc::new(device.place_tables(tables, &shared)?);
        let layout = Arc::clone(tables.shared_tables());
        Ok(Self { layout, features: Arc::clone(tables.shared_features()), values, places })
    }
}

impl<'a, D: Device, T: Scalar> SeparateTables<'a, D, T> {
    /// Returns these tables with the same values in other types.
    pub(crate) fn with_values<U: Scalar>(
        self,
        retype: impl FnMut(Matrix<'a, D, T>) -> Matrix<'a, D, U>,
    ) -> SeparateTables<'a, D, U> {
        let Self { layout, features, values, places } = self;
        let values = values.into_iter().map(retype).collect();
        SeparateTables { layout, features, values, places }
    }
}

impl<'a, D: Device, T: Scalar> SeparateTablesMut<'a, D, T> {
    /// Returns these tables with the same values in other types.
    pub(crate) fn with_values<U: Scalar>(
        self,
        retype: impl FnMut(MatrixMut<'a, D, T>) -> MatrixMut<'a, D, U>,
    ) -> SeparateTablesMut<'a, D, U> {
        let Self { layout, features, values, places } = self;
        let values = values.into_iter().map(retype).collect();
        SeparateTablesMut { layout, features, values, places }
    }
}

/// Checks the matrices against the tables and against the memory that they name.
fn check_matrices<D: Memory, T: Scalar>(
    tables: &TableBatch,
    values: &[Matrix<'_, D, T>],
) -> Result<()> {
    expect_size(OP, "values", values.len(), tables.tables().len())?;
    for (t, (matrix, table)) in values.iter().zip(tables.tables()).enumerate() {
        let cols = if matrix.cols == 1 { 1 } else { table.embedding_dim };
        let checked = matrix.check(OP, matrix_name!("values"), table.num_embeddings, cols);
        checked.map_err(|error| invalid(OP, "values", format!("table {t}: {error}")))?;
    }
    Ok(())
}

/// Checks that matrices of these columns are values of these tables.
fn check_separate(
    op: &'static str,
    argument: &'static str,
    (layout, features): (&Arc<[Table]>, &Arc<[Feature]>),
    columns: impl Iterator<Item = usize>,
    tables: &TableBatch,
    per: Per,
) -> Result<()> {
    // The same pointer saves the comparison of all tables.
    if !Arc::ptr_eq(layout, tables.shared_tables()) && layout != tables.shared_tables() {
        return Err(invalid(op, argument, "made for other tables"));
    }
    let is_same = || {
        let (ours, theirs) = (features.iter(), tables.features().iter());
        ours.map(|feature| feature.table).eq(theirs.map(|feature| feature.table))
    };
    if !Arc::ptr_eq(features, tables.shared_features()) && !is_same() {
        return Err(invalid(op, argument, "made for features of other tables"));
    }
    for (t, (columns, table)) in columns.zip(tables.tables()).enumerate() {
        let wanted = per.columns(table);
        if columns != wanted {
            let reason = format!("table {t} has {columns} columns, but must have {wanted}");
            return Err(invalid(op, argument, reason));
        }
    }
    Ok(())
}

impl<D: Device, T: Scalar> TableValues<'_, D, T> {
    /// Checks that there is a value for each element or row of the tables.
    pub(crate) fn check(
        &self,
        op: &'static str,
        argument: &'static str,
        tables: &TableBatch,
        per: Per,
    ) -> Result<()> {
        match self {
            Self::Joined(view) => expect_size(op, argument, view.len(), per.total(tables)),
            Self::Separate(SeparateTables { layout, features, values, .. }) => {
                let columns = values.iter().map(|matrix| matrix.cols);
                check_separate(op, argument, (layout, features), columns, tables, per)
            }
        }
    }
}

impl<D: Device, T: Scalar> TableValuesMut<'_, D, T> {
    /// Checks that there is a value for each element or row of the tables.
    pub(crate) fn check(
        &self,
        op: &'static str,
        argument: &'static str,
        tables: &TableBatch,
        per: Per,
    ) -> Result<()> {
        match self {
            Self::Joined(view) => expect_size(op, argument, view.len(), per.total(tables)),
            Self::Separate(SeparateTablesMut { layout, features, values, .. }) => {
                let columns = values.iter().map(|matrix| matrix.cols);
                check_separate(op, argument, (layout, features), columns, tables, per)
            }
        }
    }
}

impl<'a, D: Device, T: Scalar> From<View<'a, D, T>> for TableValues<'a, D, T> {
    fn from(view: View<'a, D, T>) -> Self {
        Self::Joined(view)
    }
}

impl<'a, D: Device, T: Scalar> From<ViewMut<'a, D, T>> for TableValuesMut<'a, D, T> {
    fn from(view: ViewMut<'a, D, T>) -> Self {
        Self::Joined(view)
    }
}

impl<'a, D: Device, T: Scalar> From<&SeparateTables<'a, D, T>> for TableValues<'a, D, T> {
    fn from(tables: &SeparateTables<'a, D, T>) -> Self {
        Self::Separate(tables.clone())
    }
}

impl<'a, D: Device, T: Scalar> From<&'a SeparateTablesMut<'_, D, T>> for TableValues<'a, D, T> {
    fn from(tables: &'a SeparateTablesMut<'_, D, T>) -> Self {
        let SeparateTablesMut { layout, features, values, places } = tables;
        Self::Separate(SeparateTables {
            layout: Arc::clone(layout),
            features: Arc::clone(features),
            values: values.iter().map(MatrixMut::as_matrix).collect(),
            places: Arc::clone(places),
        })
    }
}

impl<'a, D: Device, T: Scalar> From<&'a mut SeparateTablesMut<'_, D, T>>
    for TableValuesMut<'a, D, T>
{
    fn from(tables: &'a mut SeparateTablesMut<'_, D, T>) -> Self {
        let SeparateTablesMut { layout, features, values, places } = tables;
        Self::Separate(SeparateTablesMut {
            layout: Arc::clone(layout),
            features: Arc::clone(features),
            values: values.iter_mut().map(MatrixMut::reborrow).collect(),
            places: Arc::clone(places),
        })
    }
}

/// Makes joined values from the references that views are made of.
macro_rules! joined_values_of {
    ($([$($generics:tt)*] $Container:ty;)+) => {$(
        impl<'a, D: Device<Address = ()>, T: Scalar, $($generics)*> From<&'a $Container>
            for TableValues<'a, D, T>
        {
            fn from(values: &'a $Container) -> Self {
                Self::Joined(values.into())
            }
        }
        impl<'a, D: Device<Address = ()>, T: Scalar, $($generics)*> From<&'a mut $Container>
            for TableValuesMut<'a, D, T>
        {
            fn from(values: &'a mut $Container) -> Self {
                Self::Joined(values.into())
            }
        }
    )+};
}
joined_values_of! {
    [] [T];
    [] Vec<T>;
    [const N: usize] [T; N];
}
