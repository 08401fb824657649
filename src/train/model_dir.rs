//! Model directories, written so that a crash at any moment leaves the last good state.
//!
//! `manifest.json` names the files that belong together, with their lengths and checksums. A new
//! state is written under new names and made durable. It takes effect when its manifest replaces
//! the old one in a single rename. Only then are files removed that no manifest names. The manifest
//! alone decides which files belong to the model, whatever other files are in the directory.
//!
//! A new run in the directory of an existing model writes `manifest.next.json` until it has a model
//! of its own, so that the old model can still be used. Then the old model is kept as `PATH~1`,
//! `PATH~2`, …, and `manifest.next.json` becomes `manifest.json`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::error::{Result, TrainError, io_error, model_error};
use super::files::{self, PARTIAL, read_at_most};
use super::manifest::{FileEntry, Manifest};
use super::tensor_file::{TensorFile, TensorLayout, TensorRef, write_safetensors};
use crate::data::Encoder;
use crate::nn::NamedTensor;

const MANIFEST: &str = "manifest.json";
/// The manifest of a run that has no model yet, beside the model that it will replace.
const NEXT_MANIFEST: &str = "manifest.next.json";
const LOCK: &str = ".lock";
/// The files that are derived from the manifest for people. The manifest does not name them.
const DERIVED: [&str; 2] = [METRICS, REPORT];
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const REPORT: &str = "report.html";
/// The kinds of files that a manifest names.
const ENCODER: &str = "encoder";
const KINDS: [(&str, &str); 3] =
    [(ENCODER, "json"), ("best", "safetensors"), ("state", "safetensors")];
/// The largest file that is read into memory before its length is known, in bytes.
const MAX_JSON_BYTES: u64 = 1 << 32;

/// A model directory, for reading.
#[derive(Clone, Debug)]
pub struct ModelDir {
    path: PathBuf,
}

impl ModelDir {
    /// Opens the model in a directory.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`] if there is no model, or one that this program does not
    /// understand, and [`TrainError::Io`] if it cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Manifest)> {
        Self { path: path.into() }.with_manifest(MANIFEST)
    }

    /// Opens the model in a directory and reads its encoder.
    ///
    /// # Errors
    /// Returns the errors of [`Self::open`] and [`Self::read_encoder`].
    pub fn open_with_encoder(path: &Path) -> Result<(Manifest, Encoder)> {
        Self::read_with(path, Self::read_encoder)
    }

    /// Opens the model and reads it with `read`. If `read` fails and training has replaced files of
    /// the model meanwhile, the call starts again with the new files.
    pub(super) fn read_with<T>(
        path: &Path,
        read: impl Fn(&Self, &Manifest) -> Result<T>,
    ) -> Result<(Manifest, T)> {
        loop {
            let (dir, manifest) = Self::open(path)?;
            match read(&dir, &manifest) {
                Ok(value) => return Ok((manifest, value)),
                Err(error) => {
                    if Self::open(path).is_ok_and(|(_, now)| now.files == manifest.files) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn with_manifest(self, name: &str) -> Result<(Self, Manifest)> {
        let file = self.file(name);
        let text = read_at_most(&file, MAX_JSON_BYTES).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                model_error(&self.path, format!("no model here (there is no {MANIFEST})"))
            }
            _ => io_error("read", &file)(error),
        })?;
        let manifest = Manifest::parse(&text).map_err(|reason| model_error(&file, reason))?;
        Ok((self, manifest))
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the encoder.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`] if the file contradicts the manifest, and [`TrainError::Data`]
    /// if the encoder is invalid.
    pub fn read_encoder(&self, manifest: &Manifest) -> Result<Encoder> {
        let (path, entry) = self.entry(manifest, ENCODER)?;
        let bytes = read_at_most(&path, entry.bytes.min(MAX_JSON_BYTES))
            .map_err(io_error("read", &path))?;
        entry.check(&path, &bytes)?;
        let encoder: Encoder = serde_json::from_slice(&bytes)
            .map_err(|error| model_error(&path, format!("not an encoder: {error}")))?;
        encoder.check()?;
        Ok(encoder)
    }

    /// Reads tensors after `check` has accepted the header.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`] if the file contradicts the manifest or is not a safetensors
    /// file, and the error of `check` if that fails.
    pub(super) fn read_tensors(
        &self,
        manifest: &Manifest,
        kind: &str,
        check: impl FnOnce(&TensorLayout) -> crate::Result<()>,
    ) -> Result<TensorFile> {
        let (path, entry) = self.entry(manifest, kind)?;
        TensorFile::read(&path, entry, check)
    }

    /// Returns the path in a form to which a suffix can be added.
    fn named_path(&self) -> Result<PathBuf> {
        match self.path.file_name() {
            // The components have no trailing slash.
            Some(_) => Ok(self.path.components().collect()),
            None => self.path.canonicalize().map_err(io_error("resolve", &self.path)),
        }
    }

    /// Returns the path of the file that the manifest names for this kind, and its entry.
    fn entry<'a>(&self, manifest: &'a Manifest, kind: &str) -> Result<(PathBuf, &'a FileEntry)> {
        let missing =
            || model_error(&self.path, format!("no {kind} in it: training has not come that far"));
        let entry = manifest.files.get(kind).ok_or_else(missing)?;
        if Path::new(&entry.name).components().count() != 1 || entry.name.starts_with('.') {
            let reason = format!("the manifest names {:?}, which is no file in it", entry.name);
            return Err(model_error(&self.path, reason));
        }
        Ok((self.file(&entry.name), entry))
    }
}

/// A model directory into which a training run writes. Each directory has at most one at a time,
/// across all processes.
#[derive(Debug)]
pub struct RunDir {
    dir: ModelDir,
    /// Set while the directory holds an older model that this run has not replaced yet.
    is_next: bool,
    /// The lock file, locked while it is open, so that a process that dies leaves no lock behind.
    _lock: File,
}

impl RunDir {
    /// Prepares a directory for a new run and creates it if necessary. An existing model stays in
    /// effect until the run has a model of its own. If an interrupted run has written tensors but
    /// not replaced that model, it is kept as `PATH~1`, `PATH~2`, …, and that path is returned.
    ///
    /// # Errors
    /// Returns [`TrainError::Busy`] if another run writes into the directory, [`TrainError::Io`] if
    /// the directory cannot be created or written, and [`TrainError::Model`] if it holds something
    /// other than a model.
    pub fn create(path: &Path) -> Result<(Self, Option<PathBuf>)> {
        let make = || {
            fs::create_dir_all(path)?;
            files::sync_folder(files::parent_of(path))
        };
        make().map_err(io_error("create", path))?;
        let entries = names_in(path).map_err(io_error("read", path))?;
        let is_model = entries.iter().any(|name| name == MANIFEST || name == NEXT_MANIFEST);
        if !is_model && !entries.iter().all(|name| name == LOCK || is_removable(name)) {
            let reason =
                "the directory is not empty and holds no model; choose another one with --out";
            return Err(model_error(path, reason));
        }
        let mut run = Self::lock(path)?;
        let interrupted = match run.read_next()? {
            Some(next) if next.files.keys().any(|kind| kind != ENCODER) => {
                Some(run.keep(&next, NEXT_MANIFEST)?)
            }
            _ => None,
        };
        let next = run.dir.file(NEXT_MANIFEST);
        files::remove_if_there(&next).map_err(io_error("remove", &next))?;
        run.is_next = entries.iter().any(|name| name == MANIFEST);
        run.remove_orphans(None);
        Ok((run, interrupted))
    }

    /// Resumes the run that was interrupted last. A run that has no model yet takes precedence over
    /// the run that made the current model.
    ///
    /// # Errors
    /// Returns the errors of [`ModelDir::open`], and [`TrainError::Busy`] if another run writes
    /// into the directory.
    pub fn resume(path: &Path) -> Result<(Self, Manifest)> {
        // Report a directory without a model before a lock file is left in it.
        if !path.join(NEXT_MANIFEST).exists() {
            ModelDir::open(path)?;
        }
        let mut run = Self::lock(path)?;
        let manifest = match run.read_next()? {
            Some(next) => {
                run.is_next = true;
                if !run.dir.file(MANIFEST).exists() {
                    run.put_into_effect()?;
                }
                next
            }
            None => run.dir.clone().with_manifest(MANIFEST)?.1,
        };
        run.remove_orphans(Some(&manifest));
        Ok((run, manifest))
    }

    /// Returns the directory, for reading.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    fn lock(path: &Path) -> Result<Self> {
        let file = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = files::open_with(&mut options, &file).map_err(io_error("open", &file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(100).read_to_string(&mut holder);
                return Err(TrainError::Busy {
                    path: path.into(),
                    holder: holder.trim().to_owned(),
                });
            }
            // Some network file systems have no locks. Without them, two runs must not write at the
            // same time.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &file)(error)),
        }
        let mut note = || {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "process {}", std::process::id())
        };
        // The note is only read by the error message of another process.
        let _ = note();
        Ok(Self { dir: ModelDir { path: path.into() }, is_next: false, _lock: lock })
    }

    /// Reads the manifest of a run that has no model yet, if there is one.
    fn read_next(&self) -> Result<Option<Manifest>> {
        if !self.dir.file(NEXT_MANIFEST).exists() {
            return Ok(None);
        }
        self.dir.clone().with_manifest(NEXT_MANIFEST).map(|(_, manifest)| Some(manifest))
    }

    /// Writes the encoder, to take effect with the next [`Self::commit`].
    ///
    /// # Errors
    /// Returns [`TrainError::Io`] if the file cannot be written.
    pub fn write_encoder(&self, manifest: &mut Manifest, encoder: &Encoder) -> Result<()> {
        let name = self.free_name(ENCODER, None, "json");
        let entry =
            self.write(&name, |out| serde_json::to_writer(out, encoder).map_err(Into::into))?;
        manifest.files.insert(ENCODER.into(), entry);
        Ok(())
    }

    /// Writes tensors as `KIND-STEP.safetensors`, to take effect with the next [`Self::commit`].
    ///
    /// # Errors
    /// Returns [`TrainError::Io`] if the file cannot be written.
    pub fn write_tensors(
        &self,
        manifest: &mut Manifest,
        kind: &str,
        tensors: &[NamedTensor],
    ) -> Result<()> {
        let tensors: Vec<_> = tensors.iter().map(TensorRef::from).collect();
        self.write_tensor_refs(manifest, kind, &tensors)
    }

    /// Writes tensors as [`Self::write_tensors`] does, without a copy of their elements.
    pub(super) fn write_tensor_refs(
        &self,
        manifest: &mut Manifest,
        kind: &str,
        tensors: &[TensorRef<'_>],
    ) -> Result<()> {
        let name = self.free_name(kind, Some(manifest.progress.step), "safetensors");
        let entry = self.write(&name, |out| write_safetensors(out, &[], tensors))?;
        manifest.files.insert(kind.into(), entry);
        Ok(())
    }

    /// Returns a free name for a new file, so that no file of another manifest is overwritten.
    fn free_name(&self, kind: &str, step: Option<u64>, extension: &str) -> String {
        let stem = step.map_or_else(|| kind.to_owned(), |step| format!("{kind}-{step:010}"));
        let is_free = |name: &String| self.dir.file(name).symlink_metadata().is_err();
        let plain = format!("{stem}.{extension}");
        let numbered = (1u32..).map(|k| format!("{stem}.{k}.{extension}"));
        std::iter::once(plain).chain(numbered).find(is_free).unwrap_or_default()
    }

    /// Makes the written files take effect and removes those that no longer do. If this replaces an
    /// older model, the path under which that model is kept is returned.
    ///
    /// # Errors
    /// Returns [`TrainError::Io`] if the manifest cannot be written; the previous state is then
    /// still in effect.
    pub fn commit(&mut self, manifest: &Manifest) -> Result<Option<PathBuf>> {
        let name = if self.is_next { NEXT_MANIFEST } else { MANIFEST };
        self.write(name, |out| serde_json::to_writer_pretty(out, manifest).map_err(Into::into))?;
        let replaces = self.is_next && manifest.files.contains_key("best");
        let replaced = if replaces { Some(self.replace_model(manifest)?) } else { None };
        self.remove_orphans(Some(manifest));
        Ok(replaced)
    }

    /// Replaces the older model by the model of the run, and returns the backup of the older one.
    fn replace_model(&mut self, manifest: &Manifest) -> Result<PathBuf> {
        let old_home = self.keep_all_but(manifest)?;
        self.put_into_effect()?;
        Ok(old_home)
    }

    /// Makes the manifest of the run the one in effect, in one step.
    fn put_into_effect(&mut self) -> Result<()> {
        let (next, current) = (self.dir.file(NEXT_MANIFEST), self.dir.file(MANIFEST));
        let exchange = || {
            fs::rename(&next, &current)?;
            files::sync_folder(&self.dir.path)
        };
        exchange().map_err(io_error("replace", &current))?;
        self.is_next = false;
        Ok(())
    }

    /// Links the older model into a backup: every file of ours that the new manifest does not name.
    fn keep_all_but(&self, manifest: &Manifest) -> Result<PathBuf> {
        let names = names_in(&self.dir.path).map_err(io_error("read", &self.dir.path))?;
        let of_new = |name: &str| manifest.files.values().any(|file| file.name == name);
        let is_old = |name: &&String| {
            let name = name.as_str();
            name == MANIFEST || DERIVED.contains(&name) || (is_of_a_kind(name) && !of_new(name))
        };
        let names: Vec<_> =
            names.iter().filter(is_old).map(|name| (name.as_str(), name.as_str())).collect();
        self.link_into_backup(&names)
    }

    /// Links the files of a manifest into a backup, where this manifest is in effect.
    fn keep(&self, manifest: &Manifest, name: &str) -> Result<PathBuf> {
        let files = manifest.files.values().map(|file| (file.name.as_str(), file.name.as_str()));
        self.link_into_backup(&files.chain([(name, MANIFEST)]).collect::<Vec<_>>())
    }

    /// Creates a directory, the first free one of `PATH~1`, `PATH~2`, …, and links or copies files
    /// into it. Each pair in `names` is a file's name here and its name there. The directory
    /// appears complete or not at all.
    fn link_into_backup(&self, names: &[(&str, &str)]) -> Result<PathBuf> {
        let path = self.dir.named_path()?;
        let partial = files::with_suffix(&path, &format!("~{PARTIAL}"));
        let make = || {
            remove_partial_backup(&partial)?;
            fs::create_dir(&partial)?;
            for (from, to) in names {
                files::link_or_copy(&self.dir.file(from), &partial.join(to))?;
            }
            files::sync_folder(&partial)?;
            let mut homes = (1u32..).map(|k| files::with_suffix(&path, &format!("~{k}")));
            let home = homes.find(|home| home.symlink_metadata().is_err()).unwrap_or_default();
            fs::rename(&partial, &home)?;
            files::sync_folder(files::parent_of(&home))?;
            Ok(home)
        };
        make().map_err(io_error("keep the model of", &path))
    }

    /// Writes a file for people that is derived from the manifest, unless the directory still holds
    /// an older model in effect.
    ///
    /// # Errors
    /// Returns [`TrainError::Io`] if the file cannot be written.
    pub(super) fn write_derived(&self, name: &str, text: &str) -> Result<()> {
        if self.is_next {
            return Ok(());
        }
        self.write(name, |out| out.write_all(text.as_bytes())).map(|_| ())
    }

    /// Writes a file under a temporary name, makes it durable, and renames it.
    fn write(
        &self,
        name: &str,
        contents: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<FileEntry> {
        let written = files::replace(&self.dir.path, name, contents)
            .map_err(io_error("write", &self.dir.file(name)))?;
        Ok(FileEntry { name: name.into(), bytes: written.bytes, crc32: written.crc32 })
    }

    /// Removes files with names that only this program uses, unless `manifest` or the manifest in
    /// effect names them.
    fn remove_orphans(&self, manifest: Option<&Manifest>) {
        let Ok(names) = names_in(&self.dir.path) else { return };
        let current = ModelDir::open(&self.dir.path).ok().map(|(_, current)| current);
        if current.is_none() && self.dir.file(MANIFEST).exists() {
            // If the model cannot be read, its files are unknown, and nothing is removed.
            return;
        }
        let named = |name: &str| {
            let mut manifests = manifest.into_iter().chain(&current);
            manifests.any(|manifest| manifest.files.values().any(|file| file.name == name))
        };
        for name in names.iter().filter(|name| is_removable(name) && !named(name)) {
            // A file that cannot be removed now does no harm, and the next call tries again.
            let _ = fs::remove_file(self.dir.file(name));
        }
    }
}

/// Removes the unfinished backup of a killed process. Any other contents are an error.
fn remove_partial_backup(partial: &Path) -> std::io::Result<()> {
    if partial.symlink_metadata().is_err() {
        return Ok(());
    }
    let is_ours = |name: &&String| {
        *name == MANIFEST || DERIVED.contains(&name.as_str()) || is_of_a_kind(name)
    };
    for name in names_in(partial)?.iter().filter(is_ours) {
        fs::remove_file(partial.join(name))?;
    }
    fs::remove_dir(partial)
}

/// Returns the names of a folder's entries that are valid UTF-8.
fn names_in(folder: &Path) -> std::io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Returns whether only this program gives such a name, either to a file that a manifest names or
/// to an unfinished file.
fn is_removable(name: &str) -> bool {
    let whole = name.strip_suffix(PARTIAL);
    is_of_a_kind(whole.unwrap_or(name))
        || whole.is_some_and(|whole| {
            whole == MANIFEST || whole == NEXT_MANIFEST || DERIVED.contains(&whole)
        })
}

/// Returns whether the name is `KIND.ext`, `KIND-STEP.ext`, or one of these with a number before
/// the extension, as [`RunDir::free_name`] makes them.
fn is_of_a_kind(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    KINDS.iter().any(|(kind, extension)| {
        let Some(stem) = name.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.'))
        else {
            return false;
        };
        let stem = stem
            .rsplit_once('.')
            .filter(|(_, number)| is_number(number))
            .map_or(stem, |(stem, _)| stem);
        match stem.strip_prefix(kind) {
            Some("") => *kind == ENCODER,
            Some(step) => {
                *kind != ENCODER
                    && step.strip_prefix('-').is_some_and(|s| s.len() >= 10 && is_number(s))
            }
            None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_not_ours() {
        for name in [
            "encoder.json",
            "encoder.2.json",
            "best-0000000075.safetensors",
            "state-0000000075.1.safetensors",
            "state-12345678901.safetensors.partial",
            "manifest.json.partial",
            "manifest.next.json.partial",
            "metrics.jsonl.partial",
        ] {
            assert!(is_removable(name), "{name}");
        }
        for name in [
            "export.safetensors",
            "best.safetensors",
            "best-75.safetensors",
            "best-000000007x.safetensors",
            "thesis.partial",
            "manifest.json",
            "metrics.jsonl",
            "encoder-0000000001.json",
            "my-encoder.json",
            "encoder..json",
            ".lock",
        ] {
            assert!(!is_removable(name), "{name}");
        }
    }
}
