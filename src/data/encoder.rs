//! The encoder: everything that turns rows of text into numbers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::categorical::CategoricalEncoding;
use super::config::{DataConfig, Split};
use super::dataset::Dataset;
use super::dense::DenseEncoding;
use super::error::{DataError, Result};
use super::join::SideTable;
use super::note::{Note, Seen};
use super::splitter::{Splitter, TimeCut};
use crate::ops::Pooling;

/// A sparse feature of the encoded rows, with its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodedFeature {
    /// The name of the column; a second feature of the same column is called `column.2`, and so on.
    pub name: String,
    /// The number of rows of its table. All ids are below it.
    pub num_embeddings: usize,
    /// The function that reduces the rows of a bag to one vector.
    pub pooling: Pooling,
    /// Set if a row of data may have any number of ids; otherwise it has one, or two that are
    /// neighbours.
    pub multi_valued: bool,
    /// Set if the feature is a number between knots: a row of data has two ids, the second one more
    /// than the first, whose factors add up to 1.
    #[serde(default)]
    pub interpolated: bool,
}

/// Everything learned from the training rows, with the settings and side tables that it needs to
/// encode raw text anywhere.
///
/// It is stored as JSON through its serde implementations. An encoder that comes from a file must
/// pass [`Self::check`] before it is used; [`RowStream::open`](super::RowStream::open) and
/// [`Splits::load`](super::Splits::load) call it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    pub(super) config: DataConfig,
    pub(super) side_tables: Vec<SideTable>,
    pub(super) dense: Vec<DenseEncoding>,
    pub(super) categorical: Vec<CategoricalEncoding>,
    pub(super) time_cut: Option<TimeCut>,
    pub(super) features: Vec<EncodedFeature>,
    /// For each categorical column, the share of the training rows' values that are too rare to
    /// have a row. Encoders of earlier versions have none.
    #[serde(default)]
    pub(super) rare: Vec<f64>,
    /// The notes on the files and their states when they were read, for the next pass over them.
    /// This field is not stored.
    #[serde(skip)]
    pub(super) seen: Seen,
}

impl Encoder {
    /// Returns the settings, including the defaults of a Criteo file.
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// Returns the notes on the side tables, as [`Self::fit`] found them; none if this encoder
    /// comes from a file. [`Splits::load`](super::Splits::load) collects those on the data files.
    pub fn notes(&self) -> &[Note] {
        &self.seen.notes
    }

    /// Returns the number of dense features. If the settings name none, there is one that is always
    /// 1, since a DLRM needs a dense input.
    pub fn num_dense(&self) -> usize {
        self.config.dense.len().max(1)
    }

    /// Returns the names of the dense features: their columns, or `1` for the constant.
    pub fn dense_names(&self) -> Vec<String> {
        if self.config.dense.is_empty() {
            return vec!["1".to_owned()];
        }
        self.config.dense.iter().map(|dense| dense.column.clone()).collect()
    }

    /// Returns the sparse features: the categorical columns in the order of the settings, then the
    /// bins of dense ones, then their knots.
    pub fn features(&self) -> &[EncodedFeature] {
        &self.features
    }

    /// Returns the columns of the model, each once, with the numbers of its dense and of its sparse
    /// features. Derived columns and those of side tables count as columns.
    pub(crate) fn features_by_column(&self) -> Vec<(&str, Vec<usize>, Vec<usize>)> {
        let DataConfig { dense, categorical, .. } = &self.config;
        let sparse = categorical.iter().map(|categorical| categorical.column.as_str());
        let binned = dense.iter().filter(|dense| dense.bins > 0).map(|dense| dense.column.as_str());
        let interpolated = dense.iter().filter(|dense| dense.knots > 0);
        let interpolated = interpolated.map(|dense| dense.column.as_str());
        let dense = dense.iter().map(|dense| (dense.column.as_str(), true));
        let sparse = sparse.chain(binned).chain(interpolated);
        let sparse: Vec<_> = sparse.map(|column| (column, false)).collect();
        let mut columns: Vec<(&str, Vec<usize>, Vec<usize>)> = Vec::new();
        for (k, (name, is_dense)) in dense.enumerate().chain(sparse.into_iter().enumerate()) {
            let place = columns.iter().position(|column| column.0 == name).unwrap_or_else(|| {
                columns.push((name, Vec::new(), Vec::new()));
                columns.len() - 1
            });
            let (_, dense, sparse) = &mut columns[place];
            if is_dense { dense.push(k) } else { sparse.push(k) }
        }
        columns
    }

    /// Checks a stored encoder, which may be damaged: its parts must fit its settings, and all
    /// numbers must be finite. After that, encoding returns finite numbers and ids within their
    /// tables, whatever it reads.
    ///
    /// # Errors
    /// Returns [`DataError::Encoder`] or [`DataError::Config`], which names the inconsistency.
    pub fn check(&self) -> Result<()> {
        let Self { config, side_tables, dense, categorical, time_cut, features, rare, .. } = self;
        config.validate()?;
        let has_lists = config.dense.iter().any(|dense| !dense.columns.is_empty())
            || config.categorical.iter().any(|categorical| !categorical.columns.is_empty());
        if has_lists {
            return Err(DataError::encoder("its settings have lists of columns"));
        }
        let size = |what: &str, got: usize, expected: usize| match got == expected {
            true => Ok(()),
            false => Err(DataError::encoder(format!(
                "it has {got} {what}, but its settings name {expected}"
            ))),
        };
        size("dense columns", dense.len(), config.dense.len())?;
        size("categorical columns", categorical.len(), config.categorical.len())?;
        size("side tables", side_tables.len(), config.join.len())?;
        for (encoding, config) in dense.iter().zip(&config.dense) {
            let fault =
                |reason| DataError::encoder(format!("column {:?}: {reason}", config.column));
            encoding.check(config).map_err(fault)?;
        }
        for (encoding, config) in categorical.iter().zip(&config.categorical) {
            let fault =
                |reason| DataError::encoder(format!("column {:?}: {reason}", config.column));
            encoding.check(config).map_err(fault)?;
        }
        if !side_tables.iter().all(SideTable::is_consistent) {
            return Err(DataError::encoder(
                "a side table has not one value for each key and column",
            ));
        }
        if matches!(config.split, Split::Time { .. }) != time_cut.is_some() {
            return Err(DataError::encoder("the times of the split do not fit the settings"));
        }
        if rare.len() > categorical.len() || !rare.iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err(DataError::encoder("the shares of rare values do not fit the settings"));
        }
        if *features != features_of(config, dense, categorical) {
            return Err(DataError::encoder("the features are not those of the columns"));
        }
        Ok(())
    }

    pub(super) fn splitter(&self) -> Splitter {
        Splitter::new(&self.config.split, self.time_cut)
    }

    /// Returns an empty dataset for rows of this encoder; see [`Dataset::append`].
    pub fn dataset(&self) -> Dataset {
        Dataset::new(self.num_dense(), &self.features)
    }
}

/// Returns the features of the columns: categorical ones, then bins, then knots.
pub(super) fn features_of(
    config: &DataConfig,
    dense: &[DenseEncoding],
    categorical: &[CategoricalEncoding],
) -> Vec<EncodedFeature> {
    let categorical =
        config.categorical.iter().zip(categorical).map(|(config, encoding)| EncodedFeature {
            name: config.column.clone(),
            num_embeddings: encoding.num_embeddings(),
            pooling: config.pooling,
            multi_valued: config.separator.is_some(),
            interpolated: false,
        });
    let binned = config.dense.iter().zip(dense).filter(|(config, _)| config.bins > 0);
    let bins = binned.map(|(config, encoding)| EncodedFeature {
        name: format!("{}.bins", config.column),
        num_embeddings: encoding.num_bin_rows(),
        pooling: Pooling::Sum,
        multi_valued: false,
        interpolated: false,
    });
    let interpolated = config.dense.iter().zip(dense).filter(|(config, _)| config.knots > 0);
    let knots = interpolated.map(|(config, encoding)| EncodedFeature {
        name: format!("{}.knots", config.column),
        num_embeddings: encoding.num_knot_rows(),
        pooling: Pooling::Sum,
        multi_valued: false,
        interpolated: true,
    });
    let mut features: Vec<EncodedFeature> = categorical.chain(bins).chain(knots).collect();
    let mut taken = HashSet::new();
    for feature in &mut features {
        let column = feature.name.clone();
        let mut copies = 1;
        while !taken.insert(feature.name.clone()) {
            copies += 1;
            feature.name = format!("{column}.{copies}");
        }
    }
    features
}
