//! The functions that tests call besides the driver API.

use std::ffi::{c_char, c_int};
use std::fmt::Write;
use std::sync::Arc;

use super::code::{Code, answer};
use super::host::put_text;
use super::state::{Settings, begin, end, with};
use super::work::Graph;
use crate::counters::{Counts, Footprint};
use crate::exec::Schedule;

/// A setting that a test may change, as a number of the C interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Setting {
    Seed,
    Independent,
    Races,
    Uninitialised,
    ShufflesOrderMemory,
    SameValueStores,
    Footprints,
    StepLimit,
    Devices,
    MemoryBytes,
    DriverVersion,
    Capability,
    Deferred,
}

impl Setting {
    const ALL: [Self; 13] = [
        Self::Seed,
        Self::Independent,
        Self::Races,
        Self::Uninitialised,
        Self::ShufflesOrderMemory,
        Self::SameValueStores,
        Self::Footprints,
        Self::StepLimit,
        Self::Devices,
        Self::MemoryBytes,
        Self::DriverVersion,
        Self::Capability,
        Self::Deferred,
    ];

    fn apply(self, s: &mut Settings, value: u64) {
        let on = value != 0;
        match self {
            Self::Seed => s.config.seed = value,
            Self::Independent => {
                s.config.schedule = if on { Schedule::Independent } else { Schedule::Lockstep }
            }
            Self::Races => s.config.races = on,
            Self::Uninitialised => s.config.uninitialised = on,
            Self::ShufflesOrderMemory => s.config.shuffles_order_memory = on,
            Self::SameValueStores => s.config.same_value_stores = on,
            Self::Footprints => s.config.footprints = on,
            Self::StepLimit => s.config.step_limit = value,
            Self::Devices => s.devices = value as usize,
            Self::MemoryBytes => s.memory_bytes = value as usize,
            Self::DriverVersion => s.version = value as i32,
            Self::Capability => s.capability = value as u32,
            Self::Deferred => s.deferred = on,
        }
    }
}

/// Changes a setting.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_set(setting: c_int, value: u64) -> c_int {
    let known = Setting::ALL.into_iter().find(|s| *s as i32 == setting);
    answer(with(|d| {
        let mut settings = d.settings;
        known.ok_or(Code::ERROR_INVALID_VALUE)?.apply(&mut settings, value);
        d.configure(settings);
        Ok(())
    }))
}

/// Begins a driver for the calling thread alone. Returns its number.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_begin() -> u64 {
    begin()
}

/// Ends a driver that has begun. The calling thread is back with the shared driver.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_end(number: u64) {
    end(number);
}

/// Forgets all memory, modules, streams, errors and counters. If `settings_too` is not 0, the
/// settings go back to their defaults.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_reset(settings_too: c_int) {
    with(|d| {
        if settings_too != 0 {
            d.configure(Settings::default());
        }
        d.reset();
    });
}

/// Writes what has gone wrong since the last reset, a line for each thing. Returns the bytes that
/// the text needs.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_report(to: *mut c_char, room: usize) -> usize {
    with(|d| {
        d.check_sources();
        put_text(to, room, &d.report)
    })
}

/// Returns the bytes of device memory in use. Frees that wait in streams have not happened yet.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_used_bytes(device: c_int) -> usize {
    with(|d| {
        usize::try_from(device).ok().and_then(|k| d.gpus.get(k)).map_or(0, |gpu| gpu.device.used())
    })
}

/// Writes the counters of the kernels that were launched, as lines of fields between tabs: a line
/// for the kernel, one for its blocks, one for its footprint, and one for each of its source lines.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_counters(to: *mut c_char, room: usize) -> usize {
    let text = with(|d| {
        let mut text = String::new();
        for kernel in d.gpus.iter().flat_map(|gpu| gpu.device.counters()) {
            let fields = |counts: &Counts| counts.fields().map(|n| n.to_string()).join("\t");
            let blocks: Vec<String> =
                kernel.block_instructions.iter().map(ToString::to_string).collect();
            // Writing to a string cannot fail.
            _ = writeln!(
                text,
                "kernel\t{}\t{}\t{}",
                kernel.name,
                kernel.launches,
                fields(&kernel.total)
            );
            _ = writeln!(text, "blocks\t{}", blocks.join("\t"));
            let Footprint { read, written } = kernel.footprint;
            _ = writeln!(text, "footprint\t{read}\t{written}");
            for line in &kernel.lines {
                _ = writeln!(text, "line\t{}\t{}\t{}", line.file, line.line, fields(&line.counts));
            }
        }
        text
    });
    put_text(to, room, &text)
}

/// Writes the number of calls of each function of the driver API: a line for each, its name and the
/// number with a tab between them.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_calls(to: *mut c_char, room: usize) -> usize {
    let text = with(|d| {
        d.calls.iter().map(|(name, count)| format!("{name}\t{count}\n")).collect::<String>()
    });
    put_text(to, room, &text)
}

/// Writes the shapes of the executable graphs: a line for each, the number of nodes and that of
/// nodes on the longest path with a tab between them.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_graphs(to: *mut c_char, room: usize) -> usize {
    let text = with(|d| {
        let shape =
            |graph: &Arc<Graph>| format!("{}\t{}\n", graph.nodes.len(), graph.longest_path());
        d.executables.values().map(shape).collect::<String>()
    });
    put_text(to, room, &text)
}

/// Sets all counters to zero.
#[unsafe(no_mangle)]
extern "C" fn bagdot_emulator_reset_counters() {
    with(|d| {
        d.calls.clear();
        d.gpus.iter_mut().for_each(|gpu| gpu.device.reset_counters());
    });
}
