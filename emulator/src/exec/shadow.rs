//! The history that the race check keeps of every location: who accessed it last.

use super::clock::{Clock, Mark};

/// The last write of a location, and two reads since then: by different threads, and by different
/// warps if reads came from more than one.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// The launch, or for shared memory the block, that the marks belong to. Older marks do not
    /// count.
    run: u32,
    write: Mark,
    reads: [Mark; 2],
}

/// The number of cells of a page.
const PAGE: usize = 256;

/// The history of a memory. It begins with one cell for 16 bytes. The first smaller access makes
/// all cells smaller, so that accesses to neighbours in one word are never taken for a race.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    /// The logarithm of the bytes of a cell.
    shift: u32,
    pages: Vec<Option<Box<[Cell; PAGE]>>>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { shift: 4, pages: vec![] }
    }
}

/// The other side of a race.
#[derive(Clone, Copy)]
pub(crate) struct Conflict {
    /// The access, if the same launch made it; `None` for a launch in another branch of a graph.
    pub(crate) other: Option<Mark>,
    /// Set if the other side wrote.
    pub(crate) wrote: bool,
}

/// The launch, or for shared memory the block, that makes an access.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run<'a> {
    /// The number, which no other one has.
    pub(crate) number: u32,
    /// The numbers of the launches before it that nothing orders with it, since they are in other
    /// branches of the same graph.
    pub(crate) beside: &'a [u32],
}

impl Shadow {
    /// Records an access of `bytes` bytes at `at`. Returns an earlier access that races with it.
    pub(crate) fn touch(
        &mut self,
        at: usize,
        bytes: usize,
        write: bool,
        me: Mark,
        run: Run<'_>,
        clock: &Clock,
    ) -> Option<Conflict> {
        let granule = if at.is_multiple_of(4) && bytes.is_multiple_of(4) {
            if at.is_multiple_of(16) && bytes.is_multiple_of(16) { 4 } else { 2 }
        } else if at.is_multiple_of(2) && bytes.is_multiple_of(2) {
            1
        } else {
            0
        };
        if granule < self.shift {
            self.refine(granule);
        }
        let mut conflict = None;
        for index in at >> self.shift..=(at + bytes - 1) >> self.shift {
            if index / PAGE >= self.pages.len() {
                self.pages.resize(index / PAGE + 1, None);
            }
            let page = self.pages[index / PAGE].get_or_insert_with(fresh_page);
            let found = page[index % PAGE].touch(write, me, run, clock);
            conflict = conflict.or(found);
        }
        conflict
    }

    /// Returns the last write of this launch to a location.
    pub(crate) fn written(&self, at: usize, run: u32) -> Option<Mark> {
        let index = at >> self.shift;
        let cell = &self.pages.get(index / PAGE)?.as_ref()?[index % PAGE];
        (cell.run == run && cell.write.stamp != 0).then_some(cell.write)
    }

    /// Divides all cells.
    fn refine(&mut self, shift: u32) {
        let parts = 1usize << (self.shift - shift);
        let mut pages = vec![];
        for page in &self.pages {
            for part in 0..parts {
                pages.push(page.as_ref().map(|page| {
                    let first = part * PAGE / parts;
                    Box::new(std::array::from_fn(|k| page[first + k / parts]))
                }));
            }
        }
        *self = Self { shift, pages };
    }
}

/// Returns an empty page. It is a function of its own so that the page does not lie in the stack
/// frame of every access.
#[cold]
#[inline(never)]
fn fresh_page() -> Box<[Cell; PAGE]> {
    Box::new([Cell::default(); PAGE])
}

impl Cell {
    /// Returns the race of an access with those of a launch in another branch.
    fn conflict_across(&self, write: bool, me: Mark) -> Option<Conflict> {
        let races = |other: &Mark| other.stamp != 0 && !(other.strong && me.strong);
        let wrote = races(&self.write);
        (wrote || write && self.reads.iter().any(races)).then_some(Conflict { other: None, wrote })
    }

    /// Records an access. Returns an earlier access that races with it.
    fn touch(&mut self, write: bool, me: Mark, run: Run<'_>, clock: &Clock) -> Option<Conflict> {
        let mut across = None;
        if self.run != run.number {
            if run.beside.contains(&self.run) {
                across = self.conflict_across(write, me);
            }
            *self = Self { run: run.number, ..Self::default() };
        }
        let races = |other: &Mark| {
            let harmless =
                other.stamp == 0 || other.same_thread(&me) || (other.strong && me.strong);
            !harmless && !clock.ordered(other, &me)
        };
        let guess = !write && self.write.swap;
        let of = |mark: Mark, wrote| Conflict { other: Some(mark), wrote };
        let mut conflict =
            across.or_else(|| (!guess && races(&self.write)).then(|| of(self.write, true)));
        if write {
            conflict = conflict.or(self
                .reads
                .iter()
                .find(|r| !me.swap && races(r))
                .map(|&r| of(r, false)));
            self.write = me;
            self.reads = [Mark::default(); 2];
            return conflict;
        }
        let [first, second] = &mut self.reads;
        let replaces =
            |slot: &Mark| slot.stamp == 0 || slot.same_thread(&me) || clock.ordered(slot, &me);
        if replaces(first) {
            *first = me;
        } else if replaces(second) || (second.same_warp(first) && !me.same_warp(first)) {
            *second = me;
        }
        conflict
    }
}
