//! An op cannot read what it writes.
use bagdot::Cpu;
use bagdot::ops::interaction::{Features, Forward};
use bagdot::ops::{Interaction, Matrix, MatrixMut};

fn main() -> bagdot::Result<()> {
    let mut buffer = vec![0.0_f32; 6];
    let block = Matrix::packed(&buffer[..], 2, 3);
    let output = MatrixMut::packed(&mut buffer[..], 2, 3);
    let features = Features::Joined { block, has_dense: true };
    Forward { interaction: Interaction::Cat, dim: 3, features, output }.run(&Cpu::single_threaded())
}
