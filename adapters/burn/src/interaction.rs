//! The interaction of dense and pooled vectors as an op of burn.

use bagdot::ops::interaction::{Backward as Grad, Features, FeaturesMut, Forward};
use bagdot::ops::{Interaction, MatrixMut};
use bagdot::{Cpu, Result};
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use crate::tensors::{Graph, Node, Output, dims, float, join, matrix, output, without_gaps};

const OP: &str = "burn.interaction";

/// Computes the interaction of the dense vectors `[batch_size, dim]`, the output of the bottom MLP,
/// and of the pooled vectors `[batch_size, features * dim]`. The output is
/// `[batch_size, interaction.width(true, features, dim)]`; the documentation of
/// [`bagdot::ops::interaction`] has the formula. Both inputs receive gradients.
///
/// # Errors
/// Returns an error for tensors that are not of flex and of `f32`, and for shapes that do not fit
/// each other.
pub fn interaction(
    interaction: Interaction,
    dense: Tensor<2>,
    pooled: Tensor<2>,
) -> Result<Tensor<2>> {
    let (dense, graph) = float(OP, "dense", dense)?;
    let (pooled, other) = float(OP, "pooled", pooled)?;
    let graph = join(OP, graph, other)?;
    let features = Inputs::new(interaction, &dense, &pooled);
    let [rows, cols] = dims(&features.dense);
    let mut result = Output::zeros(rows, width(interaction, cols, dims(&features.pooled)[1]))?;
    Forward::new(interaction, cols, features.view()?, result.view()).run(&Cpu::on_global_pool()?)?;
    Ok(output(record(features, [dense, pooled], result.into_tensor(), graph), graph))
}

/// Returns the number of columns of the output for `dense` and `pooled` columns.
pub(crate) fn width(interaction: Interaction, dense: usize, pooled: usize) -> usize {
    match interaction {
        Interaction::Cat => dense.saturating_add(pooled),
        Interaction::Dot { .. } => {
            interaction.width(true, pooled.checked_div(dense).unwrap_or(0), dense)
        }
    }
}

/// The inputs, which the backward pass needs again.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    interaction: Interaction,
    pub(crate) dense: FlexTensor,
    pooled: FlexTensor,
}

impl Inputs {
    pub(crate) fn new(interaction: Interaction, dense: &Node, pooled: &Node) -> Self {
        let values = |node: &Node| without_gaps(node.primitive().clone());
        Self { interaction, dense: values(dense), pooled: values(pooled) }
    }

    fn view(&self) -> Result<Features<'_, Cpu, f32>> {
        Ok(Features::Split { dense: matrix(&self.dense)?, sparse: matrix(&self.pooled)? })
    }

    /// Writes the gradients of both inputs.
    fn grad(
        &self,
        grad_output: FlexTensor,
        dense: MatrixMut<'_, Cpu, f32>,
        sparse: MatrixMut<'_, Cpu, f32>,
    ) -> Result<()> {
        let grad_output = without_gaps(grad_output);
        let grad_features = FeaturesMut::Split { dense, sparse };
        let (dim, grad_output) = (dims(&self.dense)[1], matrix(&grad_output)?);
        Grad::new(self.interaction, dim, self.view()?, grad_output, grad_features)
            .run(&Cpu::on_global_pool()?)
    }
}

/// Adds the op to the graph of its inputs, if there is one.
pub(crate) fn record(inputs: Inputs, nodes: [Node; 2], result: FlexTensor, graph: Graph) -> Node {
    if graph == Graph::Disabled {
        return Node::new(result);
    }
    let guards = nodes.each_ref().map(Node::node);
    match InteractionGrad.prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(op) => op.finish(inputs, result),
        OpsKind::UnTracked(op) => op.finish(result),
    }
}

#[derive(Debug)]
struct InteractionGrad;

impl Backward<Flex, 2> for InteractionGrad {
    type State = Inputs;

    fn backward(self, ops: Ops<Inputs, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (inputs, grad_output) = (ops.state, grads.consume::<Flex>(&ops.node));
        let [mut dense, mut pooled] = [&inputs.dense, &inputs.pooled].map(Output::zeros_like);
        // The forward pass has checked what is checked here. If the op failed all the same, NaN
        // would show it, since nothing can be returned.
        if inputs.grad(grad_output, dense.view(), pooled.view()).is_err() {
            dense.fill(f32::NAN);
            pooled.fill(f32::NAN);
        }
        for (parent, grad) in ops.parents.into_iter().zip([dense, pooled]) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, grad.into_tensor());
            }
        }
    }
}
