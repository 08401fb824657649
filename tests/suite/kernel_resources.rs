//! Compares the resources of the compiled kernels on every architecture with
//! kernels/resources.json: registers, shared memory, occupancy, and the instructions that make
//! kernels fast. A GPU is not needed: the disassembler reads the machine code that this library
//! carries.
//!
//! `BLESS=1 cargo test --test suite kernel_resources` writes what was measured into that file. Its
//! `rules` are written by hand, one for each kernel, or for all whose names begin alike: the
//! threads of its blocks, the bytes of shared memory that a launch adds, and instructions that it
//! must have on every architecture, such as `LDG.128` for a load of 16 bytes. No blessing helps a
//! kernel that spills or lacks one of these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use bagdot::backend::cuda::{ImageInfo, images};
use serde::{Deserialize, Serialize};

const ARCHITECTURES: [Architecture; 5] = [
    Architecture {
        target: "sm_80",
        warps: 64,
        blocks: 32,
        shared: 167_936,
        report_adds_reserved: false,
    },
    Architecture {
        target: "sm_90a",
        warps: 64,
        blocks: 32,
        shared: 233_472,
        report_adds_reserved: true,
    },
    Architecture {
        target: "sm_90",
        warps: 64,
        blocks: 32,
        shared: 233_472,
        report_adds_reserved: true,
    },
    Architecture {
        target: "sm_100",
        warps: 64,
        blocks: 32,
        shared: 233_472,
        report_adds_reserved: true,
    },
    Architecture {
        target: "sm_120",
        warps: 48,
        blocks: 24,
        shared: 102_400,
        report_adds_reserved: true,
    },
];
/// The drivers for which nvcc makes machine code.
const NEWEST: (u32, u32) = (13, 0);
/// Shared memory that the system keeps for itself in every block.
const RESERVED: u32 = 1024;
/// Registers of a multiprocessor, and the unit in which a warp is given them.
const REGISTERS: (u32, u32) = (65_536, 256);
/// The unit in which a block is given shared memory.
const SHARED_UNIT: u32 = 128;

/// The limits of a multiprocessor.
struct Architecture {
    target: &'static str,
    warps: u32,
    blocks: u32,
    shared: u32,
    /// Set if cuobjdump counts the reserved bytes of kernels that have shared memory.
    report_adds_reserved: bool,
}

impl Architecture {
    /// Returns the number of warps of a kernel that run at once, as NVIDIA's cuda_occupancy.h
    /// computes it.
    fn resident_warps(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        let warps = threads.div_ceil(32);
        let registers_of_warp = (registers * 32).next_multiple_of(REGISTERS.1).max(REGISTERS.1);
        // A multiprocessor has four files of registers: a warp lies in one of them.
        let warps_by_registers = REGISTERS.0 / registers_of_warp / 4 * 4;
        let by_shared = self.shared / (shared + RESERVED).next_multiple_of(SHARED_UNIT);
        let blocks =
            self.blocks.min(self.warps / warps).min(warps_by_registers / warps).min(by_shared);
        blocks * warps
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    about: String,
    rules: BTreeMap<String, Rule>,
    /// The measurements of each kernel and target.
    measured: BTreeMap<String, BTreeMap<String, Measured>>,
}

/// The requirements on a kernel, which its types do not change.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    threads: u32,
    dynamic_shared: u32,
    instructions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    registers: u32,
    static_shared: u32,
    warps: u32,
    instructions: BTreeMap<String, usize>,
}

/// The disassembler's report on a kernel.
#[derive(Default)]
struct Disassembled {
    registers: u32,
    local: u32,
    shared: u32,
    opcodes: Vec<String>,
}

#[test]
fn kernels_take_what_they_are_known_to_take() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/resources.json");
    let mut resources: Resources =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let (measured, mut complaints) = measure(&resources.rules);
    if complaints.is_empty() && std::env::var("BLESS").is_ok_and(|value| value == "1") {
        resources.measured = measured;
        std::fs::write(&path, text(&resources)).unwrap();
        return;
    }
    complaints.extend(differences(&resources.measured, &measured));
    assert!(
        complaints.is_empty(),
        "\n{}\nThe numbers are those of the nvcc that scripts/nvcc.sh installs. If they may \
         change: BLESS=1 cargo test --test suite kernel_resources",
        complaints.join("\n")
    );
}

/// Returns the measurements, and the faults that can never be blessed.
fn measure(
    rules: &BTreeMap<String, Rule>,
) -> (BTreeMap<String, BTreeMap<String, Measured>>, Vec<String>) {
    let images = images();
    assert!(
        !images.is_empty(),
        "the library was built without kernels: run scripts/nvcc.sh and build again"
    );
    let cuobjdump = find_cuobjdump();
    let (mut measured, mut complaints) = (BTreeMap::<_, BTreeMap<_, _>>::new(), vec![]);
    let mut unused: BTreeSet<&String> = rules.keys().collect();
    let mut stems: Vec<_> = images.iter().map(|image| image.stem).collect();
    stems.dedup();
    for stem in stems {
        let images_of = |target: &str| -> Vec<&ImageInfo> {
            let found = images.iter().filter(|image| image.stem == stem && image.target == target);
            let found: Vec<_> = found.collect();
            assert!(!found.is_empty(), "kernels/{stem}.cu: there is no image for {target}");
            found
        };
        let block_sizes = block_sizes(images_of("ptx")[0].ptx.unwrap());
        let cubins = ARCHITECTURES.iter().flat_map(|architecture| {
            images_of(architecture.target).into_iter().map(move |image| (architecture, image))
        });
        for (architecture, image) in cubins {
            let kernels = disassemble(&cuobjdump, image);
            // Machine code for older drivers is named with their version of CUDA.
            let is_older = image.driver < NEWEST;
            let target = if is_older { image.to_string() } else { image.target.clone() };
            let names = |kernels: Vec<&String>| kernels.into_iter().cloned().collect::<Vec<_>>();
            assert_eq!(
                names(kernels.keys().collect()),
                names(block_sizes.keys().collect()),
                "kernels in the images"
            );
            for (name, kernel) in kernels {
                let Some((rule_name, rule)) = rule_of(rules, &name) else {
                    complaints
                        .push(format!("{name}: `rules` of kernels/resources.json has none for it"));
                    continue;
                };
                unused.remove(rule_name);
                let is = kernel.measure(architecture, rule);
                let of_kernel = kernel.complaints(&is, rule, block_sizes[&name]);
                complaints
                    .extend(of_kernel.iter().map(|what| format!("{name} on {target}: {what}")));
                measured.entry(name).or_default().insert(target.clone(), is);
            }
        }
    }
    let no_kernel = |name| format!("{name}: there is a rule for it, but no such kernel");
    complaints.extend(unused.into_iter().map(no_kernel));
    (measured, complaints)
}

/// The rule for a kernel: the one with the longest name that the kernel's begins with.
fn rule_of<'r>(rules: &'r BTreeMap<String, Rule>, kernel: &str) -> Option<(&'r String, &'r Rule)> {
    let named = |name: &str| {
        kernel == name || kernel.strip_prefix(name).is_some_and(|types| types.starts_with('_'))
    };
    rules.iter().filter(|(name, _)| named(name)).max_by_key(|(name, _)| name.len())
}

impl Disassembled {
    fn measure(&self, architecture: &Architecture, rule: &Rule) -> Measured {
        let reserved = if architecture.report_adds_reserved { RESERVED } else { 0 };
        let static_shared = self.shared.saturating_sub(reserved);
        let count = |pattern: &String| {
            self.opcodes.iter().filter(|opcode| matches(opcode, pattern)).count()
        };
        Measured {
            registers: self.registers,
            static_shared,
            warps: architecture.resident_warps(
                rule.threads,
                self.registers,
                static_shared + rule.dynamic_shared,
            ),
            instructions: rule
                .instructions
                .iter()
                .map(|pattern| (pattern.clone(), count(pattern)))
                .collect(),
        }
    }

    fn complaints(&self, is: &Measured, rule: &Rule, block_size: Option<u32>) -> Vec<String> {
        let mut complaints = vec![];
        let spills = self
            .opcodes
            .iter()
            .filter(|opcode| matches(opcode, "LDL") || matches(opcode, "STL"))
            .count();
        if self.local > 0 || spills > 0 {
            complaints.push(format!(
                "{} bytes of local memory, in {spills} instructions: it spills",
                self.local
            ));
        }
        if block_size != Some(rule.threads) {
            complaints.push(format!(
                "__launch_bounds__ says {block_size:?} threads, the rule {}",
                rule.threads
            ));
        }
        if is.warps == 0 {
            complaints.push("a block is too large for a multiprocessor".to_owned());
        }
        let missing = is.instructions.iter().filter(|&(_, &count)| count == 0);
        complaints.extend(missing.map(|(pattern, _)| format!("it has no {pattern}")));
        complaints
    }
}

/// Returns whether an opcode such as `LDG.E.128.CONSTANT` matches a pattern such as `LDG.128`: that
/// instruction, with these modifiers among others.
fn matches(opcode: &str, pattern: &str) -> bool {
    let (mut has, mut wanted) = (opcode.split('.'), pattern.split('.'));
    has.next() == wanted.next() && wanted.all(|modifier| has.clone().any(|other| other == modifier))
}

/// Every difference, in either direction: what got better must be blessed as well, else it could
/// get worse again unnoticed.
fn differences(
    were: &BTreeMap<String, BTreeMap<String, Measured>>,
    are: &BTreeMap<String, BTreeMap<String, Measured>>,
) -> Vec<String> {
    type ByKernel = BTreeMap<String, BTreeMap<String, Measured>>;
    let flat = |all: &ByKernel| -> BTreeMap<(String, String), Measured> {
        let with_kernel = |(kernel, targets): (&String, &BTreeMap<String, Measured>)| {
            let kernel = kernel.clone();
            let targets = targets.clone().into_iter();
            targets.map(move |(target, measured)| ((kernel.clone(), target), measured))
        };
        all.iter().flat_map(with_kernel).collect()
    };
    let (were, are) = (flat(were), flat(are));
    let gone = were.keys().filter(|key| !are.contains_key(key));
    let mut found: Vec<String> = gone
        .map(|(kernel, target)| format!("{kernel} on {target}: there is no such kernel any more"))
        .collect();
    for ((kernel, target), is) in &are {
        match were.get(&(kernel.clone(), target.clone())) {
            None => found
                .push(format!("{kernel} on {target}: it is new; registers are {}", is.registers)),
            Some(was) => found.extend(
                changes(was, is).iter().map(|what| format!("{kernel} on {target}: {what}")),
            ),
        }
    }
    found
}

fn changes(was: &Measured, is: &Measured) -> Vec<String> {
    let mut found = vec![];
    let mut compare = |what: &str, was: usize, is: usize, less_is_better: bool| {
        let verdict = if (is < was) == less_is_better { "better" } else { "worse" };
        if was != is {
            found.push(format!("{what} were {was}, are {is}: {verdict}"));
        }
    };
    compare("registers", was.registers as usize, is.registers as usize, true);
    compare("bytes of shared memory", was.static_shared as usize, is.static_shared as usize, true);
    compare("warps at once", was.warps as usize, is.warps as usize, false);
    let patterns = was
        .instructions
        .keys()
        .chain(is.instructions.keys().filter(|k| !was.instructions.contains_key(*k)));
    for pattern in patterns {
        let count = |of: &Measured| of.instructions.get(pattern).copied().unwrap_or(0);
        compare(pattern, count(was), count(is), false);
    }
    found
}

/// The version of the PTX is the first one that the assembler takes for its architecture, and its
/// instructions need no later one: the build has assembled it.
#[test]
fn ptx_has_the_lowest_version() {
    let images = images();
    let ptxas = find_cuobjdump().with_file_name("ptxas");
    let folder = tempfile::tempdir().unwrap();
    let assembles = |text: &str, arch: &str| {
        let source = folder.path().join("image.ptx");
        std::fs::write(&source, text).unwrap();
        let mut command = Command::new(&ptxas);
        command.args(["-O0", &format!("-arch={arch}"), "-o", "/dev/null"]).arg(&source);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    for (target, arch, version, before) in
        [("ptx", "sm_80", "7.0", "6.5"), ("ptx_90a", "sm_90a", "8.0", "7.8")]
    {
        for image in images.iter().filter(|image| image.target == target) {
            let begin = format!("\n.version {version}\n.target {arch}\n");
            assert!(image.ptx.unwrap().contains(&begin), "{} for {image}", image.stem);
        }
        let small = images.iter().find(|image| image.stem == "cast" && image.target == target);
        let small = small.unwrap_or_else(|| panic!("no {target}")).ptx.unwrap();
        assert_eq!(assembles(small, arch), (true, String::new()));
        let [is, was] = [version, before].map(|version| format!(".version {version}"));
        let (passed, said) = assembles(&small.replace(&is, &was), arch);
        let reason = format!("PTX .version {before} does not support .target {arch}");
        assert!(!passed && said.contains(&reason), "{said}");
    }
}

fn find_cuobjdump() -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).map(|root| Path::new(&root).join("bin"));
    let places = [
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cuda/nvidia/cu13/bin")),
        from("CUDA_HOME"),
        from("CUDA_PATH"),
        Some("/usr/local/cuda/bin".into()),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = places.into_iter().flatten().chain(std::env::split_paths(&path));
    let found = folders.find(|folder| folder.join("cuobjdump").is_file());
    found.expect("there is no cuobjdump: run scripts/nvcc.sh").join("cuobjdump")
}

/// The threads of a block that each kernel is compiled for, if it says so.
fn block_sizes(ptx: &str) -> BTreeMap<String, Option<u32>> {
    let kernels = ptx.split(".entry ").skip(1);
    let size = |kernel: &str| {
        let sizes = kernel.split('{').next()?.split(".maxntid ").nth(1)?.lines().next()?;
        sizes.split(',').map(|size| size.trim().parse::<u32>().ok()).product()
    };
    kernels
        .map(|kernel| (kernel[..kernel.find('(').unwrap()].trim().to_owned(), size(kernel)))
        .collect()
}

fn disassemble(cuobjdump: &Path, image: &ImageInfo) -> BTreeMap<String, Disassembled> {
    let folder = tempfile::tempdir().unwrap();
    let cubin = folder.path().join("image.cubin");
    std::fs::write(&cubin, image.contents).unwrap();
    let say_by = |tool: &Path, what: &str| {
        let output = Command::new(tool).arg(what).arg(&cubin).output().unwrap();
        let (said, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} of {image}: {said}{error}", image.stem);
        said
    };
    let say = |what| say_by(cuobjdump, what);
    let kernels = if image.driver < NEWEST && image.target == "sm_90" {
        // The cuobjdump of CUDA 13 finds no code in cubins of earlier ones for 9.0.
        parse_sections(&say_by(&cuobjdump.with_file_name("nvdisasm"), "--no-dataflow"))
    } else {
        let mut kernels = parse_usage(&say("--dump-resource-usage"));
        parse_sass(&say("--dump-sass"), &mut kernels);
        kernels
    };
    assert!(
        kernels.values().all(|kernel| !kernel.opcodes.is_empty()),
        "kernels without instructions"
    );
    kernels
}

/// Lines of a name, each followed by one of numbers: ` Function name:`, `  REG:94 STACK:0 SHARED:0
/// LOCAL:0 CONSTANT[0]:448 …`.
fn parse_usage(text: &str) -> BTreeMap<String, Disassembled> {
    let of_kernel = |kernel: &str| {
        let (name, numbers) = kernel.split_once(":\n").unwrap();
        let number = |key: &str| -> u32 {
            let value = numbers
                .split_whitespace()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
            value.unwrap_or_else(|| panic!("no {key} in {numbers}")).parse().unwrap()
        };
        let local = number("STACK") + number("LOCAL");
        let kernel = Disassembled {
            registers: number("REG"),
            local,
            shared: number("SHARED"),
            ..Disassembled::default()
        };
        (name.to_owned(), kernel)
    };
    text.split(" Function ").skip(1).map(of_kernel).collect()
}

/// Sections, as nvdisasm prints them: `.text.name` with instructions, `.nv.shared.name` with its
/// size, and attributes in `.nv.info`, each of which names a kernel and a value below its number.
fn parse_sections(text: &str) -> BTreeMap<String, Disassembled> {
    const REGISTERS: &str = "0x04, 0x2f";
    const FRAME: &str = "0x04, 0x11";
    let mut kernels = BTreeMap::<String, Disassembled>::new();
    for section in text.split("\n\t.section\t").skip(1) {
        let (name, lines) = section.split_once('\n').unwrap();
        let name = name.split(',').next().unwrap();
        if let Some(kernel) = name.strip_prefix(".text.") {
            kernels.entry(kernel.into()).or_default().opcodes =
                lines.lines().filter_map(opcode).collect();
        } else if let Some(kernel) = name.strip_prefix(".nv.shared.") {
            let size = lines.lines().find_map(|line| line.trim().strip_prefix(".zero"));
            kernels.entry(kernel.into()).or_default().shared =
                size.map_or(0, |size| size.trim().parse().unwrap());
        } else if name == ".nv.info" {
            let lines: Vec<_> = lines.lines().collect();
            for at in 0..lines.len() {
                let Some((_, attribute)) = lines[at].split_once(".byte\t") else { continue };
                if ![REGISTERS, FRAME].contains(&attribute.trim()) {
                    continue;
                }
                let words = lines[at..].iter().filter_map(|line| line.split_once(".word\t"));
                let words: Vec<_> = words.take(2).map(|(_, word)| word.trim()).collect();
                let kernel = words[0].strip_prefix("index@(").unwrap().trim_end_matches(')');
                let value = u32::from_str_radix(words[1].trim_start_matches("0x"), 16).unwrap();
                let kernel = kernels.entry(kernel.into()).or_default();
                match attribute.trim() {
                    REGISTERS => kernel.registers = value,
                    _ => kernel.local = value,
                }
            }
        }
    }
    // Sections such as `.nv.shared.reserved.0` belong to no kernel.
    kernels.retain(|_, kernel| !kernel.opcodes.is_empty());
    assert!(kernels.values().all(|kernel| kernel.registers > 0), "kernels without registers");
    kernels
}

/// Lines such as `/*0030*/   @P0 LDG.E.128 R4, [R2.64] ;   /* … */` after `Function : name`.
fn parse_sass(text: &str, kernels: &mut BTreeMap<String, Disassembled>) {
    for kernel in text.split("Function : ").skip(1) {
        let (name, lines) = kernel.split_once('\n').unwrap();
        kernels.get_mut(name.trim()).unwrap().opcodes = lines.lines().filter_map(opcode).collect();
    }
}

/// Returns the opcode of a line, if it is an instruction.
fn opcode(line: &str) -> Option<String> {
    let (address, instruction) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    // The second half of an encoding stands on a line of its own.
    u32::from_str_radix(address, 16).ok()?;
    let opcode = instruction.split_whitespace().find(|word| !word.starts_with('@'))?;
    Some(opcode.trim_end_matches(';').to_owned())
}

fn line_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap().replace("\":", "\": ").replace(',', ", ")
}

/// The file, with a line for each kernel and architecture, so that differences are easy to read.
fn text(resources: &Resources) -> String {
    let rules =
        resources.rules.iter().map(|(name, rule)| format!("    {name:?}: {}", line_of(rule)));
    let of_kernel = |(name, targets): (&String, &BTreeMap<String, Measured>)| {
        let lines = targets
            .iter()
            .map(|(target, measured)| format!("      {target:?}: {}", line_of(measured)));
        format!("    {name:?}: {{\n{}\n    }}", lines.collect::<Vec<_>>().join(",\n"))
    };
    let (rules, measured) =
        (rules.collect::<Vec<_>>(), resources.measured.iter().map(of_kernel).collect::<Vec<_>>());
    format!(
        "{{\n  \"about\": {:?},\n  \"rules\": {{\n{}\n  }},\n  \"measured\": {{\n{}\n  }}\n}}\n",
        resources.about,
        rules.join(",\n"),
        measured.join(",\n")
    )
}

fn measured(registers: u32, static_shared: u32, warps: u32, wide_loads: usize) -> Measured {
    Measured {
        registers,
        static_shared,
        warps,
        instructions: [("LDG.128".to_owned(), wide_loads)].into(),
    }
}

#[test]
fn every_change_is_noticed_and_judged() {
    let was = measured(80, 512, 16, 5);
    let said = |is: Measured| changes(&was, &is).join("; ");
    assert_eq!(said(was.clone()), "");
    assert_eq!(said(measured(81, 512, 16, 5)), "registers were 80, are 81: worse");
    assert_eq!(
        said(measured(79, 512, 24, 5)),
        "registers were 80, are 79: better; warps at once were 16, are 24: better"
    );
    assert_eq!(
        said(measured(80, 640, 8, 5)),
        "bytes of shared memory were 512, are 640: worse; warps at once were 16, are 8: worse"
    );
    assert_eq!(said(measured(80, 512, 16, 4)), "LDG.128 were 5, are 4: worse");

    let all = |targets: &[&str]| {
        let of_kernel = targets.iter().map(|target| (target.to_string(), was.clone())).collect();
        BTreeMap::from([("fold_f32".to_owned(), of_kernel)])
    };
    assert_eq!(
        differences(&all(&["sm_80"]), &all(&["sm_80", "sm_90a"])),
        ["fold_f32 on sm_90a: it is new; registers are 80"]
    );
    assert_eq!(
        differences(&all(&["sm_80", "sm_90a"]), &all(&["sm_80"])),
        ["fold_f32 on sm_90a: there is no such kernel any more"]
    );
}

#[test]
fn spills_lost_instructions_and_other_block_sizes_are_never_accepted() {
    let rule = Rule { threads: 256, dynamic_shared: 0, instructions: vec!["LDG.128".to_owned()] };
    let said = |opcodes: &[&str], local, registers, block_size| {
        let opcodes = opcodes.iter().map(|opcode| opcode.to_string()).collect();
        let kernel = Disassembled { registers, local, shared: 0, opcodes };
        kernel.complaints(&kernel.measure(&ARCHITECTURES[0], &rule), &rule, block_size).join("; ")
    };
    let wide = "LDG.E.128.CONSTANT";
    assert_eq!(said(&[wide], 0, 40, Some(256)), "");
    assert_eq!(
        said(&[wide, "STL.64"], 8, 40, Some(256)),
        "8 bytes of local memory, in 1 instructions: it spills"
    );
    assert_eq!(said(&["LDG.E.64", "STG.E.128"], 0, 40, Some(256)), "it has no LDG.128");
    assert_eq!(said(&[wide], 0, 40, None), "__launch_bounds__ says None threads, the rule 256");
    assert_eq!(
        said(&[wide], 0, 40, Some(128)),
        "__launch_bounds__ says Some(128) threads, the rule 256"
    );
}

/// Against what NVIDIA's cuda_occupancy.h answers for the same.
#[test]
fn occupancy_is_limited_by_whatever_runs_out_first() {
    let [ampere, hopper, _, _, consumer] = &ARCHITECTURES;
    assert_eq!(ampere.resident_warps(256, 32, 0), 64);
    assert_eq!(ampere.resident_warps(256, 33, 0), 48, "registers, in units of 256 for a warp");
    assert_eq!(ampere.resident_warps(96, 80, 0), 24, "registers, in four files");
    assert_eq!(ampere.resident_warps(32, 16, 0), 32, "blocks");
    assert_eq!(ampere.resident_warps(256, 32, 40_000), 32, "shared memory, 1 KiB of it reserved");
    assert_eq!(hopper.resident_warps(256, 32, 40_000), 40);
    assert_eq!(consumer.resident_warps(1024, 32, 0), 32, "threads");
    assert_eq!(consumer.resident_warps(256, 32, 110_000), 0, "a block is too large");
}
