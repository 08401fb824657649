//! [`moving_average`](crate::ops::moving_average) on the CPU.

use super::Cpu;
use crate::error::Result;
use crate::ops::moving_average::{MovingAverageOps, Update};

/// Elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 14;

impl MovingAverageOps for Cpu {
    fn moving_average(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, decay, values, average } = args;
        if control.is_shut() {
            return Ok(());
        }
        let decay = control.values.map_or(decay, |values| values[0].decay);
        self.run(|| self.average_run(1.0 - decay, values, average));
        Ok(())
    }
}

impl Cpu {
    fn average_run(&self, share: f32, values: &[f32], average: &mut [f32]) {
        if values.len() > ELEMENTS_PER_TASK {
            let middle = values.len() / 2;
            let (left, right) = values.split_at(middle);
            let (average_left, average_right) = average.split_at_mut(middle);
            return self.join(
                || self.average_run(share, left, average_left),
                || self.average_run(share, right, average_right),
            );
        }
        average
            .iter_mut()
            .zip(values)
            .for_each(|(average, value)| *average += share * (value - *average));
    }
}
