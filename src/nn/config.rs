//! The shape of a model, and its check.

use super::embedding::TableInit;
use super::mlp::{Input, Layer, Mlp};
use super::precision::ComputePrecision;
use crate::dtype::DType;
use crate::error::{Result, invalid};
use crate::ops::{Activation, Feature, Interaction, Loss, Table, TableBatch};
use crate::size::sum;

/// The shape of a model.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DlrmConfig {
    /// The number of dense features, at least 1.
    pub num_dense: usize,
    /// The number of outputs of each layer of the bottom MLP, which has at least one layer. The
    /// last one is the dimension of the embeddings.
    pub bottom_mlp: Vec<usize>,
    /// The embedding tables.
    pub tables: Vec<Table>,
    /// The sparse features, in the order in which a batch has their bags.
    pub features: Vec<Feature>,
    /// The element type of the tables.
    pub table_dtype: DType,
    /// The distribution of the initial weights of the tables.
    pub table_init: TableInit,
    /// The interaction of the features.
    pub interaction: Interaction,
    /// The number of outputs of each layer of the top MLP. The last one is 1: the logit.
    pub top_mlp: Vec<usize>,
    /// The type that the layers compute in.
    pub precision: ComputePrecision,
    /// The loss that training minimises.
    pub loss: Loss,
    /// The threshold of the loss, in [0, 0.5), which clamps probabilities to
    /// `[threshold, 1 - threshold]`; 0 for no clamp.
    pub loss_threshold: f32,
}

/// The layers of a model.
pub(super) struct Mlps {
    /// The bottom MLP.
    pub(super) bottom: Mlp,
    /// The top MLP without its last layer.
    pub(super) top: Mlp,
    /// The last layer of the top MLP. It computes in `f32` whatever the others compute in, so that
    /// no logit is rounded to 16 bits.
    pub(super) logit: Mlp,
}

impl Mlps {
    /// Returns the layers whose type of computation can be chosen: bottom MLP, then top MLP.
    pub(super) fn hidden(&self) -> [&Mlp; 2] {
        [&self.bottom, &self.top]
    }

    /// Returns the last layer of the top MLP, which any configuration that is valid has.
    pub(super) fn head(&self) -> Result<&Layer> {
        let head = self.logit.layers().first();
        head.ok_or_else(|| invalid("Dlrm", "top_mlp", "has no layer"))
    }

    /// Returns all layers, with the names of their MLPs and their numbers in these.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&'static str, usize, &Layer)> {
        let bottom =
            self.bottom.layers().iter().enumerate().map(|(k, layer)| ("bottom_mlp", k, layer));
        let top = self.top.layers().iter().chain(self.logit.layers()).enumerate();
        bottom.chain(top.map(|(k, layer)| ("top_mlp", k, layer)))
    }
}

impl DlrmConfig {
    /// Returns the number of columns that the top MLP reads, without padding. It saturates at the
    /// largest number.
    pub fn interaction_width(&self) -> usize {
        let dim = self.bottom_mlp.last().copied().unwrap_or(0);
        match self.interaction {
            Interaction::Dot { .. } => self.interaction.width(true, self.features.len(), dim),
            Interaction::Cat => {
                let sparse =
                    self.features.iter().filter_map(|feature| self.tables.get(feature.table));
                sum(sparse.map(|table| table.embedding_dim).chain([dim]))
            }
        }
    }

    /// Returns the layers, and the number of elements of the buffer of their parameters.
    pub(super) fn mlps(&self) -> (Mlps, usize) {
        let mut len = 0;
        let mut mlp = |sizes: &[usize], input, last| Mlp::new(sizes, input, last, &mut len);
        let top = [&[self.interaction_width()], self.top_mlp.as_slice()].concat();
        let (hidden, logit) = (&top[..top.len() - 1], &top[top.len().saturating_sub(2)..]);
        let bottom = mlp(
            &[&[self.num_dense], self.bottom_mlp.as_slice()].concat(),
            Input::Exact,
            Activation::Relu,
        );
        let top = mlp(hidden, Input::Padded, Activation::Relu);
        let logit = mlp(logit, Input::Exact, Activation::None);
        (Mlps { bottom, top, logit }, len)
    }

    /// Checks the sizes against each other. Returns the tables and features.
    pub(super) fn check(&self) -> Result<TableBatch> {
        check_positive("num_dense", &[self.num_dense])?;
        check_positive("bottom_mlp", &self.bottom_mlp)?;
        check_positive("top_mlp", &self.top_mlp)?;
        if self.top_mlp.last() != Some(&1) {
            let reason = format!("{:?}, but the last size must be 1: the logit", self.top_mlp);
            return Err(invalid("Dlrm", "top_mlp", reason));
        }
        if let Interaction::Dot { pad_to, .. } = self.interaction {
            check_positive("interaction.pad_to", &[pad_to])?;
            self.check_dimensions()?;
        }
        self.precision.check()?;
        TableBatch::new(self.tables.clone(), self.features.clone())
    }

    /// Checks that all features have the dimension that dot products need.
    fn check_dimensions(&self) -> Result<()> {
        let last = self.bottom_mlp.last();
        let mut tables = self.tables.iter().enumerate();
        match tables.find(|(_, table)| Some(&table.embedding_dim) != last) {
            None => Ok(()),
            Some((t, table)) => {
                let reason = format!(
                    "the last size is {last:?}, but table {t} has the dimension {}: \
                     a dot product needs them equal",
                    table.embedding_dim
                );
                Err(invalid("Dlrm", "bottom_mlp", reason))
            }
        }
    }
}

/// Checks that there is a size, and that no size is 0.
fn check_positive(argument: &'static str, sizes: &[usize]) -> Result<()> {
    if sizes.is_empty() || sizes.contains(&0) {
        let reason = format!("{sizes:?}, but every size must be 1 or more, and there must be one");
        return Err(invalid("Dlrm", argument, reason));
    }
    Ok(())
}
