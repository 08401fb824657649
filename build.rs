//! Compiles `kernels/*.cu` for every architecture and embeds the images: cubins for the
//! architectures in `CUBINS`, PTX for all others. Drivers load cubins and PTX of their own version
//! of CUDA and of earlier ones. So the version of the PTX is lowered as far as its instructions
//! allow (`build/ptx.rs`), and ptxas of CUDA 12 makes the cubins of `OLDER_CUBINS` of such PTX.
//!
//! nvcc is searched in `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `.cuda/` (where `scripts/nvcc.sh` puts
//! it), `/usr/local/cuda` and `PATH`; `NVCC=none` disables the search. Without nvcc, the build uses
//! the images that the package carries (`scripts/prebuild_kernels.sh` makes them). If there are
//! none either, the CUDA backend is built without kernels and reports that when it is used. With
//! `BAGDOT_REQUIRE_NVCC=1` a missing nvcc is an error. The build never queries a GPU.
//!
//! ptxas of CUDA 12 is searched in `BAGDOT_PTXAS` and in `.cuda/`; `BAGDOT_PTXAS=none` disables the
//! search. Without it there are no older cubins, and the build says so: drivers of CUDA 12 then
//! compile the PTX. Where nvcc is required, or makes the images of the package, that is an error.
//!
//! The kernels of the benchmark `stream` are compiled to PTX beside the images, for that benchmark
//! alone: the library does not carry them.
//!
//! Compiled images are cached under a hash of their sources, in the folder `BAGDOT_IMAGES` or else
//! in `OUT_DIR`, so that builds with other profiles or features can share them.

#[path = "build/params.rs"]
mod params;
#[path = "build/ptx.rs"]
mod ptx;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// The architectures with a cubin of their own. `90a` runs on 9.0 only, the others on their whole
/// generation.
const CUBINS: [&str; 4] = ["80", "90a", "100", "120"];
/// The architectures with a cubin by ptxas of CUDA 12, which makes them of the PTX that ships.
const OLDER_CUBINS: [&str; 2] = ["80", "90"];
/// The kernels that ptxas of CUDA 12 must give fewer registers than their bounds allow: the
/// architecture, the kernel and the most registers. Release 12.0 spills 8 bytes of this one at 128
/// registers; at 126 it takes 122 and spills nothing. The number of resident blocks is the same.
const FEWER_REGISTERS: [(&str, &str, u32); 1] = [("90", "linear_forward_mma_large_f32", 126)];
/// The architecture of the PTX, which the driver compiles for all other devices from 8.0 on.
const PTX: &str = "80";
/// The architecture of the PTX of which nvcc makes the cubins for 9.0. Tests run it. No driver
/// needs it, since those that can read its version load cubins for 9.0, too: so only a library with
/// the feature `testing` has it, and the package does not.
const TESTED_PTX: &str = "90a";
/// The `.version` of the PTX of each architecture, which is the first one with that architecture.
/// All instructions of the kernels are as old; the build fails if one is not.
const PTX_VERSIONS: [(&str, Release); 2] = [(PTX, (7, 0)), (TESTED_PTX, (8, 0))];
/// The source of build/ptx.rs, which is part of the hash of the images.
const PTX_SOURCE: &str = include_str!("build/ptx.rs");
/// The flags of nvcc. Warnings, spills and local memory are errors, because a kernel that spills
/// needs to be rewritten.
const FLAGS: [&str; 7] = [
    "-std=c++17",
    "-O3",
    LINE_INFO,
    "-Werror",
    "all-warnings",
    "-Xptxas=-warn-spills,-warn-lmem-usage",
    "-Ikernels",
];
/// The flag for line information. It is left out of the images of the package, which it would make
/// five times as large and which would name folders of the machine that made them.
const LINE_INFO: &str = "-lineinfo";
/// The folder of the headers that kernels and host share.
const PARAMS: &str = "kernels/params";
/// The kernels of the benchmark `stream`.
const STREAM: &str = "benches/stream.cu";
/// The flags of ptxas of CUDA 12, with the effect that `FLAGS` have on nvcc.
const PTXAS_FLAGS: [&str; 4] = ["-O3", "-Werror", "-warn-spills", "-warn-lmem-usage"];
/// The latest release of nvcc that is accepted. A driver refuses cubins of a later major version of
/// CUDA.
const LATEST_NVCC: Release = (13, 0);

/// A release of CUDA or a version of PTX: the major and the minor version.
type Release = (u32, u32);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels");
    if Path::new(STREAM).exists() {
        println!("cargo:rerun-if-changed={STREAM}");
    }
    for variable in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "BAGDOT_IMAGES",
        "BAGDOT_REQUIRE_NVCC",
        "BAGDOT_PREBUILD_DIR",
        "BAGDOT_PTXAS",
        "DOCS_RS",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    write_params(&out);
    let is_documentation = env::var_os("DOCS_RS").is_some();
    let nvcc = if is_documentation { None } else { find_nvcc() };
    write_stream(nvcc.as_ref(), &out);
    let images = if is_documentation { Vec::new() } else { images(nvcc, &out) };
    let entries: String = images
        .iter()
        .map(|Image { stem, target, path, .. }| {
            let bytes = format!("include_bytes!({path:?})");
            format!("    Image {{ stem: {stem:?}, target: {target}, bytes: {bytes} }},\n")
        })
        .collect();
    let table = format!("pub(super) static IMAGES: &[Image] = &[\n{entries}];\n");
    fs::write(out.join("images.rs"), table)
        .unwrap_or_else(|error| fail(&format!("cannot write images.rs: {error}")));
}

/// Writes the Rust twins of `kernels/params` to params.rs, and their assertions for nvcc into a
/// header for each of them.
fn write_params(out: &Path) {
    let read = |files: Vec<PathBuf>, extension: &str| {
        let files =
            files.into_iter().filter(|file| file.extension().is_some_and(|e| e == extension));
        let source = |file: PathBuf| params::Source { stem: stem_of(&file), text: text_of(&file) };
        files.map(source).collect::<Vec<_>>()
    };
    let headers = read(sources(Path::new(PARAMS)), "cuh");
    let kernel_files = read(sources(Path::new("kernels")), "cu");
    let generated =
        params::generate(&headers, &kernel_files).unwrap_or_else(|reason| fail(&reason));
    write(&out.join("params.rs"), &generated.rust);
    for (stem, text) in &generated.checks {
        write(&check_of(out, stem), text);
    }
}

/// Writes a file, unless it has this text already: it then keeps its time, and nothing is rebuilt
/// for it.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", path.display())));
}

/// Writes stream.ptx, which the benchmark `stream` embeds: its kernels as PTX, which the driver
/// compiles for any device. Without nvcc the file is empty, and the benchmark leaves them out.
fn write_stream(nvcc: Option<&Tool>, out: &Path) {
    let source = Path::new(STREAM);
    let text = match nvcc {
        Some(nvcc) if source.exists() => {
            let files = hash_of(&[source.to_owned()]);
            let hash = Fnv(files).add_all(&[&nvcc.version, PTX_SOURCE]).0;
            let folder = cache(out).join(format!("stream-{hash:016x}"));
            make_folder(&folder);
            let path = folder.join("stream.ptx");
            if !path.exists() {
                make_ptx(nvcc, &FLAGS, &[], STREAM, PTX, &path);
            }
            text_of(&path)
        }
        _ => String::new(),
    };
    write(&out.join("stream.ptx"), &text);
}

/// Returns the path of the header with the assertions of `kernels/params/{stem}.cuh`.
fn check_of(out: &Path, stem: &str) -> PathBuf {
    out.join(format!("check_{stem}.cuh"))
}

/// Returns the paths of the headers with the assertions of all headers of parameters among `files`.
fn checks_of(files: &[PathBuf], out: &Path) -> Vec<PathBuf> {
    let params = files.iter().filter(|file| file.starts_with(PARAMS));
    params.map(|file| check_of(out, &stem_of(file))).collect()
}

/// A compiler or an assembler.
struct Tool {
    path: PathBuf,
    release: Release,
    /// The output of `--version`.
    version: String,
}

/// The contents of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Machine code by nvcc for an architecture.
    Cubin(&'static str),
    /// Machine code by ptxas of CUDA 12 for an architecture.
    OlderCubin(&'static str),
    /// The PTX of an architecture.
    Ptx(&'static str),
}

/// An image of a kernel file.
struct Image {
    stem: String,
    kind: Kind,
    /// The target as a Rust expression.
    target: String,
    path: PathBuf,
}

/// The releases of the tools that made images: of nvcc, and of ptxas if there was one.
#[derive(Clone, Copy)]
struct Releases {
    nvcc: Release,
    ptxas: Option<Release>,
}

impl Releases {
    /// Parses the text that `Display` writes.
    fn parse(text: &str) -> Option<Self> {
        let mut releases = text.split_whitespace().map(parse_release);
        Some(Self { nvcc: releases.next()??, ptxas: releases.next().flatten() })
    }
}

impl std::fmt::Display for Releases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.nvcc.0, self.nvcc.1)?;
        self.ptxas.map_or(Ok(()), |(major, minor)| write!(f, " {major}.{minor}"))
    }
}

fn parse_release(text: &str) -> Option<Release> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn images(nvcc: Option<Tool>, out: &Path) -> Vec<Image> {
    let kernels = sources(Path::new("kernels"));
    let source_hash = hash_of(&kernels);
    let required = env::var("BAGDOT_REQUIRE_NVCC").is_ok_and(|value| value == "1");
    if let Some(nvcc) = nvcc {
        let folder = env::var_os("BAGDOT_PREBUILD_DIR").map(PathBuf::from);
        let ptxas = older_ptxas(&nvcc, required || folder.is_some());
        return match folder {
            None => {
                let ptx = match env::var_os("CARGO_FEATURE_TESTING") {
                    Some(_) => &[PTX, TESTED_PTX][..],
                    None => &[PTX],
                };
                compile(&nvcc, ptxas.as_ref(), &FLAGS, ptx, &kernels, out)
            }
            Some(folder) => prebuild(&nvcc, ptxas.as_ref(), &kernels, source_hash, out, &folder),
        };
    }
    let prebuilt = Path::new("prebuilt");
    if prebuilt.exists() {
        println!("cargo:rerun-if-changed=prebuilt");
    }
    let hash = fs::read_to_string(prebuilt.join("hash"));
    let of_these = |text: &str| {
        let (hash, releases) = text.split_once(' ')?;
        (hash == format!("{source_hash:016x}")).then(|| Releases::parse(releases))?
    };
    let without = match hash.as_deref().map(of_these) {
        Ok(Some(releases)) if !required => return carried(&kernels, releases, prebuilt),
        Ok(_) => "no nvcc, and prebuilt is not of these kernels",
        Err(_) => "no nvcc",
    };
    let reason = format!(
        "{without}: the CUDA backend is built without kernels. Run scripts/nvcc.sh (or set NVCC or \
         CUDA_HOME) and build again"
    );
    if required {
        fail(&reason);
    }
    println!("cargo:warning={reason}");
    Vec::new()
}

/// Returns the images that the package carries.
fn carried(kernels: &[PathBuf], releases: Releases, prebuilt: &Path) -> Vec<Image> {
    let whole = fs::canonicalize(prebuilt)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", prebuilt.display())));
    listed(kernels, releases, &[PTX], |stem, name| whole.join(format!("{stem}.{name}")))
}

/// Compiles the images that the package is to carry, and puts them and the hash of their sources
/// into `folder`.
fn prebuild(
    nvcc: &Tool,
    ptxas: Option<&Tool>,
    kernels: &[PathBuf],
    source_hash: u64,
    out: &Path,
    folder: &Path,
) -> Vec<Image> {
    // Makes cargo run this script again if the file has been removed.
    println!("cargo:rerun-if-changed={}", folder.join("hash").display());
    let flags: Vec<&str> = FLAGS.into_iter().filter(|&flag| flag != LINE_INFO).collect();
    let images = compile(nvcc, ptxas, &flags, &[PTX], kernels, out);
    let releases = Releases { nvcc: nvcc.release, ptxas: ptxas.map(|ptxas| ptxas.release) };
    put(&images, &format!("{source_hash:016x} {releases}\n"), folder)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", folder.display())));
    images
}

/// Copies images into a folder, unless it has them already. Writing them again would make them
/// newer, and everything that depends on them would be built again.
fn put(images: &[Image], hash: &str, folder: &Path) -> std::io::Result<()> {
    let copy_of = |path: &Path| folder.join(path.file_name().unwrap_or_default());
    let is_there =
        |image: &Image| fs::read(&image.path).ok() == fs::read(copy_of(&image.path)).ok();
    if fs::read_to_string(folder.join("hash")).is_ok_and(|other| other == hash)
        && images.iter().all(is_there)
    {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for image in images {
        fs::copy(&image.path, copy_of(&image.path))?;
    }
    // The hash is written last, so that a reader never takes incomplete images for complete ones.
    fs::write(folder.join("hash"), hash)
}

fn fail(reason: &str) -> ! {
    eprintln!("error: {reason}");
    std::process::exit(1);
}

/// Returns all sources and headers in a folder, in a fixed order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            None if path.is_dir() => files.extend(sources(&path)),
            Some("cu" | "cuh") => files.push(path),
            _ => {}
        }
    }
    files.sort();
    files
}

/// A hash by FNV-1a. The hash of std may differ between releases of Rust, but a package made with
/// one release must be usable with another.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        // The length separates one piece from the next.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    fn add_all(self, texts: &[&str]) -> Self {
        texts.iter().fold(self, |hash, text| hash.add(text.as_bytes()))
    }
}

/// Returns the hash of everything that determines the images of these files, except for the
/// compiler.
fn hash_of(files: &[PathBuf]) -> u64 {
    let older = format!("{OLDER_CUBINS:?} {FEWER_REGISTERS:?} {PTX_VERSIONS:?}");
    let settings = Fnv::new().add_all(&CUBINS).add_all(&[PTX]).add_all(&FLAGS);
    let settings = settings.add_all(&PTXAS_FLAGS).add_all(&[&older, PTX_SOURCE]);
    let add_file = |hash: Fnv, file: &PathBuf| {
        hash.add(file.to_string_lossy().replace('\\', "/").as_bytes()).add(text_of(file).as_bytes())
    };
    files.iter().fold(settings, add_file).0
}

fn stem_of(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| fail(&format!("{}: {error}", file.display())))
}

/// Returns a kernel file and all headers that it includes, directly or not.
fn with_headers(file: &Path, headers: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = vec![file.to_owned()];
    let mut next = 0;
    while let Some(file) = files.get(next) {
        let text = text_of(file);
        let included = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("#include \"")?.split('"').next());
        let names: Vec<_> = included.filter_map(|path| Path::new(path).file_name()).collect();
        for header in headers {
            if header.file_name().is_some_and(|name| names.contains(&name))
                && !files.contains(header)
            {
                files.push(header.clone());
            }
        }
        next += 1;
    }
    files
}

fn find_nvcc() -> Option<Tool> {
    if env::var_os("NVCC").is_some_and(|nvcc| nvcc == "none") {
        return None;
    }
    let from = |variable: &str, below: &str| {
        env::var_os(variable).map(|root| Path::new(&root).join(below))
    };
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let places = [
        env::var_os("NVCC").map(PathBuf::from),
        from("CUDA_HOME", "bin/nvcc"),
        from("CUDA_PATH", "bin/nvcc"),
        Some(here.join(".cuda/nvidia/cu13/bin/nvcc")),
        Some("/usr/local/cuda/bin/nvcc".into()),
    ];
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>();
    let found = places.into_iter().flatten().chain(on_path).find(|nvcc| nvcc.is_file())?;
    println!("cargo:rerun-if-changed={}", found.display());
    let nvcc = tool(found);
    if nvcc.release > LATEST_NVCC {
        fail(&format!(
            "{} is release {:?}, but {LATEST_NVCC:?} is the latest whose images current drivers \
             take",
            nvcc.path.display(),
            nvcc.release
        ));
    }
    Some(nvcc)
}

/// Returns ptxas of CUDA 12, or `None` if it is not there or nvcc is as old. A missing one is an
/// error if it is required.
fn older_ptxas(nvcc: &Tool, required: bool) -> Option<Tool> {
    if nvcc.release.0 <= 12 {
        return None;
    }
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let path = env::var_os("BAGDOT_PTXAS")
        .map_or_else(|| here.join(".cuda/nvidia/cuda_nvcc/bin/ptxas"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", path.display());
    if path.is_file() {
        let ptxas = tool(path);
        if ptxas.release.0 != 12 {
            let path = ptxas.path.display();
            fail(&format!("{path} is of release {:?}, but one of 12 is needed", ptxas.release));
        }
        return Some(ptxas);
    }
    let reason = "no ptxas of CUDA 12: drivers before CUDA 13 will have to compile the kernels \
                  from PTX when they load them. Run scripts/nvcc.sh (or set BAGDOT_PTXAS) and \
                  build again";
    if required {
        fail(reason);
    }
    println!("cargo:warning={reason}");
    None
}

/// Returns a tool with its release.
fn tool(path: PathBuf) -> Tool {
    let shown = path.display();
    let output = Command::new(&path).arg("--version").output();
    let output = output.unwrap_or_else(|error| fail(&format!("cannot run {shown}: {error}")));
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = version.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let release = release
        .and_then(parse_release)
        .unwrap_or_else(|| fail(&format!("{shown} does not say its release: {version}")));
    Tool { path, release, version }
}

/// Returns the images of every kernel file, with PTX of these architectures, at the paths that
/// `path(stem, name)` gives.
fn listed(
    kernels: &[PathBuf],
    releases: Releases,
    ptx: &[&'static str],
    path: impl Fn(&str, &str) -> PathBuf,
) -> Vec<Image> {
    let cubins = CUBINS.map(Kind::Cubin).into_iter();
    let older = releases.ptxas.map(|_| OLDER_CUBINS.map(Kind::OlderCubin));
    let ptx = ptx.iter().copied().map(Kind::Ptx);
    let kinds: Vec<_> = cubins.chain(older.into_iter().flatten()).chain(ptx).collect();
    let mut images = Vec::new();
    for file in
        kernels.iter().filter(|file| file.extension().is_some_and(|extension| extension == "cu"))
    {
        let stem = stem_of(file);
        for &kind in &kinds {
            let name = match kind {
                Kind::Cubin(arch) => format!("{arch}.cubin"),
                Kind::OlderCubin(arch) => format!("{arch}.older.cubin"),
                Kind::Ptx(arch) => format!("{arch}.ptx"),
            };
            let path = path(&stem, &name);
            images.push(Image { stem: stem.clone(), kind, target: target(kind, releases), path });
        }
    }
    images
}

/// Returns the target of an image as a Rust expression.
fn target(kind: Kind, releases: Releases) -> String {
    let (Kind::Cubin(arch) | Kind::OlderCubin(arch) | Kind::Ptx(arch)) = kind;
    let number: u32 = arch.trim_end_matches('a').parse().unwrap_or(0);
    let (major, minor, exact) = (number / 10, number % 10, arch.ends_with('a'));
    let device = format!("major: {major}, minor: {minor}, exact: {exact}");
    match kind {
        Kind::Ptx(_) => format!("Target::Ptx {{ {device}, version: {:?} }}", ptx_version(arch)),
        Kind::Cubin(_) => format!("Target::Cubin {{ {device}, toolkit: {:?} }}", releases.nvcc),
        Kind::OlderCubin(_) => {
            let toolkit = releases.ptxas.unwrap_or(releases.nvcc);
            format!("Target::Cubin {{ {device}, toolkit: {toolkit:?} }}")
        }
    }
}

/// Returns the version of the PTX of an architecture.
fn ptx_version(arch: &str) -> Release {
    let found = PTX_VERSIONS.iter().find(|(of, _)| *of == arch);
    found.map_or_else(|| fail(&format!("PTX of {arch} has no version")), |&(_, version)| version)
}

/// Returns the folder of compiled images: the one that builds share, or else that of this build.
fn cache(out: &Path) -> PathBuf {
    let Some(shared) = env::var_os("BAGDOT_IMAGES") else { return out.to_owned() };
    fs::create_dir_all(&shared).and_then(|()| fs::canonicalize(&shared)).unwrap_or_else(|error| {
        fail(&format!("cannot make {}: {error}", Path::new(&shared).display()))
    })
}

fn make_folder(folder: &Path) {
    fs::create_dir_all(folder)
        .unwrap_or_else(|error| fail(&format!("cannot make {}: {error}", folder.display())));
}

/// Compiles the images that are not cached. The images of a kernel file are cached under the hash
/// of all their inputs.
fn compile(
    nvcc: &Tool,
    ptxas: Option<&Tool>,
    flags: &[&str],
    ptx: &[&'static str],
    kernels: &[PathBuf],
    out: &Path,
) -> Vec<Image> {
    let folder = cache(out);
    let folder_of = |stem: &str| {
        let files = with_headers(Path::new(&format!("kernels/{stem}.cu")), kernels);
        let checks: Vec<_> = checks_of(&files, out).iter().map(|file| text_of(file)).collect();
        let checks: Vec<_> = checks.iter().map(String::as_str).collect();
        let tools = [nvcc.version.as_str(), ptxas.map_or("", |ptxas| &ptxas.version)];
        let hash = Fnv(hash_of(&files)).add_all(&checks).add_all(flags).add_all(&tools).0;
        folder.join(format!("{stem}-{hash:016x}"))
    };
    let releases = Releases { nvcc: nvcc.release, ptxas: ptxas.map(|ptxas| ptxas.release) };
    let path = |stem: &str, name: &str| folder_of(stem).join(format!("{stem}.{name}"));
    let images = listed(kernels, releases, ptx, path);
    images.iter().filter_map(|image| image.path.parent()).for_each(make_folder);
    let todo = |is_older: bool| -> Vec<&Image> {
        let missing = images.iter().filter(|image| !image.path.exists());
        missing.filter(|image| matches!(image.kind, Kind::OlderCubin(_)) == is_older).collect()
    };
    in_parallel(&todo(false), |Image { stem, kind, path, .. }| {
        let source = format!("kernels/{stem}.cu");
        let checks = checks_of(&with_headers(Path::new(&source), kernels), out);
        match kind {
            Kind::Ptx(arch) => make_ptx(nvcc, flags, &checks, &source, arch, path),
            Kind::Cubin(arch) | Kind::OlderCubin(arch) => finish(path, |to| {
                let target = ["-cubin".into(), format!("-arch=sm_{arch}")];
                run_nvcc(nvcc, flags, &checks, &target, &source, to);
            }),
        }
    });
    // The older cubins are assembled from the PTX, which exists by now.
    in_parallel(&todo(true), |Image { stem, kind, path, .. }| {
        let (Some(ptxas), &Kind::OlderCubin(arch)) = (ptxas, kind) else { return };
        let ptx = path.with_file_name(format!("{stem}.{PTX}.ptx"));
        finish(path, |to| run_ptxas(ptxas, flags, &ptx, arch, to));
    });
    images
}

/// Calls `work` for each item, on as many threads as cargo allows.
fn in_parallel<T: Sync>(items: &[&T], work: impl Fn(&T) + Sync) {
    let next = Mutex::new(items.iter());
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let take = || next.lock().ok()?.next();
                while let Some(item) = take() {
                    work(item);
                }
            });
        }
    });
}

/// Makes a file under another name first, so that an interrupted build leaves no incomplete image
/// behind.
fn finish(path: &Path, make: impl FnOnce(&Path)) {
    // The tools go by the extension.
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let partial = path.with_extension(format!("{}.partial.{extension}", std::process::id()));
    make(&partial);
    fs::rename(&partial, path)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", path.display())));
}

/// Compiles a source to PTX of the lowest version, and assembles that once: an instruction that is
/// later than the version fails the build.
fn make_ptx(
    nvcc: &Tool,
    flags: &[&str],
    checks: &[PathBuf],
    source: &str,
    arch: &str,
    path: &Path,
) {
    finish(path, |to| {
        let target = ["-ptx".into(), format!("-arch=compute_{arch}")];
        run_nvcc(nvcc, flags, checks, &target, source, to);
        let lowered = ptx::at_version(&text_of(to), ptx_version(arch));
        let lowered = lowered.unwrap_or_else(|why| fail(&format!("the PTX of {source}: {why}")));
        write(to, &lowered);
        let assembled = to.with_extension("cubin");
        let mut command = Command::new(&nvcc.path);
        command.args(["-cubin", &format!("-arch=sm_{arch}"), "-Xptxas=-O0"]).arg(to);
        run(command.arg("-o").arg(&assembled));
        fs::remove_file(&assembled)
            .unwrap_or_else(|error| fail(&format!("{}: {error}", assembled.display())));
    });
}

/// Compiles a source, with `checks` included before it.
fn run_nvcc(
    nvcc: &Tool,
    flags: &[&str],
    checks: &[PathBuf],
    target: &[String],
    source: &str,
    to: &Path,
) {
    let mut command = Command::new(&nvcc.path);
    command.args(flags);
    for check in checks {
        command.arg("-include").arg(check);
    }
    run(command.args(target).arg(source).arg("-o").arg(to));
}

/// Assembles PTX by ptxas of CUDA 12.
fn run_ptxas(ptxas: &Tool, flags: &[&str], from: &Path, arch: &str, to: &Path) {
    let mut text = ptx::without_callers(&text_of(from));
    for (of, kernel, most) in FEWER_REGISTERS {
        if of == arch && text.contains(&format!(".entry {kernel}(")) {
            text = ptx::with_registers(&text, kernel, most)
                .unwrap_or_else(|why| fail(&format!("{}: {why}", from.display())));
        }
    }
    let source = to.with_extension("ptx");
    write(&source, &text);
    let mut command = Command::new(&ptxas.path);
    command.args(PTXAS_FLAGS).args(flags.contains(&LINE_INFO).then_some(LINE_INFO));
    run(command.arg(format!("-arch=sm_{arch}")).arg(&source).arg("-o").arg(to));
    fs::remove_file(&source)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", source.display())));
}

/// Runs a command, and fails with its output if it fails.
fn run(command: &mut Command) {
    let output = command.output();
    let output = output.unwrap_or_else(|error| fail(&format!("cannot run {command:?}: {error}")));
    if !output.status.success() {
        let said = [output.stdout, output.stderr]
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .concat();
        fail(&format!("{command:?} failed:\n{said}"));
    }
}
