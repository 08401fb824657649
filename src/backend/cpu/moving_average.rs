//! [`moving_average`](crate::ops::moving_average) on the CPU.

use super::Cpu;
use crate::error::Result;
use crate::ops::moving_average::{MovingAverageOps, Update};
use crate::size::product;

/// The elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 14;

impl MovingAverageOps for Cpu {
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, decay, values, mut average } = args;
        if control.is_shut() {
            return Ok(());
        }
        let decay = control.values.map_or(decay, |values| values[0].decay);
        let cpu = &self.for_bytes(product([values.len(), 3 * size_of::<f32>()]));
        cpu.run(|| update_run(cpu, 1.0 - decay, &values, &mut average));
        Ok(())
    }
}

/// Moves a run of averages by `share` of their distance to the values, in parallel if the run is
/// longer than a task.
fn update_run(cpu: &Cpu, share: f32, values: &[f32], average: &mut [f32]) {
    if values.len() > ELEMENTS_PER_TASK {
        let middle = values.len() / 2;
        let (left, right) = values.split_at(middle);
        let (average_left, average_right) = average.split_at_mut(middle);
        return cpu.join(
            || update_run(cpu, share, left, average_left),
            || update_run(cpu, share, right, average_right),
        );
    }
    average
        .iter_mut()
        .zip(values)
        .for_each(|(average, value)| *average += share * (value - *average));
}
