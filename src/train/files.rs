//! Reads and writes files of a model directory. Links are not followed, and files are replaced in
//! one step.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Opens a regular file for reading. A link, a pipe or a device in its place is an error: a hostile
/// directory must not lead a reader elsewhere, or make it wait for ever.
pub(super) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = open_with(OpenOptions::new().read(true), path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Opens a file that must not be a link.
pub(super) fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    without_following(options).open(path).map_err(|error| name_link(path, error))
}

/// Replaces the system's error for a link ("too many levels"), which would mislead.
fn name_link(path: &Path, error: io::Error) -> io::Error {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => io::Error::new(
            io::ErrorKind::InvalidInput,
            "a link, which is not followed in a model directory",
        ),
        _ => error,
    }
}

#[cfg(unix)]
fn without_following(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::OFlags;
    // Without `NONBLOCK`, opening a pipe would block until another process writes into it.
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
}

#[cfg(not(unix))]
fn without_following(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Reads a file of at most `max` bytes.
pub(super) fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let too_long = |len: u64| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, but {max} at most"))
    };
    if metadata.len() > max {
        return Err(too_long(metadata.len()));
    }
    let mut bytes = Vec::new();
    // The file may grow during the read.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Returns the name under which a file is written until it is complete.
pub(super) fn partial_name(name: &str) -> String {
    format!("{name}{PARTIAL}")
}

/// The suffix of a [`partial_name`].
pub(super) const PARTIAL: &str = ".partial";

/// The length and checksum of a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) crc32: u32,
}

/// Writes the file `name` in `folder` under its [`partial_name`], makes it durable, and renames it.
/// At any moment the file is either the old one or the new one. Links in either place are replaced
/// and not followed.
pub(super) fn replace(
    folder: &Path,
    name: &str,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Written> {
    let partial = folder.join(partial_name(name));
    let write = || {
        remove_if_there(&partial)?;
        let file = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(&partial)?);
        let mut out = Checked { inner: file, bytes: 0, crc: crc32fast::Hasher::new() };
        contents(&mut out)?;
        out.flush()?;
        out.inner.get_ref().sync_all()?;
        fs::rename(&partial, folder.join(name))?;
        sync_folder(folder)?;
        Ok(Written { bytes: out.bytes, crc32: out.crc.finalize() })
    };
    write().inspect_err(|_| {
        // An error of the removal would hide the first error.
        let _ = fs::remove_file(&partial);
    })
}

/// Removes a file or link; returns no error if there is none.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes new, renamed and removed entries of a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Other systems cannot open folders as files. Their renames are durable without this, or never.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Returns the folder that contains a file or folder.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Gives a regular file a second name, or copies it if the file system has no hard links. Each name
/// stays valid whatever happens to the other, since files of a model directory are replaced and
/// never written in place.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    open_regular(from)?;
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

/// Returns `path` with `suffix` added to its last name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A writer that counts bytes and computes their checksum.
struct Checked<W> {
    inner: W,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.bytes += written as u64;
        self.crc.update(&data[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let write = |text: &str| replace(folder, "f", |out| out.write_all(text.as_bytes()));
        assert_eq!(write("one").unwrap(), Written { bytes: 3, crc32: crc32fast::hash(b"one") });
        let failed = replace(folder, "f", |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(fs::read(folder.join("f")).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
        write("three").unwrap();
        assert_eq!(read_at_most(&folder.join("f"), 5).unwrap(), b"three");
        assert!(
            read_at_most(&folder.join("f"), 4)
                .unwrap_err()
                .to_string()
                .contains("5 bytes, but 4 at most")
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_neither_read_nor_written_through() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let victim = folder.join("victim");
        fs::write(&victim, "precious").unwrap();
        for name in ["f", "f.partial"] {
            symlink(&victim, folder.join(name)).unwrap();
        }
        assert!(open_regular(&folder.join("f")).unwrap_err().to_string().contains("a link"));
        replace(folder, "f", |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(!folder.join("f").is_symlink() && fs::read(folder.join("f")).unwrap() == b"new");
        let pipe = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(open_regular(&pipe).unwrap_err().to_string().contains("not a regular file"));
        assert!(
            open_regular(Path::new("/dev/zero"))
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
        assert!(open_regular(folder).is_err());
        assert_eq!(open_regular(&folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn linked_files_go_their_own_ways() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("a"), "old").unwrap();
        link_or_copy(&folder.join("a"), &folder.join("b")).unwrap();
        replace(folder, "a", |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(folder.join("b")).unwrap(), b"old");
    }
}
