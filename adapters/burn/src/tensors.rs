//! The way from burn's tensors to slices and back.
//!
//! burn's tensors know their backend at run time only. One of another backend is an error here;
//! burn's own macro for extensions would panic.

use bagdot::ops::{Matrix, MatrixMut};
use bagdot::{Cpu, Error, Result, Scalar};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::{DType, Element, Int, Tensor, TensorData};

/// The kind of autodiff graph of a tensor, or none.
pub(crate) type Graph = DispatchAutodiffContext;

/// A tensor of `f32` with its node in a graph. In no graph the node is an untracked leaf.
pub(crate) type Node = FloatTensor<Autodiff<Flex>>;

/// Makes the error for an argument that an op cannot take.
pub(crate) fn invalid(op: &'static str, argument: &'static str, reason: String) -> Error {
    Error::InvalidArgument { op, argument, reason }
}

/// Returns a float tensor as a node, and its graph.
pub(crate) fn float<const D: usize>(
    op: &'static str,
    argument: &'static str,
    tensor: Tensor<D>,
) -> Result<(Node, Graph)> {
    if tensor.dtype() != DType::F32 {
        let reason = format!("of {:?}, but must be of F32: `cast` it", tensor.dtype());
        return Err(invalid(op, argument, reason));
    }
    let DispatchTensor { kind, autodiff } = tensor.into_dispatch();
    let node = match kind {
        DispatchTensorKind::Flex(BackendTensor::Float(plain)) => Some(Node::new(plain)),
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(node)) => Some(node),
            _ => None,
        },
        _ => None,
    };
    Ok((node.ok_or_else(|| other_backend(op, argument))?, autodiff))
}

/// Returns ids or offsets without gaps, and their graph.
pub(crate) fn ints(
    op: &'static str,
    argument: &'static str,
    tensor: Tensor<1, Int>,
) -> Result<(FlexTensor, Graph)> {
    if !matches!(tensor.dtype(), DType::I32 | DType::I64 | DType::U32) {
        let reason = format!("of {:?}, but must be of I32, I64 or U32: `cast` it", tensor.dtype());
        return Err(invalid(op, argument, reason));
    }
    match tensor.into_dispatch() {
        DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Int(ints)),
            autodiff,
            ..
        } => Ok((without_gaps(ints), autodiff)),
        _ => Err(other_backend(op, argument)),
    }
}

fn other_backend(op: &'static str, argument: &'static str) -> Error {
    let reason = "a tensor of another backend, but must be one of flex: `Device::flex()`";
    invalid(op, argument, reason.into())
}

/// Returns the graph of an op's output. A tensor in no graph is a constant to the others, as for
/// burn's own ops.
pub(crate) fn join(op: &'static str, a: Graph, b: Graph) -> Result<Graph> {
    match (a, b) {
        (Graph::Disabled, graph) | (graph, Graph::Disabled) => Ok(graph),
        (a, b) if a == b => Ok(a),
        _ => {
            let reason = "they have different strategies of gradient checkpointing";
            Err(invalid(op, "tensors", reason.into()))
        }
    }
}

/// Makes the output of an op of a node.
pub(crate) fn output(node: Node, graph: Graph) -> Tensor<2> {
    let kind = match graph {
        Graph::Disabled => DispatchTensorKind::Flex(BackendTensor::Float(node.into_primitive())),
        Graph::Enabled(_) => {
            let inner = DispatchTensorKind::Flex(BackendTensor::Autodiff(node));
            DispatchTensorKind::Autodiff(Box::new(inner))
        }
    };
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: graph })
}

/// Copies a tensor, if there are gaps between its elements.
pub(crate) fn without_gaps(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// Returns the elements of a tensor without gaps.
pub(crate) fn slice<T: Element + Scalar>(tensor: &FlexTensor) -> Result<&[T]> {
    let other = || invalid("burn", "tensor", format!("it is of {:?}", tensor.dtype()));
    tensor.as_slice().ok_or_else(other)
}

/// Returns the rows and columns of a tensor.
pub(crate) fn dims(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1]]
}

/// Views a tensor without gaps as ops take it.
pub(crate) fn matrix(tensor: &FlexTensor) -> Result<Matrix<'_, Cpu, f32>> {
    let [rows, cols] = dims(tensor);
    Ok(Matrix::contiguous(slice::<f32>(tensor)?, rows, cols))
}

/// A matrix that an op writes, and that becomes a tensor.
pub(crate) struct Output {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Output {
    /// Allocates zeros.
    pub(crate) fn zeros(rows: usize, cols: usize) -> Result<Self> {
        let len = rows.checked_mul(cols).filter(|&len| len <= isize::MAX as usize / 4);
        let len = len.ok_or(Error::OutOfMemory { bytes: usize::MAX })?;
        Ok(Self { values: vec![0.0; len], rows, cols })
    }

    /// Allocates zeros in the shape of a tensor.
    pub(crate) fn zeros_like(tensor: &FlexTensor) -> Self {
        let [rows, cols] = dims(tensor);
        Self { values: vec![0.0; rows * cols], rows, cols }
    }

    /// Sets all elements.
    pub(crate) fn fill(&mut self, value: f32) {
        self.values.fill(value);
    }

    /// Views the matrix as ops write it.
    pub(crate) fn view(&mut self) -> MatrixMut<'_, Cpu, f32> {
        MatrixMut::contiguous(&mut self.values[..], self.rows, self.cols)
    }

    /// Makes a tensor, without a copy.
    pub(crate) fn into_tensor(self) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(self.values, [self.rows, self.cols]))
    }
}
