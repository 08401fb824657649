//! Writes a whole model as an ONNX graph (<https://onnx.ai/onnx/repo-docs/IR.html>): lookups,
//! interaction, layers, and the mean over the members.
//!
//! Bags of several ids come as in PyTorch with `include_last_offset`: values and offsets. The graph
//! makes the number of the bag of each value of them, by a count of the bags that begin up to
//! there, and adds or compares the rows with `ScatterElements` at these numbers. `ScatterND` needs
//! smaller indices, but onnxruntime has executed its reductions by several threads at once, with
//! wrong sums where indices are equal (its issues 18048 and 23396).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::rows::{DENSE, Input, inputs};
use super::{StoredModel, json};
use crate::dtype::DType;
use crate::nn::{DlrmConfig, TensorSource};
use crate::ops::{Interaction, Pooling, Table};
use crate::train::error::{Result, model_error};
use crate::train::model::member_prefix;
use crate::train::protobuf::Message;
use crate::train::tensor_file::TensorFile;

/// The version of ONNX's file format, which belongs to [`OPSET`].
const IR_VERSION: i64 = 8;
/// The version of ONNX's operators: the first with `max` in `ScatterElements`.
const OPSET: i64 = 18;
/// The bytes to which tensors in an external file are aligned, as a reader that maps it into
/// memory needs.
const ALIGN: usize = 4096;
/// Shorter tensors stay in the model itself, because readers infer shapes from them.
const MIN_EXTERNAL_BYTES: usize = 1024;

/// The numbers that ONNX gives to element types (`TensorProto.DataType`).
const FLOAT: i64 = 1;
const INT64: i64 = 7;
const FLOAT16: i64 = 10;
const BFLOAT16: i64 = 16;

/// The names of the outputs.
const PROBABILITIES: &str = "probabilities";
const LOGITS: &str = "logits";
/// The number of samples, which is not fixed.
const BATCH: &str = "batch";

/// The place of the weights of an ONNX model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnnxWeights<'a> {
    /// The model itself, which then must not be larger than [`Onnx::MAX_BYTES`].
    Inside,
    /// A file with this name in the folder of the model.
    Beside(&'a str),
}

/// A model in the format of ONNX.
///
/// Its inputs are `dense` (`[batch, num_dense]`, `f32`), and for each sparse feature `NAME` the ids
/// `NAME` (`[batch]`, `i64`), or, if a sample may have any number of ids, `NAME.values` and
/// `NAME.offsets` (`[batch + 1]`, `i64`): the bag of sample `b` is
/// `values[offsets[b] .. offsets[b + 1]]`. The input of a number between knots is its position
/// among the rows of its table, `NAME` (`[batch]`, `f32`).
///
/// Its outputs are `probabilities` (`[batch]`), the mean over the members, and `logits`
/// (`[batch, members]`). Layers compute in `f32`, whatever the precision of the model.
pub struct Onnx<'a> {
    model: Message<'a>,
    /// The contents of the external file.
    data: Vec<Cow<'a, [u8]>>,
}

impl Onnx<'_> {
    /// The largest length of a model in bytes: that of a message of protocol buffers.
    pub const MAX_BYTES: usize = i32::MAX as usize;

    /// Returns the length of the model in bytes, without an external file.
    pub fn model_bytes(&self) -> usize {
        self.model.len()
    }

    /// Writes the model.
    ///
    /// # Errors
    /// Propagates the errors of `out`.
    pub fn write_model(&self, out: &mut dyn Write) -> io::Result<()> {
        self.model.write(out)
    }

    /// Writes the contents of the external file; nothing if the weights are inside.
    ///
    /// # Errors
    /// Propagates the errors of `out`.
    pub fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        self.data.iter().try_for_each(|piece| out.write_all(piece))
    }
}

impl StoredModel {
    /// Makes an ONNX model of all members.
    ///
    /// # Errors
    /// Returns [`TrainError::Model`](crate::train::TrainError::Model) if two inputs would have the
    /// same name.
    pub fn to_onnx(&self, weights: OnnxWeights<'_>) -> Result<Onnx<'_>> {
        let config = self.config();
        let inputs = inputs(&self.encoder, &[PROBABILITIES, LOGITS])
            .map_err(|reason| model_error(&self.path, reason))?;
        let mut graph = Graph::new(weights);
        graph.declare(DENSE, FLOAT, &[Size::Any(BATCH), Size::Is(config.num_dense)]);
        for input in &inputs {
            match input {
                Input::Id { ids } => graph.declare(ids, INT64, &[Size::Any(BATCH)]),
                Input::Position { position } => {
                    graph.declare(position, FLOAT, &[Size::Any(BATCH)]);
                }
                Input::Bag { values, offsets } => {
                    graph.declare(values, INT64, &[Size::Any(values)]);
                    graph.declare(offsets, INT64, &[Size::Any("batch + 1")]);
                }
            }
        }
        let outputs = [
            value_info(PROBABILITIES, FLOAT, &[Size::Any(BATCH)]),
            value_info(LOGITS, FLOAT, &[Size::Any(BATCH), Size::Is(self.members())]),
        ];
        graph.taken.extend([PROBABILITIES.to_owned(), LOGITS.to_owned()]);
        let lookups: Vec<_> = inputs
            .into_iter()
            .zip(&config.features)
            .map(|(input, feature)| {
                Lookup::new(&mut graph, input, feature.pooling, config.tables[feature.table])
            })
            .collect();
        let mut logits = Vec::new();
        for member in 0..self.members() {
            let prefix = member_prefix(member);
            let mut network = Network {
                graph: &mut graph,
                config: &config,
                prefix: &prefix,
                tensors: &self.tensors,
            };
            logits.push(network.logit(&lookups)?);
        }
        graph.node_as(LOGITS, "Concat", &logits, vec![integer("axis", 1)]);
        let each = graph.node("Sigmoid", &[LOGITS], vec![]);
        let axes = graph.integers(&[1]);
        graph.node_as(PROBABILITIES, "ReduceMean", &[&each, &axes], vec![integer("keepdims", 0)]);
        let Graph { nodes, initializers, inputs, data, .. } = graph;
        let graph = Message::default()
            .messages(1, nodes)
            .text(2, "dlrm")
            .messages(5, initializers)
            .messages(11, inputs)
            .messages(12, outputs);
        let property = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
        let features = self.encoder.features().iter().map(|feature| feature.name.as_str());
        let model = Message::default()
            .integer(1, IR_VERSION)
            .text(2, "bagdot")
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, graph)
            .message(8, Message::default().text(1, "").integer(2, OPSET))
            .message(14, property("dense", &json(self.encoder.dense_names())))
            .message(14, property("sparse", &json(features)));
        Ok(Onnx { model, data: data.pieces })
    }
}

/// The part of the graph that is one member of the model.
struct Network<'g, 'm, 'a> {
    graph: &'g mut Graph<'a>,
    config: &'m DlrmConfig,
    prefix: &'m str,
    tensors: &'a TensorFile,
}

impl<'a> Network<'_, '_, 'a> {
    /// Adds the whole network. Returns the name of its logits, `[batch, 1]`.
    fn logit(&mut self, lookups: &[Lookup]) -> Result<String> {
        let mut dense = DENSE.to_owned();
        for k in 0..self.config.bottom_mlp.len() {
            dense = self.layer("bottom_mlp", k, dense)?;
            dense = self.graph.node("Relu", &[&dense], vec![]);
        }
        let mut vectors = vec![dense];
        for (lookup, feature) in lookups.iter().zip(&self.config.features) {
            let name = format!("tables.{}.weight", feature.table);
            let (table, dtype) = self.weights(&name)?;
            vectors.push(lookup.pooled(self.graph, table, dtype));
        }
        let mut hidden = self.interaction(vectors);
        for k in 0..self.config.top_mlp.len() {
            if k > 0 {
                hidden = self.graph.node("Relu", &[&hidden], vec![]);
            }
            hidden = self.layer("top_mlp", k, hidden)?;
        }
        Ok(hidden)
    }

    /// Adds a layer without its activation.
    fn layer(&mut self, mlp: &str, k: usize, input: String) -> Result<String> {
        let (weight, _) = self.weights(&format!("{mlp}.{k}.weight"))?;
        let (bias, _) = self.weights(&format!("{mlp}.{k}.bias"))?;
        // Weights are `[outputs, inputs]`.
        Ok(self.graph.node("Gemm", &[&input, &weight, &bias], vec![integer("transB", 1)]))
    }

    /// Adds the interaction of the dense vector, which comes first, and the pooled vectors.
    fn interaction(&mut self, vectors: Vec<String>) -> String {
        let graph = &mut *self.graph;
        let axis = || vec![integer("axis", 1)];
        let Interaction::Dot { append_sparse, .. } = self.config.interaction else {
            return graph.node("Concat", &vectors, axis());
        };
        let features = vectors.len();
        let dim = self.config.bottom_mlp.last().copied().unwrap_or(0);
        let positions: Vec<i64> = self
            .config
            .interaction
            .pairs(features)
            .map(|(i, j)| (i * features + j) as i64)
            .collect();
        let mut parts = vec![vectors[0].clone()];
        if !positions.is_empty() {
            let joined = graph.node("Concat", &vectors, axis());
            // A size of 0 stands for that of the input.
            let shape = graph.integers(&[0, features as i64, dim as i64]);
            let block = graph.node("Reshape", &[&joined, &shape], vec![]);
            let transposed = graph.node("Transpose", &[&block], vec![integers("perm", &[0, 2, 1])]);
            let products = graph.node("MatMul", &[&block, &transposed], vec![]);
            let shape = graph.integers(&[0, (features * features) as i64]);
            let flat = graph.node("Reshape", &[&products, &shape], vec![]);
            let positions = graph.integers(&positions);
            parts.push(graph.node("Gather", &[&flat, &positions], axis()));
        }
        if append_sparse {
            parts.extend_from_slice(&vectors[1..]);
        }
        graph.node("Concat", &parts, axis())
    }

    /// Adds a parameter of the member. Returns its name and element type.
    fn weights(&mut self, name: &str) -> Result<(String, DType)> {
        let full = format!("{}{name}", self.prefix);
        let Some((dtype, shape, bytes)) = self.tensors.tensor(&full) else {
            return Err(crate::Error::TensorMissing { name: full }.into());
        };
        let data_type = match dtype {
            DType::F32 => FLOAT,
            DType::F16 => FLOAT16,
            DType::BF16 => BFLOAT16,
        };
        Ok((self.graph.initializer(&full, data_type, shape, Cow::Borrowed(bytes)), dtype))
    }
}

/// The ids of a feature, prepared for the lookups of all members.
enum Lookup {
    /// One id for each sample.
    Id { ids: String },
    /// Two neighbouring ids for each sample, and their factors, `[batch, 1]`.
    Position { first: String, second: String, of_first: String, of_second: String },
    /// Bags of ids.
    Bag {
        values: String,
        /// The number of the bag of each value, once for each column: `[n, dim]`.
        bags: String,
        /// The pooled vectors before anything is added to them: `[batch, dim]`.
        start: String,
        pooling: Pooling,
        /// `[batch, 1]`: the number of ids of each bag, but 1 for empty ones, for the mean; true
        /// for empty bags, for the maximum.
        of_bag: String,
    },
}

impl Lookup {
    fn new(graph: &mut Graph<'_>, input: Input, pooling: Pooling, table: Table) -> Self {
        let Table { num_embeddings, embedding_dim: dim } = table;
        let (values, offsets) = match input {
            Input::Id { ids } => return Self::Id { ids },
            Input::Position { position } => return Self::between(graph, position, num_embeddings),
            Input::Bag { values, offsets } => (values, offsets),
        };
        let (zero, one, minus_one) =
            (graph.integers(&[0]), graph.integers(&[1]), graph.integers(&[-1]));
        let dim = graph.integers(&[dim as i64]);
        // The number of a value's bag is the number of bags that begin up to there, without the
        // first. Empty bags at the end begin behind the last value.
        let len = graph.node("Shape", &[&values], vec![]);
        let inner = [&offsets, &one, &minus_one];
        let begins = graph.node("Slice", &inner, vec![]);
        let len_and_one = graph.node("Add", &[&len, &one], vec![]);
        let zeros = graph.node("ConstantOfShape", &[&len_and_one], vec![fill(INT64, &[0; 8])]);
        let num_begins = graph.node("Shape", &[&begins], vec![]);
        let ones = graph.node("Expand", &[&one, &num_begins], vec![]);
        let marks = graph.node(
            "ScatterElements",
            &[&zeros, &begins, &ones],
            vec![integer("axis", 0), text("reduction", "add")],
        );
        let first_axis = graph.scalar(0);
        let counted = graph.node("CumSum", &[&marks, &first_axis], vec![]);
        let bags = graph.node("Slice", &[&counted, &zero, &minus_one], vec![]);
        let column = graph.node("Unsqueeze", &[&bags, &one], vec![]);
        let shape = graph.node("Concat", &[&len, &dim], vec![integer("axis", 0)]);
        let bags = graph.node("Expand", &[&column, &shape], vec![]);

        let batch = graph.node("Shape", &[DENSE], vec![integer("start", 0), integer("end", 1)]);
        let shape = graph.node("Concat", &[&batch, &dim], vec![integer("axis", 0)]);
        let initial = match pooling {
            Pooling::Sum | Pooling::Mean => 0.0_f32,
            Pooling::Max => f32::MIN,
        };
        let start =
            graph.node("ConstantOfShape", &[&shape], vec![fill(FLOAT, &initial.to_le_bytes())]);

        let of_bag = if pooling == Pooling::Sum {
            String::new()
        } else {
            let end = graph.integers(&[i64::MAX]);
            let ends = graph.node("Slice", &[&offsets, &one, &end], vec![]);
            let starts = graph.node("Slice", &[&offsets, &zero, &minus_one], vec![]);
            let lengths = graph.node("Sub", &[&ends, &starts], vec![]);
            let lengths = graph.node("Unsqueeze", &[&lengths, &one], vec![]);
            if pooling == Pooling::Max {
                graph.node("Equal", &[&lengths, &zero], vec![])
            } else {
                let at_least_one = graph.node("Max", &[&lengths, &one], vec![]);
                graph.node("Cast", &[&at_least_one], vec![integer("to", FLOAT)])
            }
        };
        Self::Bag { values, bags, start, pooling, of_bag }
    }

    /// Splits a position into the two rows beside it and their factors.
    fn between(graph: &mut Graph<'_>, position: String, num_embeddings: usize) -> Self {
        let (one, column) = (graph.number(1.0), graph.integers(&[1]));
        let last_first = graph.number(num_embeddings.saturating_sub(2) as f32);
        let whole = graph.node("Floor", &[&position], vec![]);
        let whole = graph.node("Min", &[&whole, &last_first], vec![]);
        let share = graph.node("Sub", &[&position, &whole], vec![]);
        let of_second = graph.node("Unsqueeze", &[&share, &column], vec![]);
        let of_first = graph.node("Sub", &[&one, &of_second], vec![]);
        let first = graph.node("Cast", &[&whole], vec![integer("to", INT64)]);
        let second = graph.node("Add", &[&first, &column], vec![]);
        Self::Position { first, second, of_first, of_second }
    }

    /// Adds the lookup in the table of a member. Returns the name of the pooled vectors,
    /// `[batch, dim]`.
    fn pooled(&self, graph: &mut Graph<'_>, table: String, dtype: DType) -> String {
        let rows_of = |graph: &mut Graph<'_>, ids: &String| {
            let rows = graph.node("Gather", &[&table, ids], vec![integer("axis", 0)]);
            if dtype == DType::F32 {
                return rows;
            }
            graph.node("Cast", &[&rows], vec![integer("to", FLOAT)])
        };
        let (bags, start, pooling, of_bag, rows) = match self {
            Self::Id { ids } => return rows_of(graph, ids),
            Self::Position { first, second, of_first, of_second } => {
                let mut part = |rows, factor| {
                    let rows = rows_of(graph, rows);
                    graph.node("Mul", &[&rows, factor], vec![])
                };
                let (first, second) = (part(first, of_first), part(second, of_second));
                return graph.node("Add", &[&first, &second], vec![]);
            }
            Self::Bag { values, bags, start, pooling, of_bag } => {
                (bags, start, pooling, of_bag, rows_of(graph, values))
            }
        };
        let reduction = if *pooling == Pooling::Max { "max" } else { "add" };
        let pooled = graph.node(
            "ScatterElements",
            &[start, bags, &rows],
            vec![integer("axis", 0), text("reduction", reduction)],
        );
        match pooling {
            Pooling::Sum => pooled,
            Pooling::Mean => graph.node("Div", &[&pooled, of_bag], vec![]),
            Pooling::Max => {
                let zero = graph.number(0.0);
                graph.node("Where", &[of_bag, &zero, &pooled], vec![])
            }
        }
    }
}

/// A graph in the making.
struct Graph<'a> {
    nodes: Vec<Message<'a>>,
    initializers: Vec<Message<'a>>,
    inputs: Vec<Message<'a>>,
    data: Data<'a>,
    /// The names that are in use.
    taken: HashSet<String>,
    /// The names of the constants, by shape, type and contents.
    constants: HashMap<(Vec<usize>, i64, Vec<u8>), String>,
}

/// The external file in the making.
struct Data<'a> {
    /// The name of the file, if there is one.
    name: Option<String>,
    pieces: Vec<Cow<'a, [u8]>>,
    len: usize,
}

/// The size of a dimension.
#[derive(Clone, Copy)]
enum Size<'a> {
    Is(usize),
    /// Any size, the same wherever this name stands.
    Any(&'a str),
}

impl<'a> Graph<'a> {
    fn new(weights: OnnxWeights<'_>) -> Self {
        let name = match weights {
            OnnxWeights::Inside => None,
            OnnxWeights::Beside(name) => Some(name.to_owned()),
        };
        Self {
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            data: Data { name, pieces: Vec::new(), len: 0 },
            taken: HashSet::new(),
            constants: HashMap::new(),
        }
    }

    /// Adds an input.
    fn declare(&mut self, name: &str, element: i64, shape: &[Size<'_>]) {
        self.taken.insert(name.to_owned());
        self.inputs.push(value_info(name, element, shape));
    }

    /// Returns a name that nothing else has: `name`, unless that is taken.
    fn unique(&mut self, name: String) -> String {
        let mut name = name;
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// Adds a node. Returns the name of its output.
    fn node(
        &mut self,
        op: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<Message<'a>>,
    ) -> String {
        let output = self.unique(format!("{op}_{}", self.nodes.len()));
        self.node_as(&output, op, inputs, attributes);
        output
    }

    /// Adds a node whose output has the given name.
    fn node_as(
        &mut self,
        output: &str,
        op: &str,
        inputs: &[impl AsRef<str>],
        attributes: Vec<Message<'a>>,
    ) {
        let mut node = Message::default();
        for input in inputs {
            node = node.text(1, input.as_ref());
        }
        let node = node.text(2, output).text(3, output).text(4, op).messages(5, attributes);
        self.nodes.push(node);
    }

    /// Adds a tensor with a name of its own, or nearly so. Returns that name.
    fn initializer(
        &mut self,
        name: &str,
        element: i64,
        shape: &[usize],
        bytes: Cow<'a, [u8]>,
    ) -> String {
        let name = self.unique(name.to_owned());
        let tensor = tensor(element, shape).text(8, &name);
        let tensor = match &self.data.name {
            Some(file) if bytes.len() >= MIN_EXTERNAL_BYTES => {
                let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
                let at = self.data.len.next_multiple_of(ALIGN);
                let entries = [
                    entry("location", file),
                    entry("offset", &at.to_string()),
                    entry("length", &bytes.len().to_string()),
                ];
                self.data.pieces.push(Cow::Owned(vec![0; at - self.data.len]));
                self.data.len = at + bytes.len();
                self.data.pieces.push(bytes);
                tensor.messages(13, entries).integer(14, 1)
            }
            _ => tensor.bytes(9, bytes),
        };
        self.initializers.push(tensor);
        name
    }

    /// Adds integers of one dimension, unless they are there already.
    fn integers(&mut self, values: &[i64]) -> String {
        self.constant(
            vec![values.len()],
            INT64,
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    /// Adds an integer without dimensions.
    fn scalar(&mut self, value: i64) -> String {
        self.constant(vec![], INT64, value.to_le_bytes().to_vec())
    }

    /// Adds a number without dimensions.
    fn number(&mut self, value: f32) -> String {
        self.constant(vec![], FLOAT, value.to_le_bytes().to_vec())
    }

    fn constant(&mut self, shape: Vec<usize>, element: i64, bytes: Vec<u8>) -> String {
        let key = (shape, element, bytes);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = format!("constant_{}", self.constants.len());
        let name = self.unique(name);
        // Readers infer shapes from constants, so they must not be in the external file.
        let (shape, element, bytes) = &key;
        let tensor = tensor(*element, shape).text(8, &name).bytes(9, Cow::Owned(bytes.clone()));
        self.initializers.push(tensor);
        self.constants.insert(key, name.clone());
        name
    }
}

/// Makes a `TensorProto` without contents.
fn tensor<'a>(element: i64, shape: &[usize]) -> Message<'a> {
    let dims = shape.iter().fold(Message::default(), |all, &size| all.integer(1, size as i64));
    dims.integer(2, element)
}

/// Makes a `ValueInfoProto` of a tensor.
fn value_info<'a>(name: &str, element: i64, shape: &[Size<'_>]) -> Message<'a> {
    let dimension = |size: &Size<'_>| match *size {
        Size::Is(size) => Message::default().integer(1, size as i64),
        Size::Any(name) => Message::default().text(2, name),
    };
    let shape = Message::default().messages(1, shape.iter().map(dimension));
    let of_type = Message::default().integer(1, element).message(2, shape);
    Message::default().text(1, name).message(2, Message::default().message(1, of_type))
}

/// Makes an attribute that holds an integer.
fn integer<'a>(name: &str, value: i64) -> Message<'a> {
    Message::default().text(1, name).integer(3, value).integer(20, 2)
}

/// Makes an attribute that holds a text.
fn text<'a>(name: &str, value: &str) -> Message<'a> {
    Message::default().text(1, name).text(4, value).integer(20, 3)
}

/// Makes an attribute that holds integers.
fn integers<'a>(name: &str, values: &[i64]) -> Message<'a> {
    let named = Message::default().text(1, name);
    values.iter().fold(named, |all, &value| all.integer(8, value)).integer(20, 7)
}

/// Makes the attribute of `ConstantOfShape`: the element that it repeats.
fn fill<'a>(element: i64, bytes: &[u8]) -> Message<'a> {
    let value = tensor(element, &[1]).bytes(9, Cow::Owned(bytes.to_vec()));
    Message::default().text(1, "value").message(5, value).integer(20, 4)
}
