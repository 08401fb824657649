//! Installs the stand-in driver where cudarc looks for libcuda.so and for cuBLASLt, and lets a test
//! control it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error as _;
use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use crate::counters::{Counts, Footprint, KernelCounts, LineCounts};
use crate::driver::{Setting, asked, lacking};
use crate::exec::{Config, Schedule};

/// The reason why the stand-in driver is not installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The library is not beside the test program, or cannot be loaded.
    #[error("{0} is not there, or cannot be loaded: {1}")]
    Library(PathBuf, String),
    /// Another library has the name libcuda.so in this process.
    #[error(
        "libcuda.so is another library than the emulator's: install it before anything else of CUDA"
    )]
    TooLate,
}

/// The stand-in driver: the one of the calling thread, if it has asked for one of its own, or the
/// one that all other threads share.
pub struct Emulator {
    set: extern "C" fn(c_int, u64) -> c_int,
    reset: extern "C" fn(c_int),
    report: extern "C" fn(*mut c_char, usize) -> usize,
    counters: extern "C" fn(*mut c_char, usize) -> usize,
    calls: extern "C" fn(*mut c_char, usize) -> usize,
    reset_counters: extern "C" fn(),
    begin: extern "C" fn() -> u64,
    end: extern "C" fn(u64),
    used_bytes: extern "C" fn(c_int) -> usize,
    graphs: extern "C" fn(*mut c_char, usize) -> usize,
}

/// The shape of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphShape {
    /// The number of nodes.
    pub nodes: usize,
    /// The number of nodes on the longest path.
    pub longest_path: usize,
}

/// Installs the stand-in driver, and returns it. Returns `None` if a real driver is used instead:
/// if it finds a device, or if `BAGDOT_REQUIRE_CUDA=1` requires it, so that a test fails without
/// one. `BAGDOT_EMULATE=1` installs the stand-in driver in any case. `BAGDOT_EMULATE_DRIVER=12000`
/// makes it one of CUDA 12.0, which lacks the symbols of later ones. The first call must come
/// before any call of cudarc; later calls return the same result.
pub fn install() -> Result<Option<&'static Emulator>, &'static InstallError> {
    static INSTALLED: OnceLock<Result<Option<Emulator>, InstallError>> = OnceLock::new();
    INSTALLED.get_or_init(install_once).as_ref().map(Option::as_ref)
}

/// Returns whether an environment variable is set, and not to 0.
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Opens the library of the stand-in driver: for an old driver, a copy in which the names of later
/// functions are overwritten.
fn open(path: &Path) -> Result<Library, String> {
    let open = |path: &Path| {
        // SAFETY: the library is this crate built as a cdylib; it has no initialisers.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
    };
    let Some(version) = asked() else { return open(path) };
    let mut library = std::fs::read(path).map_err(|error| error.to_string())?;
    for name in lacking(version) {
        hide(&mut library, name);
    }
    let copy = env::temp_dir().join(format!("bagdot-emulator-{}.so", std::process::id()));
    std::fs::write(&copy, library).map_err(|error| error.to_string())?;
    let opened = open(&copy);
    // The library stays loaded without its file.
    _ = std::fs::remove_file(&copy);
    opened
}

/// Overwrites the first byte of a symbol's name in a library. The loader finds symbols by a hash of
/// their names, and then compares the names.
fn hide(library: &mut [u8], name: &str) {
    let entry = [b"\0", name.as_bytes(), b"\0"].concat();
    let places: Vec<_> = library
        .windows(entry.len())
        .enumerate()
        .filter(|(_, window)| *window == entry)
        .map(|(place, _)| place)
        .collect();
    places.into_iter().for_each(|place| library[place + 1] = b'-');
}

fn install_once() -> Result<Option<Emulator>, InstallError> {
    if !is_set("BAGDOT_EMULATE") && (is_set("BAGDOT_REQUIRE_CUDA") || a_real_device_is_there()) {
        return Ok(None);
    }
    let path = library_path();
    let library = open(&path).map_err(|error| InstallError::Library(path.clone(), error))?;
    let failed = |error: libloading::Error| InstallError::Library(path.clone(), error.to_string());
    let emulator = Emulator {
        set: symbol(&library, b"bagdot_emulator_set\0").map_err(failed)?,
        reset: symbol(&library, b"bagdot_emulator_reset\0").map_err(failed)?,
        report: symbol(&library, b"bagdot_emulator_report\0").map_err(failed)?,
        counters: symbol(&library, b"bagdot_emulator_counters\0").map_err(failed)?,
        calls: symbol(&library, b"bagdot_emulator_calls\0").map_err(failed)?,
        reset_counters: symbol(&library, b"bagdot_emulator_reset_counters\0").map_err(failed)?,
        begin: symbol(&library, b"bagdot_emulator_begin\0").map_err(failed)?,
        end: symbol(&library, b"bagdot_emulator_end\0").map_err(failed)?,
        used_bytes: symbol(&library, b"bagdot_emulator_used_bytes\0").map_err(failed)?,
        graphs: symbol(&library, b"bagdot_emulator_graphs\0").map_err(failed)?,
    };
    // The library stays loaded for as long as the process runs.
    std::mem::forget(library);
    // The library for cuBLASLt stays loaded too, if it was built. Through it the loader finds the
    // functions of cuBLASLt in the stand-in driver.
    // SAFETY: the library is empty.
    std::mem::forget(unsafe { Library::open(Some(cublaslt_path()), RTLD_NOW | RTLD_LOCAL) });
    // SAFETY: a library of this name is loaded already, the emulator's or an earlier one, so that
    // no initialiser runs.
    let answering = unsafe { Library::open(Some("libcuda.so"), RTLD_LAZY | RTLD_LOCAL) };
    let ours = answering
        .is_ok_and(|l| symbol::<extern "C" fn(c_int)>(&l, b"bagdot_emulator_reset\0").is_ok());
    if ours { Ok(Some(emulator)) } else { Err(InstallError::TooLate) }
}

/// Returns the path of the library of the stand-in driver.
pub fn library_path() -> PathBuf {
    beside("libbagdot_emulator.so")
}

/// Returns the path of the library that has the name of cuBLASLt, if it was built
/// (emulator/cublaslt). It must be loaded after the other.
pub fn cublaslt_path() -> PathBuf {
    beside("libbagdot_emulator_cublaslt.so")
}

/// Returns the path of a library. Cargo builds it into the folder of the test programs.
fn beside(name: &str) -> PathBuf {
    let folder =
        env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from)).unwrap_or_default();
    let candidates = [
        folder.join(name),
        folder.join("deps").join(name),
        folder.join("..").join("deps").join(name),
    ];
    candidates.iter().find(|path| path.is_file()).unwrap_or(&candidates[0]).clone()
}

fn a_real_device_is_there() -> bool {
    // SAFETY: loading the driver and asking it for its devices is what every program with CUDA does
    // first.
    let Ok(library) = (unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_LOCAL) })
    else {
        return false;
    };
    let init = symbol::<extern "C" fn(u32) -> c_int>(&library, b"cuInit\0");
    let count = symbol::<extern "C" fn(*mut c_int) -> c_int>(&library, b"cuDeviceGetCount\0");
    let mut devices = 0;
    let found = if let (Ok(init), Ok(count)) = (init, count) {
        init(0) == 0 && count(&raw mut devices) == 0 && devices > 0
    } else {
        false
    };
    if found {
        // A driver must stay loaded once it has been initialised.
        std::mem::forget(library);
    }
    found
}

fn symbol<T: Copy>(library: &Library, name: &[u8]) -> Result<T, libloading::Error> {
    // SAFETY: all callers use the type that the driver API, or control.rs, gives to the name.
    unsafe { library.get::<T>(name) }.map(|symbol| *symbol)
}

/// An emulator for one test alone, in its initial state. It shares no memory, settings, errors,
/// counters or report with other tests. It belongs to the thread that made it, and to threads that
/// use its contexts. Its contexts and handles become invalid when it is dropped. If the test
/// panics, dropping it prints the report.
pub struct Exclusive {
    emulator: &'static Emulator,
    number: u64,
    /// Keeps it in its thread.
    _thread: PhantomData<*const ()>,
}

impl Deref for Exclusive {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        self.emulator
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        let report = self.report();
        if std::thread::panicking() && !report.is_empty() {
            eprintln!("the emulator reports:\n{report}");
        }
        (self.emulator.end)(self.number);
    }
}

impl Emulator {
    /// Returns an emulator for the calling thread alone, so that tests can run at the same time.
    /// Threads without one share one emulator.
    pub fn exclusive(&'static self) -> Exclusive {
        Exclusive { emulator: self, number: (self.begin)(), _thread: PhantomData }
    }

    /// Sets the schedule and the checks of launches.
    pub fn configure(&self, config: Config) {
        self.set(Setting::Seed, config.seed);
        self.set(Setting::Independent, u64::from(config.schedule == Schedule::Independent));
        self.set(Setting::Races, config.races.into());
        self.set(Setting::Uninitialised, config.uninitialised.into());
        self.set(Setting::ShufflesOrderMemory, config.shuffles_order_memory.into());
        self.set(Setting::SameValueStores, config.same_value_stores.into());
        self.set(Setting::Footprints, config.footprints.into());
        self.set(Setting::StepLimit, config.step_limit);
    }

    /// Sets the number of devices. If it changes, the driver is reset.
    pub fn set_devices(&self, count: usize) {
        self.set(Setting::Devices, count as u64);
    }

    /// Sets the bytes of memory of each device.
    pub fn set_memory(&self, bytes: usize) {
        self.set(Setting::MemoryBytes, bytes as u64);
    }

    /// Sets the version that the driver reports, such as 13000. It refuses images that are later,
    /// and calls of later functions, and reports them.
    pub fn set_driver_version(&self, version: u32) {
        self.set(Setting::DriverVersion, version.into());
    }

    /// Sets the compute capability that the devices report, times ten. PTX for a later one is
    /// refused.
    pub fn set_capability(&self, capability: u32) {
        self.set(Setting::Capability, capability.into());
    }

    /// Sets whether work waits in its stream, which is the default, or is done by the call that
    /// enqueues it.
    pub fn set_deferred(&self, deferred: bool) {
        self.set(Setting::Deferred, deferred.into());
    }

    fn set(&self, setting: Setting, value: u64) {
        (self.set)(setting as c_int, value);
    }

    /// Forgets memory, modules, streams, errors, the report and the counters. Earlier handles
    /// become invalid.
    pub fn reset(&self) {
        (self.reset)(0);
    }

    /// Does the same as [`Self::reset`], and sets all settings to their defaults.
    pub fn reset_all(&self) {
        (self.reset)(1);
    }

    /// Returns what has gone wrong since the last reset, a line for each fault.
    pub fn report(&self) -> String {
        text(self.report)
    }

    /// Returns the bytes of memory in use on a device.
    pub fn used_bytes(&self, device: u32) -> usize {
        (self.used_bytes)(device as c_int)
    }

    /// Returns the counters of the kernels that were launched since the last reset of the counters.
    /// Launches that still wait in streams do not count.
    pub fn counters(&self) -> Vec<KernelCounts> {
        parse_counters(&text(self.counters))
    }

    /// Returns the number of calls of each function of the driver API since the last reset of the
    /// counters.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let call = |line: &str| {
            line.split_once('\t').map(|(name, n)| (name.to_owned(), n.parse().unwrap_or(0)))
        };
        text(self.calls).lines().filter_map(call).collect()
    }

    /// Returns the shapes of the executable graphs that have not been destroyed.
    pub fn graphs(&self) -> Vec<GraphShape> {
        let shape = |line: &str| {
            let (nodes, longest_path) = line.split_once('\t')?;
            let number = |text: &str| text.parse().ok();
            Some(GraphShape { nodes: number(nodes)?, longest_path: number(longest_path)? })
        };
        text(self.graphs).lines().filter_map(shape).collect()
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        (self.reset_counters)();
    }
}

/// Returns the text that a function of the C interface writes.
fn text(of: extern "C" fn(*mut c_char, usize) -> usize) -> String {
    let mut bytes = vec![0u8; of(std::ptr::null_mut(), 0)];
    let needed = of(bytes.as_mut_ptr().cast(), bytes.len());
    bytes.truncate(needed.min(bytes.len()).saturating_sub(1));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Parses the text of `bagdot_emulator_counters`.
fn parse_counters(text: &str) -> Vec<KernelCounts> {
    let number = |field: &str| field.parse().unwrap_or(0);
    let counts = |fields: &[&str]| {
        let mut all = [0; 12];
        all.iter_mut().zip(fields).for_each(|(slot, field)| *slot = number(field));
        Counts::from_fields(all)
    };
    let mut kernels: Vec<KernelCounts> = vec![];
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match (fields.as_slice(), kernels.last_mut()) {
            (["kernel", name, launches, rest @ ..], _) => kernels.push(KernelCounts {
                name: (*name).to_owned(),
                launches: number(launches),
                total: counts(rest),
                ..KernelCounts::default()
            }),
            (["blocks", rest @ ..], Some(kernel)) => {
                kernel.block_instructions = rest.iter().map(|f| number(f)).collect()
            }
            (["footprint", read, written], Some(kernel)) => {
                kernel.footprint = Footprint { read: number(read), written: number(written) };
            }
            (["line", file, line, rest @ ..], Some(kernel)) => {
                let line = line.parse().unwrap_or(0);
                kernel.lines.push(LineCounts {
                    file: (*file).to_owned(),
                    line,
                    counts: counts(rest),
                });
            }
            _ => {}
        }
    }
    kernels
}
