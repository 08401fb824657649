//! A uniform sample of rows.

use crate::Philox;

/// The largest number of rows of a sample, of bytes of all of them, and of bytes of a field.
const MAX_ROWS: usize = 20_000;
const MAX_BYTES: usize = 1 << 26;
const MAX_FIELD_BYTES: usize = 1 << 12;

/// A uniform sample of the rows so far (algorithm R of Vitter, 1985): the first rows, until there
/// are more than it holds.
pub(super) struct Sample {
    pub(super) rows: Vec<Vec<String>>,
    capacity: usize,
    bytes: usize,
    seen: u64,
    random: Philox,
}

impl Default for Sample {
    fn default() -> Self {
        let (rows, random) = (Vec::new(), Philox::new(0, 0));
        Self { rows, capacity: MAX_ROWS, bytes: 0, seen: 0, random }
    }
}

impl Sample {
    /// Offers a row to the sample.
    pub(super) fn add<'a>(&mut self, fields: impl Iterator<Item = &'a [u8]>) {
        self.seen += 1;
        let place = match self.rows.len() < self.capacity {
            true => self.rows.len(),
            false => self.random.below(self.seen) as usize,
        };
        if place >= self.capacity {
            return;
        }
        let text = |field: &[u8]| {
            let end = field.len().min(MAX_FIELD_BYTES);
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let row: Vec<String> = fields.map(text).collect();
        self.bytes += bytes_of(&row);
        match self.rows.get_mut(place) {
            Some(old) => {
                self.bytes -= bytes_of(old);
                *old = row;
            }
            None => self.rows.push(row),
        }
        if self.bytes > MAX_BYTES && self.rows.len() > 1 {
            self.halve();
        }
    }

    /// Keeps a random half of the rows, and takes no more than that from now on.
    fn halve(&mut self) {
        self.random.shuffle(&mut self.rows);
        self.rows.truncate(self.rows.len().div_ceil(2));
        self.capacity = self.rows.len();
        self.bytes = self.rows.iter().map(|row| bytes_of(row)).sum();
    }
}

fn bytes_of(row: &[String]) -> usize {
    row.iter().map(|field| size_of::<String>() + field.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_all_there_and_many_take_bounded_memory() {
        let mut sample = Sample::default();
        for k in 0..MAX_ROWS {
            sample.add([k.to_string().as_bytes()].into_iter());
        }
        assert!(sample.rows.iter().enumerate().all(|(k, row)| *row == [k.to_string()]));
        let mut sample = Sample::default();
        let long = vec![b'x'; 1 << 16];
        for k in 0..4 * MAX_ROWS {
            sample.add([k.to_string().as_bytes(), &long].into_iter());
            assert!(sample.bytes <= MAX_BYTES + 2 * MAX_FIELD_BYTES);
        }
        let mean = sample.rows.iter().map(|row| row[0].parse::<f64>().unwrap()).sum::<f64>()
            / sample.rows.len() as f64;
        let (middle, count) = (2.0 * MAX_ROWS as f64, sample.rows.len() as f64);
        // The standard deviation of a uniform mean is (4 MAX_ROWS) / sqrt(12 count).
        let deviation = 2.0 * middle / (12.0 * count).sqrt();
        assert!(count > 1000.0 && (mean - middle).abs() < 4.0 * deviation, "{count} {mean}");
    }
}
