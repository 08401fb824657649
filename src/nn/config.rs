//! The shape of a model, checked for fit.

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
    /// The sizes of the bottom MLP's layers, at least one, after the input. The last one is the
    /// dimension of the embeddings.
    pub bottom_mlp: Vec<usize>,
    /// The embedding tables.
    pub tables: Vec<Table>,
    /// The sparse features.
    pub features: Vec<Feature>,
    /// The element type of the tables.
    pub table_dtype: DType,
    /// How the tables are filled before training.
    pub table_init: TableInit,
    /// How features meet.
    pub interaction: Interaction,
    /// The sizes of the top MLP's layers after the input. The last one is 1: the logit.
    pub top_mlp: Vec<usize>,
    /// What the layers compute in.
    pub precision: ComputePrecision,
    /// What is minimised.
    pub loss: Loss,
    /// Probabilities are clamped to `[threshold, 1 - threshold]` in the loss; 0 for no clamp.
    pub loss_threshold: f32,
}

/// The layers of a model.
pub(super) struct Mlps {
    pub(super) bottom: Mlp,
    /// The top MLP but for its last layer.
    pub(super) top: Mlp,
    /// That layer: it computes in `f32` whatever the others do, so that no logit is rounded to 16
    /// bits.
    pub(super) logit: Mlp,
}

impl Mlps {
    /// Those whose type of computation can be chosen.
    pub(super) fn hidden(&self) -> [&Mlp; 2] {
        [&self.bottom, &self.top]
    }

    /// All layers, with the names of their MLPs and their numbers in these.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&'static str, usize, &Layer)> {
        let bottom =
            self.bottom.layers().iter().enumerate().map(|(k, layer)| ("bottom_mlp", k, layer));
        let top = self.top.layers().iter().chain(self.logit.layers()).enumerate();
        bottom.chain(top.map(|(k, layer)| ("top_mlp", k, layer)))
    }
}

impl DlrmConfig {
    /// The number of columns that the top MLP reads. What is more than the largest number is that
    /// number.
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

    /// The layers, and the length of the buffer of their parameters.
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

    pub(super) fn check(&self) -> Result<TableBatch> {
        let positive = |argument, sizes: &[usize]| match sizes.iter().all(|&size| size > 0)
            && !sizes.is_empty()
        {
            true => Ok(()),
            false => Err(invalid(
                "Dlrm",
                argument,
                format!("{sizes:?}, but every size must be 1 or more, and there must be one"),
            )),
        };
        positive("num_dense", &[self.num_dense])?;
        positive("bottom_mlp", &self.bottom_mlp)?;
        positive("top_mlp", &self.top_mlp)?;
        if self.top_mlp.last() != Some(&1) {
            return Err(invalid(
                "Dlrm",
                "top_mlp",
                format!("{:?}, but the last size must be 1: the logit", self.top_mlp),
            ));
        }
        if let Interaction::Dot { pad_to, .. } = self.interaction {
            positive("interaction.pad_to", &[pad_to])?;
            for (t, table) in self.tables.iter().enumerate() {
                if Some(&table.embedding_dim) != self.bottom_mlp.last() {
                    let reason = format!(
                        "the last size is {:?}, but table {t} has the dimension {}: a dot product needs them equal",
                        self.bottom_mlp.last(),
                        table.embedding_dim
                    );
                    return Err(invalid("Dlrm", "bottom_mlp", reason));
                }
            }
        }
        self.precision.check()?;
        TableBatch::new(self.tables.clone(), self.features.clone())
    }
}
