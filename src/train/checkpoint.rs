//! Model directories: written so that a crash at any moment leaves the last good state.
//!
//! `manifest.json` names the files that belong together, with their lengths and checksums. A new state is written under a new name, made
//! durable, and takes effect when the manifest that names it replaces the old one in a single rename; only then are files that no manifest
//! names removed. A directory is what its manifest says, whatever else lies in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::error::{Result, TrainError, io_error, model_error};
use super::trainer::EpochRecord;
use crate::data::Encoder;
use crate::dtype::DType;
use crate::nn::{NamedTensor, TensorSource};

/// The version of the format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const ENCODER: &str = "encoder.json";
/// Nothing that is read into memory before its length is known may be larger.
const MAX_JSON_BYTES: u64 = 1 << 32;
/// A header that describes more than a million tensors is not one of ours.
const MAX_HEADER_BYTES: u64 = 1 << 26;

/// What a model directory holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The program that wrote it.
    pub created_by: String,
    /// What the model was trained by.
    pub config: Config,
    /// The folder that relative paths of the configuration count from.
    pub folder: PathBuf,
    /// How far training has come.
    pub progress: Progress,
    /// The files, by what they are: `encoder`, `best` (the model), `state` (what `--resume` needs).
    pub files: BTreeMap<String, FileEntry>,
}

/// A file of a model directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name within the directory.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The CRC-32 of its contents.
    pub crc32: u32,
}

/// How far training has come: with the tensors of `state`, all that decides what comes next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Whether training has ended.
    pub finished: bool,
    /// Epochs that are over.
    pub epochs_done: u32,
    /// Batches of the current epoch that are over.
    pub batches_done: u64,
    /// Steps of the optimizer so far.
    pub step: u64,
    /// The epoch of the best model, from 1; 0 before there is one.
    pub best_epoch: u32,
    /// What happened in each epoch that is over.
    pub history: Vec<EpochRecord>,
    /// The length of `metrics.jsonl` that belongs to it.
    pub metrics_bytes: u64,
    /// Seconds spent in steps of training.
    pub train_seconds: f64,
    /// Samples that went through steps of training.
    pub samples: u64,
    /// The number of rows of training, validation and test, to notice that the data have changed.
    pub rows: [u64; 3],
}

/// A model directory.
#[derive(Clone, Debug)]
pub struct ModelDir {
    path: PathBuf,
}

impl ModelDir {
    /// Makes an empty one. A model that is there already is kept: the directory is renamed to the first free `PATH~1`, `PATH~2`, …, which is
    /// returned.
    ///
    /// # Errors
    /// [`TrainError::Io`] if it cannot be made; [`TrainError::Model`] if there is something else in its place.
    pub fn create(path: &Path) -> Result<(Self, Option<PathBuf>)> {
        // A run that was killed before its first checkpoint leaves these, and no model.
        let is_left_over = |name: &str| name == ENCODER || name.ends_with(".partial");
        let occupied = fs::read_dir(path)
            .is_ok_and(|entries| entries.flatten().any(|entry| !is_left_over(&entry.file_name().to_string_lossy())));
        let backup = if path.join(MANIFEST).exists() {
            let backup = (1u32..).map(|k| append(path, &format!("~{k}"))).find(|backup| !backup.exists());
            let backup = backup.unwrap_or_else(|| append(path, "~"));
            fs::rename(path, &backup).map_err(io_error("rename", path))?;
            Some(backup)
        } else if occupied {
            return Err(model_error(
                path,
                "the directory is not empty and holds no model; choose another one with --out",
            ));
        } else {
            None
        };
        fs::create_dir_all(path).map_err(io_error("create", path))?;
        Ok((Self { path: path.into() }, backup))
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// [`TrainError::Model`] if it has no manifest, or one that this program does not understand.
    pub fn open(path: &Path) -> Result<(Self, Manifest)> {
        let dir = Self { path: path.into() };
        let file = dir.file(MANIFEST);
        if !file.exists() {
            return Err(model_error(path, "no model here (there is no manifest.json)"));
        }
        let text = read_bounded(&file, MAX_JSON_BYTES)?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let broken = |error: serde_json::Error| model_error(&file, format!("not a manifest: {error}"));
        let Version { format } = serde_json::from_slice(&text).map_err(broken)?;
        if format != FORMAT {
            let reason =
                format!("format {format}, but this program reads format {FORMAT}: use the version that wrote it");
            return Err(model_error(&file, reason));
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(broken)?;
        Ok((dir, manifest))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// An empty manifest for a new model.
    pub fn manifest(config: Config, folder: PathBuf) -> Manifest {
        let created_by = concat!("bagdot ", env!("CARGO_PKG_VERSION")).to_owned();
        Manifest { format: FORMAT, created_by, config, folder, progress: Progress::default(), files: BTreeMap::new() }
    }

    /// Writes the encoder, to take effect with the next [`Self::commit`].
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write_encoder(&self, manifest: &mut Manifest, encoder: &Encoder) -> Result<()> {
        let entry = self.write(ENCODER, |out| serde_json::to_writer(out, encoder).map_err(Into::into))?;
        manifest.files.insert("encoder".into(), entry);
        Ok(())
    }

    /// Reads the encoder.
    ///
    /// # Errors
    /// [`TrainError::Model`] if it is not what the manifest says; [`TrainError::Data`] if it cannot be used.
    pub fn read_encoder(&self, manifest: &Manifest) -> Result<Encoder> {
        let (path, bytes) = self.read(manifest, "encoder")?;
        let encoder: Encoder =
            serde_json::from_slice(&bytes).map_err(|error| model_error(&path, format!("not an encoder: {error}")))?;
        encoder.check()?;
        Ok(encoder)
    }

    /// Writes tensors as `KIND-STEP.safetensors`, to take effect with the next [`Self::commit`].
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write_tensors(&self, manifest: &mut Manifest, kind: &str, tensors: &[NamedTensor]) -> Result<()> {
        let name = format!("{kind}-{:010}.safetensors", manifest.progress.step);
        let entry = self.write(&name, |out| write_safetensors(out, tensors))?;
        manifest.files.insert(kind.into(), entry);
        Ok(())
    }

    /// Reads tensors.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the file is not what the manifest says, or no safetensors file.
    pub fn read_tensors(&self, manifest: &Manifest, kind: &str) -> Result<TensorFile> {
        let (path, bytes) = self.read(manifest, kind)?;
        TensorFile::parse(bytes).map_err(|reason| model_error(&path, reason))
    }

    /// Makes what was written take effect, and removes what no longer does.
    ///
    /// # Errors
    /// [`TrainError::Io`]: then the state before is still in effect.
    pub fn commit(&self, manifest: &Manifest) -> Result<()> {
        self.write(MANIFEST, |out| serde_json::to_writer_pretty(out, manifest).map_err(Into::into))?;
        let Ok(entries) = fs::read_dir(&self.path) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.ends_with(".safetensors") || name.ends_with(".partial");
            if ours && !manifest.files.values().any(|file| file.name == name) {
                // What cannot be removed now is in nobody's way, and is tried again next time.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Writes a file under a temporary name, makes it durable, and renames it.
    pub(super) fn write(
        &self,
        name: &str,
        contents: impl FnOnce(&mut Checked<BufWriter<File>>) -> std::io::Result<()>,
    ) -> Result<FileEntry> {
        let (path, partial) = (self.file(name), self.file(&format!("{name}.partial")));
        let write = || {
            let mut out =
                Checked { inner: BufWriter::new(File::create(&partial)?), bytes: 0, crc: crc32fast::Hasher::new() };
            contents(&mut out)?;
            out.flush()?;
            out.inner.get_ref().sync_all()?;
            fs::rename(&partial, &path)?;
            // The rename itself is durable only once the directory is.
            File::open(&self.path)?.sync_all()?;
            Ok(FileEntry { name: name.into(), bytes: out.bytes, crc32: out.crc.finalize() })
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&partial);
            TrainError::Io { doing: "write", path, source }
        })
    }

    fn read(&self, manifest: &Manifest, kind: &str) -> Result<(PathBuf, Vec<u8>)> {
        let missing = || model_error(&self.path, format!("no {kind} in it: training has not come that far"));
        let entry = manifest.files.get(kind).ok_or_else(missing)?;
        if Path::new(&entry.name).components().count() != 1 || entry.name.starts_with('.') {
            return Err(model_error(
                &self.path,
                format!("the manifest names {:?}, which is no file in it", entry.name),
            ));
        }
        let path = self.file(&entry.name);
        let bytes = read_bounded(&path, entry.bytes)?;
        if bytes.len() as u64 != entry.bytes || crc32fast::hash(&bytes) != entry.crc32 {
            let reason = format!(
                "damaged: {} bytes with checksum {:08x}, but the manifest says {} bytes with checksum {:08x}",
                bytes.len(),
                crc32fast::hash(&bytes),
                entry.bytes,
                entry.crc32
            );
            return Err(model_error(&path, reason));
        }
        Ok((path, bytes))
    }
}

fn append(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads at most `max` bytes, and one more if there are any.
fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error("open", path))?;
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// Counts and checks what is written through it.
pub(super) struct Checked<W> {
    inner: W,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(data)?;
        self.bytes += written as u64;
        self.crc.update(&data[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
    }
}

/// The safetensors format: the length of the header in 8 bytes, the header in JSON, the data. Written here, and not by the crate, so that
/// tensors go out one by one, without a second copy of them all.
fn write_safetensors(out: &mut impl Write, tensors: &[NamedTensor]) -> std::io::Result<()> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes.len();
        let entry = serde_json::json!({
            "dtype": dtype_name(tensor.dtype), "shape": tensor.shape, "data_offsets": [start, end]
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    // Data begin at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|tensor| out.write_all(&tensor.bytes))
}

/// The contents of a safetensors file.
pub struct TensorFile {
    bytes: Vec<u8>,
    tensors: BTreeMap<String, (DType, Vec<usize>, std::ops::Range<usize>)>,
}

impl TensorFile {
    fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let header = bytes
            .first_chunk::<8>()
            .map(|length| u64::from_le_bytes(*length))
            .ok_or("no safetensors file: too short")?;
        if header > MAX_HEADER_BYTES {
            return Err(format!("no safetensors file of ours: a header of {header} bytes"));
        }
        let (_, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| format!("no safetensors file: {error}"))?;
        let data_start = 8 + header as usize;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let dtype = match info.dtype {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::F16 => DType::F16,
                safetensors::Dtype::BF16 => DType::BF16,
                other => return Err(format!("tensor {name} holds {other:?}, which no model has")),
            };
            let (start, end) = info.data_offsets;
            tensors.insert(name, (dtype, info.shape.clone(), data_start + start..data_start + end));
        }
        Ok(Self { bytes, tensors })
    }
}

impl TensorSource for TensorFile {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        let (dtype, shape, range) = self.tensors.get(name)?;
        Some((*dtype, shape, self.bytes.get(range.clone())?))
    }
}
