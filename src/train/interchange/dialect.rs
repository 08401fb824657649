//! The names that other libraries give to the parameters of a DLRM, and the order in which their
//! interaction has the pairs.

use std::collections::HashSet;
use std::fmt;

use crate::data::Encoder;
use crate::dtype::DType;
use crate::error::Result;
use crate::nn::DlrmConfig;
use crate::ops::{Interaction, PairOrder, Pooling};
use crate::size::{product, with_room};

/// The names and the layout in which another library keeps the parameters of a DLRM.
///
/// | parameter | [`Self::Dlrm`] | [`Self::TorchRec`] |
/// |---|---|---|
/// | bottom layer `K` | `bot_l.2K` | `dense_arch.model._mlp.K._linear` |
/// | table `T`, of the feature `F` | `emb_l.T` | `sparse_arch`, see below |
/// | top layer `K` | `top_l.2K` | `over_arch.model.0._mlp.K._linear` |
/// | last top layer | `top_l.2K` | `over_arch.model.1` |
/// | pairs | [`PairOrder::LowerTriangle`] | [`PairOrder::UpperTriangle`] |
///
/// TorchRec's table is `sparse_arch.embedding_bag_collection.embedding_bags.t_F`. The columns of
/// the first top layer's weight stand in the order of the pairs, so they are permuted if the model
/// has the other order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The state dict of `DLRM_Net` in facebookresearch/dlrm.
    Dlrm,
    /// The state dict of `torchrec.models.dlrm.DLRM`.
    TorchRec,
}

impl fmt::Display for Dialect {
    /// Writes the name that the program's options have for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dlrm => "dlrm",
            Self::TorchRec => "torchrec",
        })
    }
}

/// A parameter under both of its names.
pub(super) struct Parameter {
    /// The name in a model directory, without the prefix of the member.
    pub(super) ours: String,
    /// The name in the dialect.
    pub(super) theirs: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Another name that it may have in the dialect.
    pub(super) or: Option<String>,
    /// True if columns stand in the order of the pairs: in the weight of the first top layer.
    pub(super) pairs: bool,
}

impl Dialect {
    /// Returns the name of a layer's weight or bias, whose name here is `MLP.K.WHAT`.
    fn layer_name(self, mlp: &str, k: usize, last: bool, what: &str) -> String {
        match (self, mlp) {
            (Self::Dlrm, "bottom_mlp") => format!("bot_l.{}.{what}", 2 * k),
            (Self::Dlrm, _) => format!("top_l.{}.{what}", 2 * k),
            (Self::TorchRec, "bottom_mlp") => format!("dense_arch.model._mlp.{k}._linear.{what}"),
            (Self::TorchRec, _) if last => format!("over_arch.model.1.{what}"),
            (Self::TorchRec, _) => format!("over_arch.model.0._mlp.{k}._linear.{what}"),
        }
    }

    /// Returns the name of the table of a feature, and another name that it may have: TorchRec's
    /// own examples call it `t_` and the feature, others as the feature. PyTorch takes no names
    /// with dots, so they become underscores.
    fn table_names(self, table: usize, feature: &str) -> (String, Option<String>) {
        let feature = feature.replace('.', "_");
        let tables = "sparse_arch.embedding_bag_collection.embedding_bags";
        match self {
            Self::Dlrm => (format!("emb_l.{table}.weight"), None),
            Self::TorchRec => {
                (format!("{tables}.t_{feature}.weight"), Some(format!("{tables}.{feature}.weight")))
            }
        }
    }

    /// Returns the name of a parameter that every model has.
    pub(super) fn first_name(self) -> String {
        self.layer_name("bottom_mlp", 0, false, "weight")
    }

    /// Returns all parameters of a model.
    pub(super) fn parameters(
        self,
        config: &DlrmConfig,
        encoder: &Encoder,
    ) -> Result<Vec<Parameter>> {
        let top_layers = config.top_mlp.len();
        let parameter = |(ours, dtype, shape): (String, DType, Vec<usize>)| {
            let (group, rest) = ours.split_once('.').unwrap_or_default();
            let (number, what) = rest.split_once('.').unwrap_or_default();
            let number = number.parse().unwrap_or(0);
            let (theirs, or) = match (group, encoder.features().get(number)) {
                ("tables", Some(feature)) => self.table_names(number, &feature.name),
                _ => (self.layer_name(group, number, number + 1 == top_layers, what), None),
            };
            let pairs = ours == "top_mlp.0.weight";
            Parameter { ours, theirs, dtype, shape, or, pairs }
        };
        Ok(config.parameter_shapes()?.into_iter().map(parameter).collect())
    }

    /// Checks that the library's module computes the same function as the model.
    pub(super) fn check(self, config: &DlrmConfig, encoder: &Encoder) -> Result<(), String> {
        let library = match self {
            Self::Dlrm => "facebookresearch/dlrm",
            Self::TorchRec => "TorchRec's DLRM",
        };
        let unknown = |what: &str, remedy: &str| {
            Err(format!("{library} has no {what}, which this model needs: train one with {remedy}"))
        };
        match config.interaction {
            Interaction::Dot { append_sparse: true, .. } => {
                return unknown(
                    "pooled vectors beside the pairs",
                    "`append_sparse = false` in [model]",
                );
            }
            Interaction::Dot { include_self: true, .. } if self == Self::TorchRec => {
                return unknown("pairs of a feature with itself", "`include_self = false`");
            }
            Interaction::Cat if self == Self::TorchRec => {
                return unknown("concatenation as interaction", "`interaction = \"dot\"`");
            }
            Interaction::Dot { .. } | Interaction::Cat => {}
        }
        for feature in encoder.features() {
            if feature.interpolated {
                let what = format!("numbers between knots (column {:?})", feature.name);
                return unknown(&what, "`bins` in place of `knots`");
            }
            // Bags of one id are the same by any pooling.
            let known = match feature.pooling {
                Pooling::Sum => true,
                Pooling::Mean => !feature.multi_valued || self == Self::TorchRec,
                Pooling::Max => !feature.multi_valued,
            };
            if !known {
                let (pooling, name) = (feature.pooling, &feature.name);
                let what = format!("pooling like {pooling:?} (column {name:?})");
                return unknown(&what, "`pooling = \"sum\"`");
            }
        }
        let mut taken = HashSet::new();
        for (table, feature) in encoder.features().iter().enumerate() {
            let (name, _) = self.table_names(table, &feature.name);
            if !taken.insert(name.clone()) {
                return Err(format!("two tables would be called {name}: rename a column"));
            }
        }
        if self == Self::TorchRec && config.top_mlp.len() < 2 {
            return unknown("top MLP without hidden layers", "a `top_mlp` of one size or more");
        }
        Ok(())
    }

    /// Returns the interaction with the pairs in the order of the dialect.
    fn interaction(self, config: &DlrmConfig) -> Interaction {
        let order = match self {
            Self::Dlrm => PairOrder::LowerTriangle,
            Self::TorchRec => PairOrder::UpperTriangle,
        };
        match config.interaction {
            Interaction::Dot { include_self, append_sparse, pad_to, .. } => {
                Interaction::Dot { order, include_self, append_sparse, pad_to }
            }
            Interaction::Cat => Interaction::Cat,
        }
    }

    /// Returns the weight of the first top layer with its columns in the order of the dialect.
    pub(super) fn export_pairs(self, config: &DlrmConfig, weight: &[u8]) -> Result<Vec<u8>> {
        permute(config, weight, config.interaction, self.interaction(config))
    }

    /// Returns the weight of the first top layer with its columns in the order of the model.
    pub(super) fn import_pairs(self, config: &DlrmConfig, weight: &[u8]) -> Result<Vec<u8>> {
        permute(config, weight, self.interaction(config), config.interaction)
    }
}

/// Returns the weight of the first top layer, little-endian `f32`, with the columns of the pairs in
/// the order of `to` in place of that of `from`.
fn permute(
    config: &DlrmConfig,
    weight: &[u8],
    from: Interaction,
    to: Interaction,
) -> Result<Vec<u8>> {
    const BYTES: usize = size_of::<f32>();
    let mut permuted = with_room(weight.len())?;
    permuted.extend_from_slice(weight);
    let dim = config.bottom_mlp.last().copied().unwrap_or(0);
    let num_features = config.features.len() + 1;
    let row_len = product([config.interaction_width(), BYTES]).max(1);
    for (row, given) in permuted.chunks_exact_mut(row_len).zip(weight.chunks_exact(row_len)) {
        for (k, (i, j)) in to.pairs(num_features).enumerate() {
            let source = BYTES * (dim + from.pair_position(num_features, i, j));
            let target = BYTES * (dim + k);
            row[target..target + BYTES].copy_from_slice(&given[source..source + BYTES]);
        }
    }
    Ok(permuted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Feature, Table};

    fn config(order: PairOrder, include_self: bool) -> DlrmConfig {
        DlrmConfig {
            num_dense: 1,
            bottom_mlp: vec![2],
            tables: vec![Table { num_embeddings: 3, embedding_dim: 2 }; 3],
            features: (0..3)
                .map(|table| Feature { table, pooling: Pooling::Sum, padding_idx: None })
                .collect(),
            interaction: Interaction::Dot { order, include_self, append_sparse: false, pad_to: 1 },
            top_mlp: vec![2, 1],
            ..DlrmConfig::default()
        }
    }

    /// Returns two rows of a weight: the dense columns 100 and 101, then `pairs`.
    fn rows(pairs: &[f32]) -> Vec<u8> {
        let row = |more: f32| {
            let values = [100.0, 101.0].iter().chain(pairs).map(move |value| value + more);
            values.flat_map(f32::to_le_bytes).collect::<Vec<_>>()
        };
        [row(0.0), row(0.5)].concat()
    }

    #[test]
    fn pairs_move_to_the_places_that_the_other_library_reads() {
        // A pair (i, j) has the value 10 i + j with i < j, in the order that each library has.
        let lower = rows(&[1.0, 2.0, 12.0, 3.0, 13.0, 23.0]);
        let upper = rows(&[1.0, 2.0, 3.0, 12.0, 13.0, 23.0]);
        assert_ne!(lower, upper);
        for (order, ours) in
            [(PairOrder::LowerTriangle, &lower), (PairOrder::UpperTriangle, &upper)]
        {
            let config = config(order, false);
            for (dialect, theirs) in [(Dialect::Dlrm, &lower), (Dialect::TorchRec, &upper)] {
                assert_eq!(dialect.export_pairs(&config, ours).unwrap(), *theirs);
                assert_eq!(dialect.import_pairs(&config, theirs).unwrap(), *ours);
            }
        }
    }

    #[test]
    fn pairs_of_a_feature_with_itself_move_too() {
        let lower = rows(&[0.0, 1.0, 11.0, 2.0, 12.0, 22.0, 3.0, 13.0, 23.0, 33.0]);
        let upper = rows(&[0.0, 1.0, 2.0, 3.0, 11.0, 12.0, 13.0, 22.0, 23.0, 33.0]);
        let config = config(PairOrder::UpperTriangle, true);
        assert_eq!(Dialect::Dlrm.export_pairs(&config, &upper).unwrap(), lower);
        assert_eq!(Dialect::Dlrm.import_pairs(&config, &lower).unwrap(), upper);
    }
}
