//! An output that others may read meanwhile is none.
use bagdot::Cpu;
use bagdot::ops::MatrixMut;

fn main() {
    let buffer = vec![0.0_f32; 6];
    let _output: MatrixMut<'_, Cpu, f32> = MatrixMut::packed(&buffer[..], 2, 3);
}
