//! Writes results to standard output, or to a file that is replaced only when they are complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

use same_file::Handle;
use tempfile::NamedTempFile;

use super::error::{CliError, CliResult};
use crate::train::parent_of;

/// A destination of results. The contents of an existing file are lost only if [`Self::finish`]
/// succeeds.
pub(super) struct Output {
    name: String,
    out: BufWriter<Target>,
}

enum Target {
    Stdout(StdoutLock<'static>),
    /// A pipe or a device.
    Through(File),
    /// A temporary file beside the one that it will replace.
    Beside {
        file: NamedTempFile,
        path: PathBuf,
    },
}

impl Output {
    /// Opens standard output, or the file at `path`. It must not be one of the `inputs`, even by
    /// another path (`-` is standard input).
    ///
    /// # Errors
    /// Returns [`CliError::Usage`] if it is one of the inputs, and [`CliError::Output`] if it
    /// cannot be written.
    pub(super) fn open(path: Option<&Path>, inputs: &[PathBuf]) -> Result<Self, CliError> {
        let name = path.map_or_else(|| "standard output".into(), |path| path.display().to_string());
        let fault = |source| CliError::Output { name: name.clone(), source };
        let (target, handle) = match path {
            None => (Target::Stdout(io::stdout().lock()), Handle::stdout().ok()),
            Some(path) => {
                let path = resolve(path).map_err(fault)?;
                // The handle is taken before anything is opened for writing.
                let handle = handle_of(&path);
                (Target::open(path).map_err(fault)?, handle)
            }
        };
        if let Some(input) = inputs.iter().find(|input| is_same_file(input, handle.as_ref())) {
            let input = input.display();
            return Err(CliError::Usage(format!(
                "{name} is one of the inputs ({input}): write to another file"
            )));
        }
        Ok(Self { name, out: BufWriter::new(target) })
    }

    /// Makes the results take effect.
    ///
    /// # Errors
    /// Returns [`CliError::Output`]; the file is then unchanged.
    pub(super) fn finish(self) -> CliResult {
        self.complete()?.take_effect()
    }

    /// Completes the results, so that hardly anything can prevent [`Complete::take_effect`]. A
    /// command with several outputs completes all of them before the first takes effect.
    ///
    /// # Errors
    /// Returns [`CliError::Output`]; the file is then unchanged.
    pub(super) fn complete(self) -> Result<Complete, CliError> {
        let Self { name, out } = self;
        let complete = || {
            let mut target = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            match &mut target {
                Target::Stdout(stdout) => stdout.flush()?,
                Target::Through(file) => file.flush()?,
                Target::Beside { file, .. } => file.as_file().sync_all()?,
            }
            Ok(target)
        };
        match complete() {
            Ok(target) => Ok(Complete { name, target }),
            Err(source) => Err(CliError::Output { name, source }),
        }
    }

    /// Makes the error for results that could not be written.
    pub(super) fn fault(&self, source: io::Error) -> CliError {
        CliError::Output { name: self.name.clone(), source }
    }
}

/// Results that are complete, but not in effect yet.
pub(super) struct Complete {
    name: String,
    target: Target,
}

impl Complete {
    /// Makes the results take effect.
    ///
    /// # Errors
    /// Returns [`CliError::Output`]; the file is then unchanged.
    pub(super) fn take_effect(self) -> CliResult {
        match self.target {
            Target::Stdout(_) | Target::Through(_) => Ok(()),
            Target::Beside { file, path } => match file.persist(&path) {
                Ok(_) => Ok(()),
                Err(error) => Err(CliError::Output { name: self.name, source: error.error }),
            },
        }
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Target {
    fn open(path: PathBuf) -> io::Result<Self> {
        // A file without write permission must not be replaced either.
        let existing = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let metadata = existing.as_ref().map(File::metadata).transpose()?;
        if let (Some(file), Some(metadata)) = (existing, &metadata)
            && !metadata.is_file()
        {
            return Ok(Self::Through(file));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}.");
        let mut beside = tempfile::Builder::new();
        beside.prefix(&prefix).suffix(".partial");
        let permissions =
            metadata.map(|metadata| metadata.permissions()).or_else(default_permissions);
        if let Some(permissions) = permissions {
            beside.permissions(permissions);
        }
        Ok(Self::Beside { file: beside.tempfile_in(parent_of(&path))?, path })
    }
}

/// Returns the permissions of a new file, from which the system removes those that the process
/// masks. Without them a temporary file is accessible to its owner alone.
#[cfg(unix)]
fn default_permissions() -> Option<fs::Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn default_permissions() -> Option<fs::Permissions> {
    None
}

impl Write for Target {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(data),
            Self::Through(out) => out.write(data),
            Self::Beside { file, .. } => file.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Through(out) => out.flush(),
            Self::Beside { file, .. } => file.flush(),
        }
    }
}

/// Resolves links, so that the file is replaced and not the link to it.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        // A link to a file that does not exist yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            Ok(path.parent().unwrap_or(Path::new("")).join(fs::read_link(path)?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.into()),
        Err(error) => Err(error),
    }
}

/// Returns whether an input is the output file.
fn is_same_file(input: &Path, output: Option<&Handle>) -> bool {
    let handle = match input.to_str() {
        Some("-") => Handle::stdin().ok().filter(is_file),
        _ => handle_of(input),
    };
    handle.is_some_and(|handle| output == Some(&handle))
}

/// Returns a handle that identifies a regular file, and `None` for anything else: pipes and devices
/// may be input and output at once, and a pipe must not even be opened.
fn handle_of(path: &Path) -> Option<Handle> {
    let metadata = path.metadata().ok()?;
    if metadata.is_file() { Handle::from_path(path).ok() } else { None }
}

fn is_file(handle: &Handle) -> bool {
    handle.as_file().metadata().is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, inputs: &[PathBuf], text: &str) -> CliResult {
        let mut out = Output::open(Some(path), inputs)?;
        out.write_all(text.as_bytes()).map_err(|error| out.fault(error))?;
        out.finish()
    }

    #[test]
    fn a_file_changes_only_when_results_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.txt");
        write(&path, &[], "old").unwrap();
        let mut out = Output::open(Some(&path), &[]).unwrap();
        out.write_all(&vec![b'x'; 100_000]).unwrap();
        out.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(out);
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()),
            (b"old".to_vec(), 1)
        );
        write(&path, &[], "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(
            write(&folder.path().join("none/out.txt"), &[], "")
                .unwrap_err()
                .to_string()
                .contains("none/out.txt")
        );
        assert!(
            write(folder.path(), &[], "").unwrap_err().to_string().starts_with("cannot write ")
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_permissions_and_pipes_stay_what_they_are() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        File::create(at("plain")).unwrap();
        fs::write(at("secret"), "s").unwrap();
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("secret", at("link")).unwrap();
        symlink("later", at("dangling")).unwrap();
        for name in ["link", "dangling", "new"] {
            write(&at(name), &[], name).unwrap();
        }
        assert!(
            at("link").is_symlink()
                && fs::read(at("secret")).unwrap() == b"link"
                && mode("secret") == 0o600
        );
        assert!(at("dangling").is_symlink() && fs::read(at("later")).unwrap() == b"dangling");
        assert_eq!(mode("new"), mode("plain"));
        write(Path::new("/dev/null"), &[PathBuf::from("/dev/null")], "gone").unwrap();
        let pipe = at("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&pipe, &[], "through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
    }

    #[cfg(unix)]
    #[test]
    fn inputs_are_no_outputs_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("t.csv"), "rows").unwrap();
        std::os::unix::fs::symlink(at("t.csv"), at("link")).unwrap();
        fs::hard_link(at("t.csv"), at("twin")).unwrap();
        for name in ["t.csv", "link", "twin"] {
            let error = write(&at(name), &[at("other"), at("t.csv")], "x").unwrap_err().to_string();
            assert!(error.contains("is one of the inputs"), "{error}");
        }
        assert_eq!(fs::read(at("t.csv")).unwrap(), b"rows");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
