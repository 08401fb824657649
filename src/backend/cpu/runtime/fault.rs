//! Ids that name no row: found while looking up, skipped, and reported once the op is through.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::ops::{Feature, TableBatch};

/// What an id means to a feature.
pub(crate) enum Lookup {
    /// The row of its table.
    Row(usize),
    /// Neither pooled nor counted.
    Skip,
}

/// The bad ids of one call. Which one is reported does not depend on the threads: the one at the
/// lowest position.
#[derive(Default)]
pub(crate) struct FaultLog {
    count: AtomicUsize,
    first: Mutex<Option<Fault>>,
}

#[derive(Clone, Copy)]
struct Fault {
    feature: usize,
    bag: usize,
    position: usize,
    value: i64,
}

/// The row that an id names to a feature, if there is one that is pooled.
#[inline(always)]
pub(crate) fn pooled_row(
    id: impl crate::Index,
    spec: &Feature,
    num_embeddings: usize,
) -> Option<usize> {
    id.to_row().filter(|&row| row < num_embeddings && spec.padding_idx != Some(row))
}

impl FaultLog {
    /// The row that the id at `position` of bag `bag` names; notes it if there is none.
    #[inline(always)]
    pub(crate) fn lookup(&self, id: impl crate::Index, at: Place<'_>, position: usize) -> Lookup {
        match id.to_row() {
            Some(row) if row < at.num_embeddings => match at.spec.padding_idx {
                Some(padding) if padding == row => Lookup::Skip,
                _ => Lookup::Row(row),
            },
            _ => {
                self.note(Fault { feature: at.feature, bag: at.bag, position, value: id.to_i64() });
                Lookup::Skip
            }
        }
    }

    #[cold]
    fn note(&self, fault: Fault) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // A thread that panicked while holding the lock left a valid value behind.
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if first.is_none_or(|seen| fault.position < seen.position) {
            *first = Some(fault);
        }
    }

    /// The error for what was found.
    pub(crate) fn into_result(self, tables: &TableBatch) -> Result<()> {
        let count = self.count.into_inner();
        match self.first.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            None => Ok(()),
            Some(Fault { feature, bag, position, value }) => {
                let table = tables.features()[feature].table;
                let num_embeddings = tables.tables()[table].num_embeddings;
                Err(Error::IndexOutOfRange { table, bag, position, value, num_embeddings, count })
            }
        }
    }
}

/// Where an id stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) feature: usize,
    pub(crate) spec: &'a Feature,
    pub(crate) num_embeddings: usize,
    /// Key-major.
    pub(crate) bag: usize,
}
