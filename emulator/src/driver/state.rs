//! The state of a driver: devices, contexts, streams, events, modules and graphs, under one lock;
//! and the driver that each thread calls.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::code::{Code, Result};
use super::matmul::CublasLt;
use super::since::{asked, lacking};
use super::transit::{Pinned, Transit};
use super::work::{Event, Graph, Session, Stream};
use crate::device::{Device, KernelId, ModuleId};
use crate::exec::{Config, Random};

/// The settings that a test may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) devices: usize,
    pub(super) memory_bytes: usize,
    pub(super) version: i32,
    /// Compute capability, times ten.
    pub(super) capability: u32,
    /// Set if work waits in its stream for a while, as on a busy device.
    pub(super) deferred: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            devices: 1,
            memory_bytes: 16 << 30,
            version: asked().unwrap_or(13_000),
            capability: 90,
            deferred: true,
        }
    }
}

/// A device, and the sticky error of its context.
#[derive(Default)]
pub(super) struct Gpu {
    pub(super) device: Device,
    pub(super) failed: Option<Code>,
}

/// A function of a module: a kernel of a device.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub(super) device: usize,
    pub(super) kernel: KernelId,
    /// The bytes of dynamic shared memory that cuFuncSetAttribute allows.
    pub(super) dynamic_shared: usize,
}

/// A driver.
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
    /// The copies that use pinned memory and that the host has not waited for.
    pub(super) transits: Vec<Transit>,
    pub(super) random: Random,
    /// The number of calls of each function.
    pub(super) calls: BTreeMap<&'static str, u64>,
    /// A line for each thing that went wrong, for people.
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
            // No two drivers share a handle.
            next: (number << 32) + 0x1_0000,
        }
    }

    /// Returns a handle that was never used.
    pub(super) fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    /// Adds a line to the report.
    pub(super) fn say(&mut self, text: &str) {
        if !self.report.is_empty() {
            self.report.push('\n');
        }
        self.report.push_str(text);
    }

    /// Returns the device of the calling thread's context, or its sticky error.
    pub(super) fn current(&self) -> Result<usize> {
        if !self.initialised {
            return Err(Code::ERROR_NOT_INITIALIZED);
        }
        let device = self.device_of(CONTEXT.get()).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        let gpu = self.gpus.get(device).ok_or(Code::ERROR_INVALID_CONTEXT)?;
        gpu.failed.map_or(Ok(device), Err)
    }

    /// Returns the device of a context of this driver.
    pub(super) fn device_of(&self, context: u64) -> Option<usize> {
        parts_of(context).filter(|&(number, _)| number == self.number).map(|(_, device)| device)
    }

    /// Returns the primary context of a device.
    pub(super) fn context_of(&self, device: usize) -> u64 {
        FIRST_CONTEXT + 16 * (CONTEXTS * self.number + device as u64)
    }

    /// Returns the device with an ordinal.
    pub(super) fn device(&self, ordinal: i32) -> Result<usize> {
        if !self.initialised {
            return Err(Code::ERROR_NOT_INITIALIZED);
        }
        let device = usize::try_from(ordinal).map_err(|_| Code::ERROR_INVALID_DEVICE)?;
        if device < self.gpus.len() { Ok(device) } else { Err(Code::ERROR_INVALID_DEVICE) }
    }

    /// Returns the stream of a handle. The legacy stream and the per-thread stream are made when
    /// they are first used.
    pub(super) fn stream(&mut self, handle: u64) -> Result<u64> {
        let device = self.current()?;
        match handle {
            // Each device has its own legacy and per-thread stream.
            0..=2 => {
                let id = u64::from(handle == 2) + 2 * device as u64;
                self.streams.entry(id).or_insert_with(|| Stream {
                    device,
                    blocking: true,
                    ..Stream::default()
                });
                Ok(id)
            }
            _ => self
                .streams
                .contains_key(&handle)
                .then_some(handle)
                .ok_or(Code::ERROR_INVALID_HANDLE),
        }
    }

    /// Returns whether a stream is the legacy stream of its device.
    pub(super) fn is_legacy(&self, stream: u64) -> bool {
        stream < 2 * self.gpus.len() as u64 && stream.is_multiple_of(2)
    }

    /// Forgets everything but the settings, as in a fresh process. Earlier handles become invalid.
    pub(super) fn reset(&mut self) {
        let pinned = std::mem::take(&mut self.pinned);
        let next = self.next;
        *self = Self { pinned, next, ..Self::new(self.number, self.settings) };
        self.gpus.iter_mut().for_each(|gpu| gpu.device.config = self.settings.config);
    }

    /// Changes the settings. A new number of devices resets the driver.
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

/// The drivers by number, which their contexts carry. Each test that asks for one has a driver of
/// its own; all others share driver 0.
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
    /// The driver of the calling thread: the one that it began, or the one of the last context that
    /// it made current.
    static CURRENT: RefCell<Option<Arc<Mutex<Driver>>>> = const { RefCell::new(None) };
    /// The context of the calling thread.
    pub(super) static CONTEXT: Cell<u64> = const { Cell::new(0) };
}

/// Begins a driver for the calling thread alone, with default settings. Returns its number.
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

/// Ends a driver that has begun. Its contexts become invalid, and the calling thread is back with
/// the shared driver.
pub(super) fn end(number: u64) {
    let mut all = DRIVERS.lock().unwrap_or_else(PoisonError::into_inner);
    all.live.remove(&number);
    CURRENT.set(None);
    CONTEXT.set(0);
}

/// Makes a context current for the calling thread, and its driver the one that the thread calls.
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

/// The handle of the first context.
const FIRST_CONTEXT: u64 = 0x1000;
/// The most contexts of one driver. Their handles lie 16 apart.
const CONTEXTS: u64 = 64;

/// Returns the number of the driver and the device of a context.
fn parts_of(context: u64) -> Option<(u64, usize)> {
    let index = context.checked_sub(FIRST_CONTEXT)? / 16;
    Some((index / CONTEXTS, (index % CONTEXTS) as usize))
}

/// Counts a call of a function.
pub(super) fn count_call(name: &'static str) {
    with(|d| *d.calls.entry(name).or_default() += 1);
}

/// Counts a call of a function of the driver API, and refuses it if the driver is older than the
/// function. (The address of a function may be known from another driver of the process.)
pub(super) fn begin_call(name: &'static str) -> Result<()> {
    count_call(name);
    with(|d| {
        let version = d.settings.version;
        if !lacking(version).any(|later| later == name) {
            return Ok(());
        }
        d.say(&format!("{name} is called, which the driver of version {version} lacks"));
        Err(Code::ERROR_NOT_FOUND)
    })
}

/// Calls `f` with the thread's driver, under its lock. After a panic under the lock, which has been
/// reported by then, the state is used as the panic left it.
pub(super) fn with<T>(f: impl FnOnce(&mut Driver) -> T) -> T {
    let own = CURRENT.with_borrow(Clone::clone);
    let driver = own.or_else(|| Drivers::get(0)).unwrap_or_default();
    f(&mut driver.lock().unwrap_or_else(PoisonError::into_inner))
}
