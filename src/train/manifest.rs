//! The manifest of a model directory: the training configuration, the progress of training, and the
//! files that belong together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::error::{TrainError, model_error};
use super::record::EvaluationRecord;

/// The version of the format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// The description of a model directory's contents.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The program that wrote it.
    pub created_by: String,
    /// The configuration that the model is trained with.
    pub config: Config,
    /// The folder at which relative paths of the configuration start.
    pub folder: PathBuf,
    /// The progress of training.
    pub progress: Progress,
    /// The files, by their kind: `encoder`, `best` (the model), `state` (needed by `--resume`).
    pub files: BTreeMap<String, FileEntry>,
}

/// A file of a model directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The name within the directory.
    pub name: String,
    /// The length in bytes.
    pub bytes: u64,
    /// The CRC-32 of the contents.
    pub crc32: u32,
}

impl FileEntry {
    /// Checks the length of the file at `path`.
    pub(super) fn check_len(&self, path: &Path, bytes: u64) -> Result<(), TrainError> {
        if bytes == self.bytes {
            return Ok(());
        }
        let expected = self.bytes;
        let reason = format!("damaged: {bytes} bytes, but the manifest says {expected}");
        Err(model_error(path, reason))
    }

    /// Checks the length and the checksum of the file at `path`.
    pub(super) fn check(&self, path: &Path, contents: &[u8]) -> Result<(), TrainError> {
        self.check_len(path, contents.len() as u64)?;
        let (crc32, expected) = (crc32fast::hash(contents), self.crc32);
        if crc32 == expected {
            return Ok(());
        }
        let reason =
            format!("damaged: its checksum is {crc32:08x}, but the manifest says {expected:08x}");
        Err(model_error(path, reason))
    }
}

/// The progress of training. Together with the tensors of `state` it determines how training
/// continues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Set if training has ended.
    pub finished: bool,
    /// The number of completed epochs.
    pub epochs_done: u32,
    /// The number of completed batches of the current epoch.
    pub batches_done: u64,
    /// The number of optimizer steps so far.
    pub step: u64,
    /// The epoch of the best model, from 1; 0 before there is one.
    pub best_epoch: u32,
    /// The records of the evaluations so far.
    pub history: Vec<EvaluationRecord>,
    /// The length of `metrics.jsonl`, which earlier versions stored here. It is accepted and
    /// ignored, because that file is written anew from `history`.
    #[serde(default, skip_serializing)]
    metrics_bytes: u64,
    /// The time spent in training steps, in seconds.
    pub train_seconds: f64,
    /// The number of samples that went through training steps.
    pub samples: u64,
    /// The numbers of training, validation and test rows, to notice changed data.
    pub rows: [u64; 3],
}

impl Manifest {
    /// Makes the manifest of a new model, without files.
    pub(super) fn new(config: Config, folder: PathBuf) -> Self {
        let created_by = concat!("bagdot ", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            format: FORMAT,
            created_by,
            config,
            folder,
            progress: Progress::default(),
            files: BTreeMap::new(),
        }
    }

    /// Parses a manifest, which may be damaged. Checks its configuration and its progress as far as
    /// that needs no data.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let broken = |error: serde_json::Error| format!("not a manifest: {error}");
        let Version { format } = serde_json::from_slice(text).map_err(broken)?;
        if format != FORMAT {
            return Err(format!(
                "format {format}, but this program reads format {FORMAT}: use the version that \
                 wrote it"
            ));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(broken)?;
        manifest.config.validate()?;
        manifest.progress.check(manifest.config.train.epochs)?;
        Ok(manifest)
    }
}

impl Progress {
    /// Checks that the numbers are consistent.
    fn check(&self, epochs: u32) -> Result<(), String> {
        let contradiction =
            |what: &str| Err(format!("not a manifest: {what} contradict each other"));
        // Each epoch that is over was measured, and the current one may have been.
        let follows = |(before, now): (u32, u32)| now >= before && now - before <= 1;
        let measured = || self.history.iter().map(|record| record.epoch);
        let in_order = std::iter::once(0).chain(measured()).zip(measured()).all(follows)
            && measured().next().is_none_or(|first| first == 1)
            && self.history.is_sorted_by(|a, b| a.step < b.step);
        let last = self.history.last().map_or(0, |record| record.epoch);
        let is_current = u64::from(last) == u64::from(self.epochs_done) + 1;
        if self.epochs_done > epochs
            || !in_order
            || !(last == self.epochs_done || is_current && self.batches_done > 0)
            || self.history.last().is_some_and(|record| record.step > self.step)
            || self.history.iter().any(|record| !(0.0..=1.0).contains(&record.share_of_epoch))
        {
            return contradiction("the epochs in `progress`");
        }
        if self.best_epoch != self.best().map_or(0, |record| record.epoch) {
            return contradiction("`best_epoch` and `history`");
        }
        if !(self.train_seconds.is_finite() && self.train_seconds >= 0.0) {
            return Err(format!("not a manifest: `train_seconds` is {}", self.train_seconds));
        }
        Ok(())
    }

    /// Returns the record of the best model; `None` before there is one.
    pub fn best(&self) -> Option<&EvaluationRecord> {
        self.history.iter().rfind(|record| record.best)
    }

    /// Checks the numbers against the training rows. An epoch has `rows` of them, in `batches`
    /// batches of `batch_size`.
    pub(super) fn check_position(
        &self,
        batches: u64,
        batch_size: usize,
        rows: u64,
    ) -> Result<(), String> {
        let in_epoch =
            self.batches_done.checked_mul(batch_size as u64).map(|samples| samples.min(rows));
        let before = |of_epoch: u64| u64::from(self.epochs_done).checked_mul(of_epoch);
        let step = before(batches).and_then(|steps| steps.checked_add(self.batches_done));
        let samples =
            before(rows).zip(in_epoch).and_then(|(samples, more)| samples.checked_add(more));
        if self.batches_done > batches || step != Some(self.step) || samples != Some(self.samples) {
            return Err(format!(
                "damaged: step {} and {} samples cannot be after {} epochs and {} batches of \
                 {batches}",
                self.step, self.samples, self.epochs_done, self.batches_done
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_that_cannot_be_is_refused() {
        let good = Progress { batches_done: 3, step: 3, samples: 30, ..Progress::default() };
        assert_eq!((good.check(5), good.check_position(7, 10, 65)), (Ok(()), Ok(())));
        // The last batch of an epoch may be smaller.
        let end = Progress { batches_done: 7, step: 7, samples: 65, ..good.clone() };
        assert_eq!(end.check_position(7, 10, 65), Ok(()));
        for bad in [
            Progress { batches_done: u64::MAX, ..good.clone() },
            Progress { batches_done: 8, step: 8, samples: 65, ..good.clone() },
            Progress { step: u64::MAX, ..good.clone() },
            Progress { samples: 31, ..good.clone() },
        ] {
            assert!(
                bad.check_position(7, 10, 65).unwrap_err().starts_with("damaged: step "),
                "{bad:?}"
            );
        }
        for bad in [
            Progress { epochs_done: 1, ..good.clone() },
            Progress { best_epoch: 1, ..good.clone() },
            Progress { train_seconds: f64::NAN, ..good.clone() },
            Progress { train_seconds: -1.0, ..good.clone() },
        ] {
            assert!(bad.check(5).unwrap_err().starts_with("not a manifest"), "{bad:?}");
        }
    }
}
