//! Describes files that nothing is known about: their syntax, and what their columns hold. The
//! files are read once, in memory that does not grow with them.

mod column;
mod layout;
mod sample;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::sample::Sample;
use super::config::Split;
use super::delimited::Delimited;
use super::error::{DataError, Result};
use super::fields::field_of;
use super::meter::Meter;
use super::number::Time;
use super::part::Part;
use super::source::{Source, check_rereadable, name_of};
use super::splitter::Splitter;

pub(crate) use self::column::{ColumnProfile, MARKERS, NOTATIONS};
pub(crate) use self::layout::Layout;

/// The largest number of distinct values that are told apart, of all columns together.
const MAX_DISTINCT: usize = 4_000_000;

/// The description of the rows of some files.
pub(crate) struct Profile {
    pub(crate) rows: u64,
    /// The numbers of rows that the default split gives to validation and test.
    pub(crate) held_out: [u64; 2],
    pub(crate) columns: Vec<ColumnProfile>,
    /// A uniform sample of the rows: all of them, in their order, if they are few.
    pub(crate) sample: Vec<Vec<String>>,
}

impl Profile {
    /// Reads the files, which have the syntax of `layout`. `progress` is called from time to time
    /// with the number of bytes read so far and the total.
    ///
    /// # Errors
    /// Returns any [`DataError`] of reading: files that are no text, rows of unequal length,
    /// columns that a later file lacks.
    pub(crate) fn read(
        files: &[PathBuf],
        layout: &Layout,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        check_rereadable(files)?;
        let meter = Arc::new(Meter::default());
        let total = files.iter().map(|file| Source::File(file.clone()).size()).sum();
        let names = &layout.names;
        let limit = (MAX_DISTINCT / names.len().max(1)).clamp(64, 200_000);
        let mut columns: Vec<ColumnProfile> =
            names.iter().map(|name| ColumnProfile::new(name.clone(), limit)).collect();
        let (mut sample, mut rows, mut held_out) = (Sample::default(), 0, [0; 2]);
        let splitter = Splitter::new(&Split::default(), None);
        for file in files {
            let mut records = layout.open(Source::File(file.clone()), &meter)?;
            let places = places(names, &records, &name_of(file))?;
            let mut any = false;
            while records.advance()? {
                any = true;
                let part = splitter.part(rows, Time::default()).unwrap_or(Part::Train);
                match part {
                    Part::Train => {}
                    Part::Validation => held_out[0] += 1,
                    Part::Test => held_out[1] += 1,
                }
                let field = |k: usize| records.field(places[k]);
                for (k, column) in columns.iter_mut().enumerate() {
                    column.add(field(k), part == Part::Train, || (name_of(file), records.line()));
                }
                sample.add((0..names.len()).map(field));
                rows += 1;
                if rows.is_multiple_of(4096) {
                    progress(meter.bytes(), total);
                }
            }
            if !any {
                let reason = "there is no row to read";
                return Err(DataError::EmptyFile { file: name_of(file), reason });
            }
        }
        progress(total, total);
        Ok(Self { rows, held_out, columns, sample: sample.rows })
    }
}

/// Returns the numbers of the columns in a file, in the order of `names`. Names that stand twice
/// are an error if the header has another order.
fn places(names: &[String], records: &Delimited, file: &str) -> Result<Vec<usize>> {
    let header = records.header();
    if header == names {
        return Ok((0..names.len()).collect());
    }
    let find = |name: &String| {
        field_of(header, name, file)?
            .ok_or_else(|| DataError::unknown_column(file, name, header.iter().map(String::as_str)))
    };
    names.iter().map(find).collect()
}

impl Layout {
    fn open(&self, source: Source, meter: &Arc<Meter>) -> Result<Delimited> {
        let (name, text) = (source.name(), source.open(meter)?);
        Delimited::open(name, text, self.dialect(), self.has_no_header.then(|| self.names.clone()))
    }

    /// Finds the syntax of a file in its first rows. `delimiter` and `has_header` are known if they
    /// are set; a first line with `known_name` has names.
    ///
    /// # Errors
    /// Returns any [`DataError`] of reading the head of the file.
    pub(crate) fn of(
        file: &Path,
        delimiter: Option<u8>,
        has_header: Option<bool>,
        known_name: Option<&str>,
    ) -> Result<Self> {
        check_rereadable([&file.to_owned()])?;
        let source = Source::File(file.to_owned());
        let name = source.name();
        let head = layout::Head::read(source.open(&Arc::default())?, &name)?;
        head.layout(&name, delimiter, has_header, known_name)
    }
}
