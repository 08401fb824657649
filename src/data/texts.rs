//! The texts of columns, kept beside encoded rows.

/// The texts of some columns in the rows of a batch, in the order in which the columns were named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    num_columns: usize,
    text: String,
    /// The end of each text in `text`, row-major.
    ends: Vec<usize>,
}

impl Texts {
    /// Returns the text of a column in a row; `None` if there is no such row or column.
    pub fn get(&self, row: usize, column: usize) -> Option<&str> {
        let place = row * self.num_columns + column;
        let end = *self.ends.get(place).filter(|_| column < self.num_columns)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// Returns the texts of each row.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = &str>> {
        let rows = self.ends.len().checked_div(self.num_columns).unwrap_or(0);
        (0..rows).map(move |row| (0..self.num_columns).filter_map(move |k| self.get(row, k)))
    }

    /// Removes all rows; the next ones have this many columns.
    pub(super) fn clear(&mut self, num_columns: usize) {
        self.num_columns = num_columns;
        self.text.clear();
        self.ends.clear();
    }

    /// Appends the text of the next column.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }
}
