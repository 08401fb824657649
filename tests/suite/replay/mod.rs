//! A strict reader of golden files, and the replay of their cases.

pub(crate) mod embedding_bag;
pub(crate) mod fused_optimizers;
pub(crate) mod interaction;
pub(crate) mod trajectory;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value};

/// The fields that do not affect the computation.
const NOTES: [&str; 8] = [
    "id",
    "tag",
    "source",
    "note",
    "comment",
    "description",
    "seed",
    "max_abs_diff_vs_fp64_dense_reference",
];

/// Returns the directory of the golden files: `BAGDOT_GOLDEN_DIR`, or `tests/golden` if it is not
/// set.
pub(crate) fn golden_directory() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("BAGDOT_GOLDEN_DIR").map_or(default, PathBuf::from)
}

/// A golden file, with the names of the tensors that have been read.
pub(crate) struct File {
    pub(crate) name: String,
    cases: Vec<Map<String, Value>>,
    tensors: BTreeMap<String, Tensor>,
    read: RefCell<BTreeSet<String>>,
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl File {
    pub(crate) fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let bytes = std::fs::read(path).unwrap();
        let file =
            SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let cases = metadata.metadata().as_ref().and_then(|metadata| metadata.get("cases"));
        let cases = cases.unwrap_or_else(|| panic!("{name}: the metadata has no `cases`"));
        let cases: Vec<_> =
            serde_json::from_str(cases).unwrap_or_else(|error| panic!("{name}: cases: {error}"));
        assert!(!cases.is_empty(), "{name}: there is no case in it");
        let tensors = file.tensors().into_iter().map(|(tensor, view)| {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            (tensor, Tensor { dtype, shape, bytes: view.data().to_vec() })
        });
        Self { name, cases, tensors: tensors.collect(), read: RefCell::default() }
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        self.cases.iter().map(|fields| Case { file: self, fields, read: RefCell::default() })
    }

    pub(crate) fn num_cases(&self) -> usize {
        self.cases.len()
    }

    pub(crate) fn assert_all_tensors_read(&self) {
        let read = self.read.borrow();
        let unread: Vec<_> = self.tensors.keys().filter(|name| !read.contains(*name)).collect();
        assert!(unread.is_empty(), "{}: tensors that nobody read: {unread:?}", self.name);
    }
}

/// A case of a file: its fields and tensors. A field or a tensor that is read must exist and have
/// the type that its reader expects.
pub(crate) struct Case<'a> {
    file: &'a File,
    fields: &'a Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Case<'_> {
    /// Returns the name of the case for messages.
    pub(crate) fn name(&self) -> String {
        let describe = |field| self.fields.get(field).and_then(Value::as_str).unwrap_or("");
        format!("{} {} {}", self.file.name, describe("id"), describe("tag"))
    }

    /// Returns a field if it exists and is not null.
    pub(crate) fn optional(&self, field: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(field.to_string());
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn field<T>(&self, field: &str, convert: impl Fn(&Value) -> Option<T>) -> T {
        let value =
            self.optional(field).unwrap_or_else(|| panic!("{}: no field {field:?}", self.name()));
        convert(value).unwrap_or_else(|| self.unknown(field))
    }

    /// Fails because of a field with an unknown value.
    pub(crate) fn unknown(&self, field: &str) -> ! {
        panic!("{}: {field:?} is {}, which is not known", self.name(), self.fields[field])
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.field(field, |value| value.as_str().map(str::to_string))
    }

    pub(crate) fn number(&self, field: &str) -> f32 {
        self.field(field, |value| value.as_f64().map(|number| number as f32))
    }

    pub(crate) fn count(&self, field: &str) -> usize {
        self.field(field, as_count)
    }

    pub(crate) fn flag(&self, field: &str) -> bool {
        self.field(field, Value::as_bool)
    }

    pub(crate) fn counts(&self, field: &str) -> Vec<usize> {
        self.field(field, |value| value.as_array()?.iter().map(as_count).collect())
    }

    pub(crate) fn pairs(&self, field: &str) -> Vec<(usize, usize)> {
        let pair = |value: &Value| match value.as_array()?.as_slice() {
            [a, b] => Some((as_count(a)?, as_count(b)?)),
            _ => None,
        };
        self.field(field, |value| value.as_array()?.iter().map(pair).collect())
    }

    /// Fails if one of the fields is present and neither false nor 0.
    pub(crate) fn must_be_off(&self, fields: &[&str]) {
        for field in fields {
            match self.optional(field) {
                None | Some(Value::Bool(false)) => {}
                Some(value) if value.as_f64() == Some(0.0) => {}
                _ => self.unknown(field),
            }
        }
    }

    /// Fails if the field is present and does not start like this. The replay relies on what it
    /// describes.
    pub(crate) fn must_begin(&self, field: &str, beginning: &str) {
        if self
            .optional(field)
            .is_some_and(|value| !value.as_str().is_some_and(|text| text.starts_with(beginning)))
        {
            self.unknown(field);
        }
    }

    pub(crate) fn assert_all_fields_read(&self) {
        let read = self.read.borrow();
        let known = |field: &&String| read.contains(*field) || NOTES.contains(&field.as_str());
        let unread: Vec<_> = self.fields.keys().filter(|field| !known(field)).collect();
        assert!(unread.is_empty(), "{}: fields that nobody read: {unread:?}", self.name());
    }

    fn tensor(&self, name: &str) -> &Tensor {
        let id = self.fields.get("id").and_then(Value::as_str);
        let name = id.map_or_else(|| name.to_string(), |id| format!("{id}.{name}"));
        let found = self.file.tensors.get(&name);
        self.file.read.borrow_mut().insert(name.clone());
        found.unwrap_or_else(|| panic!("{}: no tensor {name:?}", self.name()))
    }

    fn elements<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Vec<T> {
        let tensor = self.tensor(name);
        assert_eq!((tensor.dtype, &tensor.shape[..]), (dtype, shape), "{}: {name}", self.name());
        bytemuck::pod_collect_to_vec(&tensor.bytes)
    }

    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        self.elements(name, Dtype::F32, shape)
    }

    pub(crate) fn doubles(&self, name: &str, shape: &[usize]) -> Vec<f64> {
        self.elements(name, Dtype::F64, shape)
    }

    /// Returns ids or offsets, and true if they have 32 bits.
    pub(crate) fn integers(&self, name: &str) -> (Vec<i64>, bool) {
        let tensor = self.tensor(name);
        let shape = tensor.shape.clone();
        assert_eq!(shape.len(), 1, "{}: {name}", self.name());
        match tensor.dtype {
            Dtype::I64 => (self.elements(name, Dtype::I64, &shape), false),
            Dtype::I32 => (
                self.elements::<i32>(name, Dtype::I32, &shape).into_iter().map(i64::from).collect(),
                true,
            ),
            other => panic!("{}: {name} holds {other:?}", self.name()),
        }
    }
}

fn as_count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| count.try_into().ok())
}
