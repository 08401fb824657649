//! Reads and writes the safetensors files of a model directory.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Metadata;

use super::error::{Result, TrainError, io_error, model_error};
use super::files::open_regular;
use super::manifest::FileEntry;
use crate::dtype::DType;
use crate::nn::{NamedTensor, TensorSource};

/// The largest size of a header, which would describe more than a million tensors.
const MAX_HEADER_BYTES: u64 = 1 << 26;

/// A tensor to be written, whose elements may be borrowed.
pub(super) struct TensorRef<'a> {
    name: String,
    dtype: &'static str,
    /// The size of an element in bytes.
    element_bytes: usize,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> TensorRef<'a> {
    /// Makes a tensor of little-endian elements, row-major.
    pub(super) fn new(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let bytes = bytes.into();
        Self { name, dtype: dtype_name(dtype), element_bytes: dtype.size(), shape, bytes }
    }

    /// Makes a tensor of one dimension that holds integers.
    pub(super) fn integers(name: String, values: &'a [i64]) -> Self {
        let bytes = Cow::Borrowed(bytemuck::cast_slice(values));
        let element_bytes = size_of::<i64>();
        Self { name, dtype: "I64", element_bytes, shape: vec![values.len()], bytes }
    }
}

impl<'a> From<&'a NamedTensor> for TensorRef<'a> {
    fn from(tensor: &'a NamedTensor) -> Self {
        Self::new(tensor.name.clone(), tensor.dtype, tensor.shape.clone(), &tensor.bytes)
    }
}

/// Writes tensors in the safetensors format: the length of the header in 8 bytes, the header in
/// JSON, the data. Unlike the writer of the `safetensors` crate, it writes tensors one by one,
/// without a second copy of all of them. `metadata` are pairs of texts for other readers.
pub(super) fn write_safetensors(
    mut out: impl Write,
    metadata: &[(&str, String)],
    tensors: &[TensorRef<'_>],
) -> io::Result<()> {
    // Readers such as PyTorch view the elements in place, so they must be aligned: wide ones first.
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| Reverse(tensor.element_bytes));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|(key, text)| ((*key).to_owned(), text.as_str().into()));
        header.insert("__metadata__".into(), serde_json::Value::Object(pairs.collect()));
    }
    let mut end = 0;
    for tensor in &ordered {
        let start = end;
        end += tensor.bytes.len();
        let entry = serde_json::json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header)?;
    // Data begin at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    ordered.iter().try_for_each(|tensor| out.write_all(&tensor.bytes))
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
    }
}

/// The header of a safetensors file: the element type, shape and byte range of each tensor.
pub(super) struct TensorLayout {
    tensors: BTreeMap<String, (DType, Vec<usize>, Range<usize>)>,
}

impl TensorLayout {
    /// Returns whether the file has a tensor with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns the names of all tensors, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks that the file has this tensor, with this shape and element type.
    ///
    /// # Errors
    /// Returns the engine's error for a tensor that is missing or different.
    pub(super) fn expect(&self, name: &str, dtype: DType, shape: &[usize]) -> crate::Result<()> {
        let missing = || crate::Error::TensorMissing { name: name.into() };
        let (got_dtype, got, _) = self.tensors.get(name).ok_or_else(missing)?;
        if *got_dtype != dtype {
            return Err(crate::Error::DTypeMismatch {
                tensor: name.into(),
                expected: dtype,
                got: *got_dtype,
            });
        }
        if got != shape {
            let (expected, got) = (shape.to_vec(), got.clone());
            return Err(crate::Error::TensorShape { name: name.into(), expected, got });
        }
        Ok(())
    }

    /// Parses the header. The data of the tensors begin at byte `data_start` of the file.
    fn parse(header: &[u8], data_start: usize, file_bytes: u64) -> Result<Self, String> {
        let metadata: Metadata = serde_json::from_slice(header)
            .map_err(|error| format!("no safetensors file: {error}"))?;
        if data_start.checked_add(metadata.data_len()).map(|end| end as u64) != Some(file_bytes) {
            let (data, there) = (metadata.data_len(), file_bytes - data_start as u64);
            return Err(format!(
                "no safetensors file: tensors of {data} bytes, but {there} bytes for them"
            ));
        }
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
        Ok(Self { tensors })
    }
}

/// The contents of a safetensors file.
pub(super) struct TensorFile {
    bytes: Vec<u8>,
    layout: TensorLayout,
}

impl TensorFile {
    /// Reads a file whose length and checksum are known. `check` receives the header before the
    /// data are read, so that memory is allocated only for the expected tensors.
    pub(super) fn read(
        path: &Path,
        entry: &FileEntry,
        check: impl FnOnce(&TensorLayout) -> crate::Result<()>,
    ) -> Result<Self> {
        let (file, metadata) = open_regular(path).map_err(io_error("open", path))?;
        entry.check_len(path, metadata.len())?;
        let contents = Self::read_from(file, path, entry.bytes, |layout| Ok(check(layout)?))?;
        entry.check(path, &contents.bytes)?;
        Ok(contents)
    }

    /// Reads a file of another program, of any length. `check` receives the header as in
    /// [`Self::read`]; its error becomes one that names the file. Links are followed, since caches
    /// of models are made of them.
    pub(super) fn read_foreign(
        path: &Path,
        check: impl FnOnce(&TensorLayout) -> Result<(), String>,
    ) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(io_error("open", path))?;
        if !metadata.is_file() {
            // Opening a pipe would wait for another process.
            return Err(model_error(path, "not a regular file"));
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        Self::read_from(file, path, metadata.len(), |layout| {
            check(layout).map_err(|reason| model_error(path, reason))
        })
    }

    fn read_from(
        mut file: File,
        path: &Path,
        len: u64,
        check: impl FnOnce(&TensorLayout) -> Result<()>,
    ) -> Result<Self> {
        let broken = |reason: String| model_error(path, reason);
        if len < 8 {
            return Err(broken("no safetensors file: too short".into()));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io_error("read", path))?;
        let header = u64::from_le_bytes(length);
        if header > MAX_HEADER_BYTES {
            return Err(broken(format!(
                "no safetensors file: a header of {header} bytes is too long"
            )));
        }
        if header > len - 8 {
            return Err(broken(format!(
                "no safetensors file: a header of {header} bytes, but the file is shorter"
            )));
        }
        let data_start = 8 + header as usize;
        let mut bytes = length.to_vec();
        bytes.resize(data_start, 0);
        file.read_exact(&mut bytes[8..]).map_err(io_error("read", path))?;
        let layout = TensorLayout::parse(&bytes[8..], data_start, len).map_err(broken)?;
        check(&layout)?;
        let rest = (len - data_start as u64) as usize;
        let no_memory =
            |_| TrainError::Engine(crate::Error::OutOfMemory { bytes: data_start + rest });
        bytes.try_reserve_exact(rest).map_err(no_memory)?;
        bytes.resize(data_start + rest, 0);
        file.read_exact(&mut bytes[data_start..]).map_err(io_error("read", path))?;
        Ok(Self { bytes, layout })
    }

    /// Checks that all elements are finite, which a model that predicts requires.
    pub(super) fn expect_finite(&self) -> Result<(), String> {
        for (name, (dtype, _, range)) in &self.layout.tensors {
            let bytes = &self.bytes[range.clone()];
            let position = match dtype {
                DType::F32 => {
                    bytes.as_chunks().0.iter().position(|&x| !f32::from_le_bytes(x).is_finite())
                }
                DType::F16 => bytes
                    .as_chunks()
                    .0
                    .iter()
                    .position(|&x| !crate::f16::from_le_bytes(x).is_finite()),
                DType::BF16 => bytes
                    .as_chunks()
                    .0
                    .iter()
                    .position(|&x| !crate::bf16::from_le_bytes(x).is_finite()),
            };
            if let Some(position) = position {
                return Err(format!("element {position} of tensor {name} is not a finite number"));
            }
        }
        Ok(())
    }
}

impl TensorSource for TensorFile {
    fn tensor(&self, name: &str) -> Option<(DType, &[usize], &[u8])> {
        let (dtype, shape, range) = self.layout.tensors.get(name)?;
        Some((*dtype, shape, self.bytes.get(range.clone())?))
    }
}
