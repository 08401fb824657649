//! Makes a model directory of the parameters in files of another library.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::dialect::{Dialect, Parameter};
use crate::data::Encoder;
use crate::nn::{DlrmConfig, TensorSource};
use crate::train::error::{Result, model_error};
use crate::train::manifest::Manifest;
use crate::train::model::member_prefix;
use crate::train::model_dir::{ModelDir, RunDir};
use crate::train::tensor_file::{TensorFile, TensorLayout, TensorRef};

/// Parameters from files of another library, checked, and ready to become a model directory.
pub struct Import {
    dialect: Dialect,
    manifest: Manifest,
    encoder: Encoder,
    /// The file of each member, with the names of the parameters in it.
    members: Vec<(TensorFile, Vec<Parameter>)>,
}

impl Import {
    /// Reads safetensors files, each of which holds the parameters of one member. All else that a
    /// model has (configuration, encoder, names and sizes of the features) is that of the model
    /// directory `like`.
    ///
    /// The names may have a prefix, such as `model.`, as they do in a module that holds the model.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`] with the path of a file and the name of a tensor if the tensor
    /// is missing, unknown, of another shape or type, or not finite; and the errors of
    /// [`ModelDir::open_with_encoder`].
    ///
    /// [`TrainError::Model`]: crate::train::TrainError::Model
    pub fn read(dialect: Dialect, files: &[PathBuf], like: &Path) -> Result<Self> {
        let (of_like, encoder) = ModelDir::open_with_encoder(like)?;
        let mut config = of_like.config;
        config.train.members = files.len();
        config.validate().map_err(|reason| model_error(like, reason))?;
        let dlrm = config.model.dlrm(&encoder, &config.train);
        dialect.check(&dlrm, &encoder).map_err(|reason| model_error(like, reason))?;
        let read = |path: &PathBuf| read_member(dialect, path, &dlrm, &encoder);
        let members = files.iter().map(read).collect::<Result<_>>()?;
        let mut manifest = Manifest::new(config, of_like.folder);
        manifest.progress.rows = of_like.progress.rows;
        Ok(Self { dialect, manifest, encoder, members })
    }

    /// Writes the model into a directory. If this replaces an older model, the path under which
    /// that model is kept is returned.
    ///
    /// # Errors
    /// Returns [`TrainError::Io`] if a file cannot be written; an older model is then still in
    /// effect.
    ///
    /// [`TrainError::Io`]: crate::train::TrainError::Io
    pub fn write(mut self, dir: &mut RunDir) -> Result<Option<PathBuf>> {
        let config = self.manifest.config.model.dlrm(&self.encoder, &self.manifest.config.train);
        let mut tensors = Vec::new();
        for (k, (file, parameters)) in self.members.iter().enumerate() {
            for Parameter { ours, theirs, dtype, shape, pairs, .. } in parameters {
                let Some((_, _, bytes)) = file.tensor(theirs) else {
                    return Err(crate::Error::TensorMissing { name: theirs.clone() }.into());
                };
                let bytes = match pairs {
                    true => Cow::Owned(self.dialect.import_pairs(&config, bytes)?),
                    false => Cow::Borrowed(bytes),
                };
                tensors.push(TensorRef::new(member_prefix(k) + ours, *dtype, shape.clone(), bytes));
            }
        }
        dir.write_encoder(&mut self.manifest, &self.encoder)?;
        dir.write_tensor_refs(&mut self.manifest, "best", &tensors)?;
        dir.commit(&self.manifest)
    }
}

/// Reads the file of a member. Returns it with the parameters under the names that they have there.
fn read_member(
    dialect: Dialect,
    path: &Path,
    config: &DlrmConfig,
    encoder: &Encoder,
) -> Result<(TensorFile, Vec<Parameter>)> {
    let mut parameters = dialect.parameters(config, encoder)?;
    let file = TensorFile::read_foreign(path, |layout| {
        find_names(dialect, layout, &mut parameters);
        for Parameter { theirs, dtype, shape, .. } in &parameters {
            layout.expect(theirs, *dtype, shape).map_err(|error| error.to_string())?;
        }
        let known: HashSet<&str> = parameters.iter().map(|p| p.theirs.as_str()).collect();
        match layout.names().find(|name| !known.contains(name)) {
            Some(name) => Err(format!("the model has no parameter for tensor {name}")),
            None => Ok(()),
        }
    })?;
    file.expect_finite().map_err(|reason| model_error(path, reason))?;
    Ok((file, parameters))
}

/// Replaces the names of the parameters by those in the file, which may have a prefix, and whose
/// tables may have their other names.
fn find_names(dialect: Dialect, layout: &TensorLayout, parameters: &mut [Parameter]) {
    let first = dialect.first_name();
    let prefix = layout
        .names()
        .filter_map(|name| name.strip_suffix(&first))
        .find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .unwrap_or_default();
    for parameter in parameters {
        let other = parameter.or.as_ref().map(|or| format!("{prefix}{or}"));
        parameter.theirs.insert_str(0, prefix);
        if let Some(other) = other.filter(|name| layout.has(name) && !layout.has(&parameter.theirs))
        {
            parameter.theirs = other;
        }
    }
}
