//! Compiles `kernels/*.cu` for every architecture and embeds the images: cubins for the
//! architectures in `CUBINS`, PTX for all others.
//!
//! nvcc is searched in `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `.cuda/` (where `scripts/nvcc.sh` puts
//! it), `/usr/local/cuda` and `PATH`; `NVCC=none` disables the search. Without nvcc, the build uses
//! the images that the package carries (`scripts/prebuild_kernels.sh` makes them). If there are
//! none either, the CUDA backend is built without kernels and reports that when it is used. With
//! `BAGDOT_REQUIRE_NVCC=1` a missing nvcc is an error. The build never queries a GPU.
//!
//! The kernels of the benchmark `stream` are compiled to PTX beside the images, for that benchmark
//! alone: the library does not carry them.
//!
//! Compiled images are cached under a hash of their sources, in the folder `BAGDOT_IMAGES` or else
//! in `OUT_DIR`, so that builds with other profiles or features can share them.

#[path = "build/params.rs"]
mod params;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// The architectures with a cubin of their own. `90a` runs on 9.0 only, the others on their whole
/// generation.
const CUBINS: [&str; 4] = ["80", "90a", "100", "120"];
/// The architecture of the PTX, which the driver compiles for all other devices from 8.0 on.
const PTX: &str = "80";
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
/// The latest release of nvcc that is accepted. Drivers of this release refuse PTX of later ones.
const LATEST_NVCC: (u32, u32) = (13, 0);

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
    write_stream(nvcc.as_deref(), &out);
    let images = if is_documentation { Vec::new() } else { images(nvcc.as_deref(), &out) };
    let entries: String = images
        .iter()
        .map(|(stem, target, path)| {
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
fn write_stream(nvcc: Option<&Path>, out: &Path) {
    let source = Path::new(STREAM);
    let text = match nvcc {
        Some(nvcc) if source.exists() => {
            let version = version_of(nvcc);
            let hash = Fnv(hash_of(&[source.to_owned()])).add_all(&[&version]).0;
            let folder = cache(out).join(format!("stream-{hash:016x}"));
            make_folder(&folder);
            let path = folder.join("stream.ptx");
            if !path.exists() {
                run_nvcc(nvcc, &FLAGS, &[], STREAM, &path);
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

/// The stem, the target as a Rust expression, and the path of every image.
type Images = Vec<(String, String, PathBuf)>;

fn images(nvcc: Option<&Path>, out: &Path) -> Images {
    let kernels = sources(Path::new("kernels"));
    let source_hash = hash_of(&kernels);
    if let Some(nvcc) = nvcc {
        return match env::var_os("BAGDOT_PREBUILD_DIR").map(PathBuf::from) {
            None => compile(nvcc, &FLAGS, &kernels, out),
            Some(folder) => prebuild(nvcc, &kernels, source_hash, out, &folder),
        };
    }
    let prebuilt = Path::new("prebuilt");
    if prebuilt.exists() {
        println!("cargo:rerun-if-changed=prebuilt");
    }
    let required = env::var("BAGDOT_REQUIRE_NVCC").is_ok_and(|value| value == "1");
    let without = match fs::read_to_string(prebuilt.join("hash")) {
        Ok(hash) if hash.trim() == format!("{source_hash:016x}") && !required => {
            return carried(&kernels, prebuilt);
        }
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
fn carried(kernels: &[PathBuf], prebuilt: &Path) -> Images {
    let whole = fs::canonicalize(prebuilt)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", prebuilt.display())));
    listed(kernels, |stem, suffix| whole.join(format!("{stem}.{suffix}")))
}

/// Compiles the images that the package is to carry, and puts them and the hash of their sources
/// into `folder`.
fn prebuild(
    nvcc: &Path,
    kernels: &[PathBuf],
    source_hash: u64,
    out: &Path,
    folder: &Path,
) -> Images {
    // Makes cargo run this script again if the file has been removed.
    println!("cargo:rerun-if-changed={}", folder.join("hash").display());
    let flags: Vec<&str> = FLAGS.into_iter().filter(|&flag| flag != LINE_INFO).collect();
    let images = compile(nvcc, &flags, kernels, out);
    put(&images, &format!("{source_hash:016x}\n"), folder)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", folder.display())));
    images
}

/// Copies images into a folder, unless it has them already. Writing them again would make them
/// newer, and everything that depends on them would be built again.
fn put(images: &Images, hash: &str, folder: &Path) -> std::io::Result<()> {
    let copy_of = |path: &Path| folder.join(path.file_name().unwrap_or_default());
    let is_there =
        |(_, _, path): &(_, _, PathBuf)| fs::read(path).ok() == fs::read(copy_of(path)).ok();
    if fs::read_to_string(folder.join("hash")).is_ok_and(|other| other == hash)
        && images.iter().all(is_there)
    {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for (_, _, path) in images {
        fs::copy(path, copy_of(path))?;
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
    let settings = Fnv::new().add_all(&CUBINS).add_all(&[PTX]).add_all(&FLAGS);
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

fn find_nvcc() -> Option<PathBuf> {
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
    Some(found)
}

/// Returns the output of `nvcc --version`. Fails if the release is later than `LATEST_NVCC`.
fn version_of(nvcc: &Path) -> String {
    let output = Command::new(nvcc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text =
        text.unwrap_or_else(|error| fail(&format!("cannot run {}: {error}", nvcc.display())));
    let release =
        text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("");
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) <= LATEST_NVCC => text,
        _ => fail(&format!(
            "{} is release {release:?}, but {LATEST_NVCC:?} is the latest whose PTX current \
             drivers take",
            nvcc.display()
        )),
    }
}

/// Returns the images of every kernel file, at the paths that `path(stem, suffix)` gives.
fn listed(kernels: &[PathBuf], path: impl Fn(&str, &str) -> PathBuf) -> Images {
    let mut images = Vec::new();
    for file in
        kernels.iter().filter(|file| file.extension().is_some_and(|extension| extension == "cu"))
    {
        let stem = stem_of(file);
        for arch in CUBINS {
            let number: u32 = arch.trim_end_matches('a').parse().unwrap_or(0);
            let (major, minor, exact) = (number / 10, number % 10, arch.ends_with('a'));
            let target =
                format!("Target::Cubin {{ major: {major}, minor: {minor}, exact: {exact} }}");
            images.push((stem.clone(), target, path(&stem, &format!("{arch}.cubin"))));
        }
        images.push((stem.clone(), "Target::Ptx".into(), path(&stem, "ptx")));
    }
    images
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
fn compile(nvcc: &Path, flags: &[&str], kernels: &[PathBuf], out: &Path) -> Images {
    let version = version_of(nvcc);
    let folder = cache(out);
    let folder_of = |stem: &str| {
        let files = with_headers(Path::new(&format!("kernels/{stem}.cu")), kernels);
        let checks: Vec<_> = checks_of(&files, out).iter().map(|file| text_of(file)).collect();
        let checks: Vec<_> = checks.iter().map(String::as_str).collect();
        let hash = Fnv(hash_of(&files)).add_all(&checks).add_all(flags).add_all(&[&version]).0;
        folder.join(format!("{stem}-{hash:016x}"))
    };
    let images = listed(kernels, |stem, suffix| folder_of(stem).join(format!("{stem}.{suffix}")));
    images.iter().filter_map(|(_, _, path)| path.parent()).for_each(make_folder);
    let todo: Vec<_> = images.iter().filter(|(_, _, path)| !path.exists()).collect();
    let (next, threads) = (
        Mutex::new(todo.iter()),
        env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1),
    );
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let take = || next.lock().ok()?.next();
                while let Some((stem, _, path)) = take() {
                    let source = format!("kernels/{stem}.cu");
                    let checks = checks_of(&with_headers(Path::new(&source), kernels), out);
                    run_nvcc(nvcc, flags, &checks, &source, path);
                }
            });
        }
    });
    images
}

/// Compiles one image, with `checks` included before the source.
fn run_nvcc(nvcc: &Path, flags: &[&str], checks: &[PathBuf], source: &str, path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (kind, arch) = match name.strip_suffix(".cubin").and_then(|name| name.rsplit('.').next()) {
        Some(arch) => ("-cubin", format!("-arch=sm_{arch}")),
        None => ("-ptx", format!("-arch=compute_{PTX}")),
    };
    // The image is written under another name first, so that an interrupted build leaves no
    // incomplete image behind.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut command = Command::new(nvcc);
    command.args(flags);
    for check in checks {
        command.arg("-include").arg(check);
    }
    let output = command.args([kind, &arch, source, "-o"]).arg(&partial).output();
    let output =
        output.unwrap_or_else(|error| fail(&format!("cannot run {}: {error}", nvcc.display())));
    if !output.status.success() {
        let said = [output.stdout, output.stderr]
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .concat();
        fail(&format!("nvcc {kind} {arch} {source} failed:\n{said}"));
    }
    fs::rename(&partial, path)
        .unwrap_or_else(|error| fail(&format!("cannot write {}: {error}", path.display())));
}
