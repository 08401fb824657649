//! The memory that a process can still get, read from the text files of Linux.

use std::path::Path;

use crate::size::{product, sum};

/// Returns the bytes that this process can still get, if the system says so. It is the least of
/// three bounds: the memory that the machine can give without taking it from other processes, the
/// remainder of the control groups of the process (as containers have them), and the remainder of
/// its own limits (`ulimit`).
pub(crate) fn free_memory() -> Option<usize> {
    free_below(Path::new("/"))
}

/// Does the work of [`free_memory`] for the files below another root.
fn free_below(root: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let (machine, status, limits) =
        (read("proc/meminfo"), read("proc/self/status"), read("proc/self/limits"));
    let kilobytes = |text: &str, name| number(text, name).map(|number| product([number, 1024]));
    let swap = kilobytes(&machine, "SwapFree:").unwrap_or(0);
    let of_machine = kilobytes(&machine, "MemAvailable:").map(|free| sum([free, swap]));
    let of_process =
        |limit, used| Some(number(&limits, limit)?.saturating_sub(kilobytes(&status, used)?));
    [of_machine, of_process("Max address space", "VmSize:"), of_process("Max data size", "VmData:")]
        .into_iter()
        .chain(read("proc/self/cgroup").lines().map(|line| left_to_groups(root, line, swap)))
        .flatten()
        .min()
}

/// The names under which a version of control groups reports limits and use of memory.
struct Names {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    swap_limit: &'static str,
    swap_usage: &'static str,
    /// The entries of `memory.stat` for file caches, which the system reclaims before memory runs
    /// out.
    caches: [&'static str; 2],
}

/// The names of version 2.
const VERSION_2: Names = Names {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    swap_limit: "memory.swap.max",
    swap_usage: "memory.swap.current",
    caches: ["inactive_file", "active_file"],
};
/// The names of version 1. The swap limits of this version count memory and swap together, and are
/// ignored.
const VERSION_1: Names = Names {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    swap_limit: "",
    swap_usage: "",
    caches: ["total_inactive_file", "total_active_file"],
};

/// Returns the least remainder of a group and of those that contain it. `line` is the line of
/// `/proc/self/cgroup` that names the group.
fn left_to_groups(root: &Path, line: &str, swap: usize) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?);
    let names = match controllers {
        "" => VERSION_2,
        _ if controllers.split(',').any(|controller| controller == "memory") => VERSION_1,
        _ => return None,
    };
    let mount = root.join(names.mount);
    let left = |group: &Path| {
        let folder = mount.join(group.strip_prefix("/").unwrap_or(group));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let value = |name: &str| read(name)?.trim().parse::<usize>().ok();
        let stat = read("memory.stat").unwrap_or_default();
        let cache = sum(names.caches.into_iter().filter_map(|name| number(&stat, name)));
        let swap_left = value(names.swap_limit).map_or(swap, |limit| {
            swap.min(limit.saturating_sub(value(names.swap_usage).unwrap_or(0)))
        });
        let used = value(names.usage)?.saturating_sub(cache);
        Some(sum([value(names.limit)?.saturating_sub(used), swap_left]))
    };
    // In a container the group may have another name than outside. The mount then is the group
    // itself, which is the last ancestor.
    Path::new(group).ancestors().filter_map(left).min()
}

/// Returns the first number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<usize> {
    let mut values =
        text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']));
    values.next()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Returns the free memory, in MiB, of a machine with these files.
    fn free(files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        free_below(root.path()).map(|bytes| bytes / MIB)
    }

    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal: 9216000 kB\nMemFree: 1024 kB\nMemAvailable:    8192000 kB\n\
         SwapFree: 102400 kB\n",
    );
    const STATUS: (&str, &str) = (
        "proc/self/status",
        "Name:\tbagdot\nVmPeak:\t 999999 kB\nVmSize:\t  102400 kB\nVmData:\t   51200 kB\n",
    );

    #[test]
    fn what_cannot_be_told_limits_nothing() {
        assert_eq!(free(&[]), None);
        assert_eq!(free(&[("proc/meminfo", "MemTotal: 9216000 kB\n"), STATUS]), None);
        assert_eq!(free(&[MACHINE, STATUS]), Some(8000 + 100));
    }

    #[test]
    fn limits_of_the_process_count_what_it_has() {
        let limits = |address: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             {data}            unlimited            bytes     \n\
                 Max address space         {address}            unlimited            bytes     \n"
            )
        };
        let free =
            |address, data| free(&[MACHINE, STATUS, ("proc/self/limits", &limits(address, data))]);
        assert_eq!(free("unlimited", "unlimited"), Some(8100));
        assert_eq!(free("1048576000", "unlimited"), Some(1000 - 100));
        assert_eq!(free("1048576000", "524288000"), Some(500 - 50));
        assert_eq!(free("1024", "unlimited"), Some(0));
    }

    #[test]
    fn control_groups_of_both_versions_count_without_caches() {
        let second = |max| {
            let files = [
                ("sys/fs/cgroup/a/b/memory.max", max),
                ("sys/fs/cgroup/a/b/memory.current", "314572800\n"),
                (
                    "sys/fs/cgroup/a/b/memory.stat",
                    "anon 7\nfile 209715200\ninactive_file 104857600\nactive_file 52428800\n",
                ),
                ("sys/fs/cgroup/a/memory.max", "4194304000\n"),
                ("sys/fs/cgroup/a/memory.current", "314572800\n"),
                ("sys/fs/cgroup/a/memory.swap.max", "10485760\n"),
                ("proc/self/cgroup", "0::/a/b\n"),
            ];
            free(&[&[MACHINE, STATUS][..], &files].concat())
        };
        // The group itself: 1000 MiB, of which 300 - 150 are used, and 100 of swap; the one around
        // it: 4000 - 300, and 10 of swap.
        assert_eq!(second("1048576000\n"), Some(1000 - 150 + 100));
        assert_eq!(second("max\n"), Some(4000 - 300 + 10));
        let first = [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "314572800\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 104857600\n",
            ),
            // The group has this path only outside of the container.
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/1234\n0::/\n"),
        ];
        assert_eq!(free(&[&[MACHINE, STATUS][..], &first].concat()), Some(1000 - 200 + 100));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        let free = free_memory().unwrap();
        assert!(free > MIB && free < 1 << 50, "{free}");
    }
}
