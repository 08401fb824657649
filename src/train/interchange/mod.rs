//! Models in the formats of other programs: safetensors with the names of facebookresearch/dlrm or
//! of TorchRec, both ways, and ONNX. Encoded rows go beside them, as the inputs of either.
//!
//! All of this works on the files of a model directory, on the host: no device is needed, and no
//! value changes on its way but its place in a tensor.

mod dialect;
mod import;
mod onnx;
mod rows;

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{Result, model_error};
use super::manifest::Manifest;
use super::model::{member_prefix, read_model};
use super::tensor_file::{TensorFile, TensorRef, write_safetensors};
use crate::data::Encoder;
use crate::nn::{DlrmConfig, TensorSource};

pub use dialect::Dialect;
use dialect::Parameter;
pub use import::Import;
pub use onnx::{Onnx, OnnxWeights};
pub use rows::EncodedRows;

/// A model directory that has been read into memory, to be written in other formats.
pub struct StoredModel {
    path: PathBuf,
    manifest: Manifest,
    encoder: Encoder,
    tensors: TensorFile,
}

impl StoredModel {
    /// Reads a model directory.
    ///
    /// # Errors
    /// Returns an error if the directory has no model, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let (manifest, encoder, tensors) = read_model(path)?;
        Ok(Self { path: path.into(), manifest, encoder, tensors })
    }

    /// Returns the manifest: the configuration and the progress of training.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the number of networks whose mean probability is the prediction.
    pub fn members(&self) -> usize {
        self.manifest.config.train.members
    }

    /// Returns the shape of each of the networks.
    fn config(&self) -> DlrmConfig {
        let config = &self.manifest.config;
        config.model.dlrm(&self.encoder, &config.train)
    }

    /// Makes the parameters of a member, counted from 0, ready to be written in a dialect.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`](super::TrainError::Model) if there is no such member, or if
    /// the model has settings that the dialect does not know.
    pub fn to_dialect(&self, dialect: Dialect, member: usize) -> Result<Parameters<'_>> {
        let error = |reason: String| model_error(&self.path, reason);
        if member >= self.members() {
            return Err(error(format!("there is no member {}", member + 1)));
        }
        let config = self.config();
        dialect.check(&config, &self.encoder).map_err(error)?;
        let prefix = member_prefix(member);
        let tensor = |Parameter { ours, theirs, pairs, .. }| {
            let ours = format!("{prefix}{ours}");
            let Some((dtype, shape, bytes)) = self.tensors.tensor(&ours) else {
                return Err(crate::Error::TensorMissing { name: ours }.into());
            };
            let bytes = match pairs {
                true => Cow::Owned(dialect.export_pairs(&config, bytes)?),
                false => Cow::Borrowed(bytes),
            };
            Ok(TensorRef::new(theirs, dtype, shape.to_vec(), bytes))
        };
        let parameters = dialect.parameters(&config, &self.encoder)?;
        let tensors = parameters.into_iter().map(tensor).collect::<Result<_>>()?;
        let metadata = [
            // PyTorch's reader of models on the Hub asks for this key.
            ("format", "pt".to_owned()),
            ("dialect", dialect.to_string()),
            ("dense", json(self.encoder.dense_names())),
            ("sparse", json(self.encoder.features().iter().map(|f| f.name.as_str()))),
        ];
        Ok(Parameters { metadata, tensors })
    }
}

/// The parameters of a network, named as in a [`Dialect`].
pub struct Parameters<'a> {
    metadata: [(&'static str, String); 4],
    tensors: Vec<TensorRef<'a>>,
}

impl Parameters<'_> {
    /// Writes a safetensors file. Its metadata name the columns: `dense` and `sparse`, lists in
    /// JSON.
    ///
    /// # Errors
    /// Propagates the errors of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        write_safetensors(out, &self.metadata, &self.tensors)
    }
}

/// Returns a list of names in JSON.
fn json(names: impl IntoIterator<Item = impl Into<serde_json::Value>>) -> String {
    serde_json::Value::Array(names.into_iter().map(Into::into).collect()).to_string()
}
