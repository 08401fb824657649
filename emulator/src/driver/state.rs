//! What a driver knows: devices, contexts, streams, events, modules and graphs, under one lock. And
//! which driver a thread calls.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::capture::{Graph, Session};
use super::code::{Code, Result};
use super::cublaslt::CublasLt;
use super::pinned::{Pinned, Transit};
use super::work::{Event, Stream};
use crate::device::{Device, KernelId, ModuleId};
use crate::exec::{Config, Random};

/// What a test may set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) devices: usize,
    pub(super) memory_bytes: usize,
    pub(super) version: i32,
    /// Compute capability, times ten.
    pub(super) capability: u32,
    /// Whether work waits in its stream for a while, as on a device that is busy.
    pub(super) deferred: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            devices: 1,
            memory_bytes: 16 << 30,
            version: 13000,
            capability: 90,
            deferred: true,
        }
    }
}

/// A device, and the error that its context has come to.
#[derive(Default)]
pub(super) struct Gpu {
    pub(super) device: Device,
    pub(super) failed: Option<Code>,
}

#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) device: usize,
    pub(super) kernel: KernelId,
    /// What cuFuncSetAttribute allowed.
    pub(super) dynamic_shared: usize,
}

pub(super) struct Driver {
    number: u64,
    pub(super) settings: Settings,
    pub(super) initialised: bool,
    pub(super) gpus: Vec<Gpu>,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) events: HashMap<u64, Event>,
    pub(super) modules: HashMap<u64, (usize, ModuleId)>,
    pub(super) functions: HashMap<u64, Function>,
    pub(super) graphs: HashMap<u64, Arc<Graph>>,
    pub(super) executables: HashMap<u64, Arc<Graph>>,
    pub(super) sessions: HashMap<u64, Session>,
    pub(super) cublaslt: CublasLt,
    /// Pinned memory of the host, by its address.
    pub(super) pinned: BTreeMap<usize, Pinned>,
    /// Copies that use it and that the host has not waited for.
    pub(super) transits: Vec<Transit>,
    pub(super) random: Random,
    /// How often each function was called.
    pub(super) calls: BTreeMap<&'static str, u64>,
    /// What went wrong, for people.
    pub(super) report: String,
    next: u64,
}

impl Driver {
    fn new(number: u64, settings: Settings) -> Self {
        Self {
            number,
            settings,
            initialised: false,
            gpus: (0..settings.devices).map(|_| Gpu::default()).collect(),
            streams: BTreeMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            sessions: HashMap::new(),
            cublaslt: CublasLt::default(),
            pinned: BTreeMap::new(),
            transits: Vec::new(),
            calls: BTreeMap::new(),
            random: Random::new(settings.config.seed),
            report: String::new(),
            // No handle of one driver is one of another's.
            next: (number << 32) + 0x1_0000,
        }
    }

    /// A handle that was never used.
    pub(super) fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    pub(super) fn say(&mut self, text: &str) {
        if !self.report.is_empty() {
            self.report.push('\n');
        }
        self.report.push_str(text);
    }

    /// The device of the calling thread's context, unless it has failed.
    pub(super) fn current(&self) -> Result<usize> {
        if !self.initialised {
            return Err(Code::ERROR_NOT_INITIALIZED);
        }
        let device = self.device_of(CONTEXT.get()).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        let gpu = self.gpus.get(device).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        gpu.failed.map_or(Ok(device), Err)
    }

    /// The device of a context of this driver.
    pub(super) fn device_of(&self, context: u64) -> Option<usize> {
        parts_of(context).filter(|&(number, _)| number == self.number).map(|(_, device)| device)
    }

    pub(super) fn context_of(&self, device: usize) -> u64 {
        FIRST_CONTEXT + 16 * (CONTEXTS * self.number + device as u64)
    }

    pub(super) fn device(&self, ordinal: i32) -> Result<usize> {
        if !self.initialised {
            return Err(Code::ERROR_NOT_INITIALIZED);
        }
        let device = usize::try_from(ordinal).map_err(|_| Code::ERROR_INVALID_DEVICE)?;
        if device < self.gpus.len() { Ok(device) } else { Err(Code::ERROR_INVALID_DEVICE) }
    }

    /// Back to a fresh process, but for the settings. Handles of before are not valid any more.
    pub(super) fn reset(&mut self) {
        let pinned = std::mem::take(&mut self.pinned);
        let next = self.next;
        *self = Self { pinned, next, ..Self::new(self.number, self.settings) };
        self.gpus.iter_mut().for_each(|gpu| gpu.device.config = self.settings.config);
    }

    pub(super) fn configure(&mut self, settings: Settings) {
        let devices = settings.devices != self.settings.devices;
        if settings.config.seed != self.settings.config.seed {
            self.random = Random::new(settings.config.seed);
        }
        self.settings = settings;
        if devices {
            self.reset();
        }
        self.gpus.iter_mut().for_each(|gpu| gpu.device.config = settings.config);
    }
}

/// A driver of its own for each test that asks for one, by a number that its contexts carry. Number
/// 0 is that of all others.
#[derive(Default)]
struct Drivers {
    live: HashMap<u64, Arc<Mutex<Driver>>>,
    last: u64,
}

impl Default for Driver {
    fn default() -> Self {
        Self::new(0, Settings::default())
    }
}

static DRIVERS: LazyLock<Mutex<Drivers>> = LazyLock::new(Mutex::default);

impl Drivers {
    fn get(number: u64) -> Option<Arc<Mutex<Driver>>> {
        let mut all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
        if number == 0 {
            return Some(all.live.entry(0).or_default().clone());
        }
        all.live.get(&number).cloned()
    }
}

thread_local! {
    /// The driver of the calling thread: the one that it asked for, or that of the last context
    /// that it made its own.
    static CURRENT: RefCell<Option<Arc<Mutex<Driver>>>> = const { RefCell::new(None) };
    /// The context of the calling thread.
    pub(super) static CONTEXT: Cell<u64> = const { Cell::new(0) };
}

/// Begins a driver of the calling thread's own, with all settings as at the start. Answers with its
/// number.
pub(super) fn begin() -> u64 {
    let mut all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    all.last += 1;
    let number = all.last;
    let driver = Arc::new(Mutex::new(Driver::new(number, Settings::default())));
    all.live.insert(number, driver.clone());
    CURRENT.set(Some(driver));
    CONTEXT.set(0);
    number
}

/// Ends a driver that has begun. Its contexts are not valid any more, and the calling thread is
/// back with the driver of all.
pub(super) fn end(number: u64) {
    let mut all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    all.live.remove(&number);
    CURRENT.set(None);
    CONTEXT.set(0);
}

/// Makes a context that of the calling thread, and its driver the one that the thread calls.
pub(super) fn set_context(context: u64) -> Result<()> {
    if context != 0 {
        let (number, device) = parts_of(context).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        let driver = Drivers::get(number).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        if device >= driver.lock().unwrap_or_else(PoisonError::into_inner).gpus.len() {
            return Err(Code::ERROR_INVALID_CONTEXT);
        }
        CURRENT.set(Some(driver));
    }
    CONTEXT.set(context);
    Ok(())
}

const FIRST_CONTEXT: u64 = 0x1000;
/// Contexts of one driver, which lie 16 apart.
const CONTEXTS: u64 = 64;

/// Number of the driver and device of a context.
fn parts_of(context: u64) -> Option<(u64, usize)> {
    let index = context.checked_sub(FIRST_CONTEXT)? / 16;
    Some((index / CONTEXTS, (index % CONTEXTS) as usize))
}

/// Notes that a function of the driver API was called.
pub(super) fn count_call(name: &'static str) {
    with(|d| *d.calls.entry(name).or_default() += 1);
}

/// Calls into the thread's driver, one at a time. A panic under the lock has been reported by then;
/// what it left is used as it is.
pub(super) fn with<T>(f: impl FnOnce(&mut Driver) -> T) -> T {
    let own = CURRENT.with_borrow(Clone::clone);
    let driver = own.or_else(|| Drivers::get(0)).unwrap_or_default();
    f(&mut driver.lock().unwrap_or_else(PoisonError::into_inner))
}
