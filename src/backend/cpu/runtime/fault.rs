//! Bad ids: a lookup skips them and notes them, and the op reports them when it has finished.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::ops::{Feature, TableBatch};

/// The meaning of an id to a feature.
pub(crate) enum Lookup {
    /// The id names this row of the feature's table.
    Row(usize),
    /// The id is the feature's padding, or bad: it adds nothing to its bag's sum or length.
    Skip,
}

/// The bad ids of one call. It reports the one at the lowest position, which does not depend on the
/// number of threads.
pub(crate) struct FaultLog {
    /// The name of the op in errors.
    op: &'static str,
    /// True if ids are `u32`, read as the `i32` of the same bits.
    has_unsigned_ids: bool,
    count: AtomicUsize,
    first: Mutex<Option<Fault>>,
}

/// A bad id.
#[derive(Clone, Copy)]
struct Fault {
    feature: usize,
    bag: usize,
    position: usize,
    value: i64,
}

/// The feature and the bag that an id comes from.
#[derive(Clone, Copy)]
pub(crate) struct IdOrigin<'a> {
    /// The number of the feature.
    pub(crate) feature: usize,
    /// The feature itself.
    pub(crate) spec: &'a Feature,
    /// The number of rows of the feature's table.
    pub(crate) num_embeddings: usize,
    /// The key-major number of the bag.
    pub(crate) bag: usize,
}

/// Returns the row that an id names to a feature, unless the id is padding or bad.
#[inline(always)]
pub(crate) fn pooled_row(
    id: impl crate::Index,
    spec: &Feature,
    num_embeddings: usize,
) -> Option<usize> {
    id.to_row().filter(|&row| row < num_embeddings && spec.padding_idx != Some(row))
}

impl FaultLog {
    /// Makes an empty log of the op of this name.
    pub(crate) fn new(op: &'static str, has_unsigned_ids: bool) -> Self {
        Self { op, has_unsigned_ids, count: AtomicUsize::new(0), first: Mutex::new(None) }
    }

    /// Looks up the row that the id at `position` names, and notes the id if it is bad.
    #[inline(always)]
    pub(crate) fn lookup(
        &self,
        id: impl crate::Index,
        origin: IdOrigin<'_>,
        position: usize,
    ) -> Lookup {
        let IdOrigin { feature, spec, num_embeddings, bag } = origin;
        match id.to_row() {
            Some(row) if row < num_embeddings => match spec.padding_idx {
                Some(padding) if padding == row => Lookup::Skip,
                _ => Lookup::Row(row),
            },
            _ => {
                self.note(Fault { feature, bag, position, value: id.to_i64() });
                Lookup::Skip
            }
        }
    }

    #[cold]
    fn note(&self, fault: Fault) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // A thread that panicked while it held the lock left a valid value behind.
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if first.is_none_or(|seen| fault.position < seen.position) {
            *first = Some(fault);
        }
    }

    /// Returns the error for the bad ids, if there are any.
    pub(crate) fn into_result(self, tables: &TableBatch) -> Result<()> {
        let count = self.count.into_inner();
        match self.first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            None => Ok(()),
            Some(Fault { feature, bag, position, value }) => {
                let value = if self.has_unsigned_ids { i64::from(value as u32) } else { value };
                let table = tables.features()[feature].table;
                let num_embeddings = tables.tables()[table].num_embeddings;
                let op = self.op;
                Err(Error::IndexOutOfRange {
                    op,
                    table,
                    bag,
                    position,
                    value,
                    num_embeddings,
                    count,
                })
            }
        }
    }
}
