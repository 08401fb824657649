//! The configuration file of `bagdot train`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Result, TrainError, io_error};
use super::files::parent_of;
use super::keys;
use super::optimizer::{DENSE, GroupConfig, ScheduleConfig, TABLES};
use crate::data::{DataConfig, Encoder};
use crate::dtype::DType;
use crate::nn::{ComputePrecision, DlrmConfig, Optimizers, TableInit};
use crate::ops::finite_check::NonFinite;
use crate::ops::{Feature, Interaction, Loss, PairOrder, Pooling, Table};

/// A configuration file: the data to read, the model to build, and the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data to read.
    pub data: DataConfig,
    /// The model to build.
    #[serde(default)]
    pub model: ModelConfig,
    /// The training.
    #[serde(default)]
    pub train: TrainConfig,
}

/// The shape of the model, except for sizes that the data decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The sizes of the bottom MLP's layers. The last one is the dimension of the embeddings.
    pub bottom_mlp: Vec<usize>,
    /// The sizes of the top MLP's hidden layers; the layer of the logit comes after them.
    pub top_mlp: Vec<usize>,
    /// The interaction of the features: `dot` or `cat`.
    pub interaction: InteractionKind,
    /// The order of the pairs; without effect for `cat`.
    pub pair_order: PairOrder,
    /// Set if each feature is also paired with itself.
    pub include_self: bool,
    /// Set if the pooled vectors are also inputs of the top MLP.
    pub append_sparse: bool,
    /// The element type of the tables.
    pub table_dtype: DType,
    /// The initial values of the tables.
    pub table_init: TableInit,
    /// The precision of pooled vectors, interaction and layers: `f32`, `tf32`, `bf16` or `f16`. The
    /// last layer always computes in `f32`, and parameters are always kept in `f32`.
    pub precision: PrecisionKind,
}

/// The precision of pooled vectors, interaction and layers; see [`ComputePrecision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionKind {
    /// Single precision.
    #[default]
    F32,
    /// Single precision, with factors rounded to tf32 on the tensor cores of a GPU.
    Tf32,
    /// bfloat16.
    BF16,
    /// IEEE half precision; see [`TrainConfig::loss_scale`].
    F16,
}

/// The interaction of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InteractionKind {
    /// All pairwise dot products.
    #[default]
    Dot,
    /// The concatenation of the features.
    Cat,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            bottom_mlp: vec![32, 16],
            top_mlp: vec![64, 32],
            interaction: InteractionKind::Dot,
            pair_order: PairOrder::LowerTriangle,
            include_self: false,
            append_sparse: true,
            table_dtype: DType::F32,
            table_init: TableInit::Uniform(0.02),
            precision: PrecisionKind::F32,
        }
    }
}

impl ModelConfig {
    /// Returns the configuration of the model for data encoded by `encoder`.
    pub fn dlrm(&self, encoder: &Encoder, train: &TrainConfig) -> DlrmConfig {
        let embedding_dim = self.bottom_mlp.last().copied().unwrap_or(0);
        let features = encoder.features();
        let table = |num_embeddings| Table { num_embeddings, embedding_dim };
        DlrmConfig {
            num_dense: encoder.num_dense(),
            bottom_mlp: self.bottom_mlp.clone(),
            tables: features.iter().map(|feature| table(feature.num_embeddings)).collect(),
            features: features
                .iter()
                .enumerate()
                .map(|(table, feature)| Feature {
                    table,
                    pooling: feature.pooling,
                    padding_idx: None,
                })
                .collect(),
            table_dtype: self.table_dtype,
            table_init: self.table_init,
            interaction: match self.interaction {
                InteractionKind::Dot => Interaction::Dot {
                    order: self.pair_order,
                    include_self: self.include_self,
                    append_sparse: self.append_sparse,
                    pad_to: 1,
                },
                InteractionKind::Cat => Interaction::Cat,
            },
            top_mlp: [self.top_mlp.as_slice(), &[1]].concat(),
            precision: match self.precision {
                PrecisionKind::F32 => ComputePrecision::F32,
                PrecisionKind::Tf32 => ComputePrecision::Tf32,
                PrecisionKind::BF16 => ComputePrecision::BF16,
                PrecisionKind::F16 => ComputePrecision::F16 {
                    loss_scale: train.loss_scale.unwrap_or(ComputePrecision::DEFAULT_LOSS_SCALE),
                },
            },
            loss: train.loss,
            loss_threshold: train.loss_threshold,
        }
    }
}

/// The settings of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The largest number of passes over the training rows.
    pub epochs: u32,
    /// The number of rows of a step; the last one of an epoch may have fewer.
    pub batch_size: usize,
    /// The seed of the initial parameters and of the order of the rows.
    pub seed: u64,
    /// The steps or training rows between evaluations within an epoch: `{ steps = 1000 }` or
    /// `{ rows = 1000000 }`, counted from the beginning of each epoch. The model is always measured
    /// at the end of an epoch, too. If it is the best so far, it is written with a checkpoint,
    /// which takes time if tables are large. Default: only at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluate_every: Option<EvaluateEvery>,
    /// Training stops after this many evaluations without a better validation score; 0 for never.
    pub patience: u32,
    /// The validation score that selects the best model.
    pub select: Selection,
    /// The loss that training minimises.
    pub loss: Loss,
    /// Probabilities are clamped to `[threshold, 1 - threshold]` in the loss; 0 for no clamp.
    pub loss_threshold: f32,
    /// The factor of the loss, from which gradients are computed with `precision = "f16"`, so that
    /// small ones do not become 0; a power of two. If it is too large, gradients
    /// become infinite: then halve it, or let `non_finite = "skip-step"` skip such batches.
    /// Default: 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// The treatment of a batch whose loss or gradient is infinite or not a number: `error` ends
    /// training, `skip-step` continues without that batch.
    pub non_finite: NonFinite,
    /// The schedule of the learning rates.
    pub schedule: ScheduleConfig,
    /// The number of models that are trained side by side, from different initial parameters and on
    /// rows in different orders. Their mean probability is measured and predicted: it is better
    /// than any one of them, for as many times the work.
    pub members: usize,
    /// The decay of a moving average of all parameters, if not 0. The average is then measured and
    /// kept as the model. It costs a pass over all parameters in each step, and needs tables of
    /// f32. Default: 0.998 with tables of f32, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub averaging: Option<f32>,
    /// The probability with which each id of a multi-valued feature is left out in a step. The
    /// remaining ids are scaled to compensate, which has no meaning with max pooling. Default: 0.3,
    /// with max pooling 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bag_dropout: Option<f32>,
    /// Set if all rows of a table decay equally in an epoch. If not set, a row decays in each step
    /// in which it has a gradient, so that frequent rows decay much more than rare ones. If set,
    /// the decay of a row that occurs `n` times in an epoch of `s` steps is multiplied by `1 / (1 -
    /// e^(-n/s))`, about the number of steps from one of its occurrences to the next.
    pub even_decay: bool,
    /// The number of seconds between checkpoints within an epoch. A checkpoint is also written at
    /// the end of every epoch.
    pub checkpoint_seconds: u64,
    /// The optimizer of tables and layers, unless `tables` and `dense` override it.
    pub optimizer: GroupConfig,
    /// The optimizer of the tables.
    pub tables: GroupConfig,
    /// The optimizer of the layers.
    pub dense: GroupConfig,
}

/// The distance between evaluations within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvaluateEvery {
    /// A number of optimizer steps.
    Steps(u64),
    /// A number of training rows. The evaluation comes after the step that completes them.
    Rows(u64),
}

impl EvaluateEvery {
    /// Returns whether an evaluation is due after `done` batches of an epoch.
    pub(super) fn is_due(self, done: u64, batch_size: usize) -> bool {
        match self {
            Self::Steps(steps) => done.is_multiple_of(steps),
            Self::Rows(rows) => {
                let completed = |done: u64| done.saturating_mul(batch_size as u64) / rows.max(1);
                completed(done) > completed(done.saturating_sub(1))
            }
        }
    }
}

/// The validation score that selects the best model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// The lowest mean of the training loss, including its weights: of the log-loss unless `loss`
    /// says otherwise.
    #[default]
    Loss,
    /// The lowest log-loss.
    Logloss,
    /// The highest AUC.
    Auc,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 15,
            batch_size: 256,
            seed: 1,
            evaluate_every: None,
            patience: 3,
            select: Selection::default(),
            loss: Loss::default(),
            loss_threshold: 0.0,
            loss_scale: None,
            non_finite: NonFinite::default(),
            schedule: ScheduleConfig::default(),
            members: 1,
            averaging: None,
            bag_dropout: None,
            even_decay: true,
            checkpoint_seconds: 300,
            optimizer: GroupConfig::default(),
            tables: GroupConfig::default(),
            dense: GroupConfig::default(),
        }
    }
}

impl TrainConfig {
    /// Returns the optimizers of these settings for epochs of this many steps; the error names a
    /// missing setting.
    ///
    /// # Errors
    /// Returns a message if an optimizer lacks a setting that has no default.
    pub fn optimizers(&self, steps_per_epoch: u64) -> Result<Optimizers, String> {
        let group = |name: &str, group: GroupConfig, defaults| {
            let optimizer = group.or(self.optimizer).resolve(defaults);
            optimizer.map_err(|reason| format!("[train.{name}] or [train.optimizer]: {reason}"))
        };
        Ok(Optimizers {
            tables: group("tables", self.tables, TABLES)?,
            dense: group("dense", self.dense, DENSE)?,
            schedule: self.schedule.resolve(steps_per_epoch),
        })
    }
}

impl Config {
    /// Reads a configuration file. Also returns its folder, at which relative paths start. Folders
    /// and patterns among the data files are replaced by the files that they stand for now.
    ///
    /// # Errors
    /// Returns [`TrainError::Config`] with line and column, in the words of `keys.rs`. For an
    /// unknown key it names the nearest known one.
    pub fn load(path: &Path) -> Result<(Self, PathBuf)> {
        Self::load_with_text(path).map(|(config, folder, _)| (config, folder))
    }

    /// Reads a configuration file as [`Self::load`] does. Also returns its text.
    ///
    /// # Errors
    /// Returns the errors of [`Self::load`].
    pub fn load_with_text(path: &Path) -> Result<(Self, PathBuf, String)> {
        let text = std::fs::read_to_string(path).map_err(io_error("read", path))?;
        let mut config = Self::parse(&text)
            .map_err(|message| TrainError::Config { path: path.into(), message })?;
        let folder = parent_of(path);
        config.data.find_files(folder)?;
        Ok((config, folder.into(), text))
    }

    /// Returns the decay of the average of the parameters; 0 for none.
    pub fn averaging(&self) -> f32 {
        self.train.averaging.unwrap_or(if self.model.table_dtype == DType::F32 {
            0.998
        } else {
            0.0
        })
    }

    /// Returns the probability with which each id of a multi-valued feature is left out.
    pub fn bag_dropout(&self) -> f32 {
        self.train.bag_dropout.unwrap_or(if self.has_max() { 0.0 } else { 0.3 })
    }

    pub(super) fn has_max(&self) -> bool {
        self.data.categorical.iter().any(|column| column.pooling == Pooling::Max)
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// Returns a message that explains the fault, with line and column where they are known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| explain(&error, text))?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the reference of all keys of a configuration file, or of those that `key` names: by
    /// a path such as `data.dense.missing`, or by its end, such as `missing`.
    ///
    /// # Errors
    /// Returns a message with the nearest key if there is no such key.
    pub fn reference(key: Option<&str>) -> Result<String, String> {
        keys::reference(key)
    }

    /// Returns the lines of a table's keys as comments, with their defaults.
    #[cfg(feature = "cli")]
    pub(crate) fn default_lines(table: &str, except: &[&str]) -> Vec<String> {
        keys::default_lines(table, except)
    }

    /// Returns the JSON schema of configuration files, for editors.
    pub fn schema() -> String {
        keys::schema()
    }
}

/// Explains an error in the words of configurations, with line and column.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let (span, message) = match keys::first_fault(text) {
        Some((span, message)) => (Some(span), message),
        None => (error.span(), explain_syntax(error, text)),
    };
    let place = span.map(|span| {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        format!("line {line}, column {column}: ")
    });
    place.unwrap_or_default() + &message
}

/// Explains why a text cannot be read: it is no TOML, or a key or table occurs twice.
fn explain_syntax(error: &toml::de::Error, text: &str) -> String {
    let message = error.message();
    if message != "duplicate key" {
        return format!("this is no TOML: {}", message.replace('\n', ", "));
    }
    let span = error.span().unwrap_or_default();
    let key = text.get(span.clone()).unwrap_or_default();
    let start =
        text.get(..span.start).map_or(0, |before| before.rfind('\n').map_or(0, |end| end + 1));
    let line = text[start..].lines().next().unwrap_or_default().trim();
    match line.starts_with('[') {
        true => format!(
            "{line} stands here, but `{key}` stands above already: a list of tables has each of \
             them under [[..]]"
        ),
        false => format!("the key `{key}` stands twice in its table: remove one of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Optimizer;

    const DATA: &str = "[data]\ntrain = 'a.csv'\nlabel = 'y'\ncategorical = [{ column = 'c' }]\n";

    fn error(train: &str) -> String {
        Config::parse(&format!("{DATA}{train}")).unwrap_err()
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_known_one() {
        let message = error("[train]\nepoch = 3\n");
        assert!(message.starts_with("line 6, column 1: unknown key `train.epoch`"), "{message}");
        assert!(message.ends_with("did you mean `epochs`?"), "{message}");
        let message = error("[train.optimizer]\nlearning_rte = 3\n");
        assert!(message.ends_with("did you mean `learning_rate`?"), "{message}");
        let message = error("[train.optimizer]\nkind = 'adamm'\n");
        assert!(message.ends_with("did you mean `adam`?"), "{message}");
    }

    #[test]
    fn a_loss_scale_is_a_power_of_two_and_for_f16() {
        assert!(error("[model]\nprecision = 'bf17'\n").ends_with("did you mean `bf16`?"));
        assert!(
            error("[train]\nloss_scale = 8.0\n")
                .contains("has a meaning with `precision = \"f16\"` only")
        );
        let message = error("[model]\nprecision = 'f16'\n[train]\nloss_scale = 1000.0\n");
        assert_eq!(
            message,
            "[train]: loss_scale: 1000, but must be a power of two from 2^-126 to 2^126"
        );
        let config = Config::parse(&format!(
            "{DATA}[model]\nprecision = 'f16'\n[train]\nloss_scale = 512.0\n"
        ))
        .unwrap();
        assert_eq!(
            (config.model.precision, config.train.loss_scale),
            (PrecisionKind::F16, Some(512.0))
        );
    }

    #[test]
    fn groups_fall_back_to_the_common_optimizer() {
        let text = format!(
            "{DATA}[train.optimizer]\nkind = 'rowwise_adagrad'\neps = 1e-8\nlearning_rate = 0.1\n\
             [train.dense]\nlearning_rate = 0.5\n"
        );
        let optimizers = Config::parse(&text).unwrap().train.optimizers(1).unwrap();
        assert_eq!(optimizers.tables.optimizer, Optimizer::RowwiseAdagrad { eps: 1e-8 });
        assert_eq!((optimizers.tables.learning_rate, optimizers.dense.learning_rate), (0.1, 0.5));
    }

    #[test]
    fn adagrad_has_no_silent_eps() {
        assert!(
            error("[train.tables]\nkind = 'adagrad'\n")
                .contains("1e-8 as in FBGEMM, 1e-10 as in PyTorch")
        );
    }

    #[test]
    fn a_config_survives_the_manifest() {
        let text = format!(
            "{DATA}[train.optimizer]\nweight_decay = {{ l2 = 1e-5 }}\nrounding = {{ stochastic = \
             {{ seed = 7 }} }}\n"
        );
        let config = Config::parse(&text).unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    }
}
