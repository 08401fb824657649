//! Patterns for names, in which `*` stands for any text: of columns, and of files.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::error::{DataError, Result};
use super::source::name_of;

/// Returns whether a text matches a pattern, in which `*` stands for any text and every other
/// character for itself.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Returns the files that a path means, as [`files`] finds them, and an error if there are none.
pub(crate) fn find_files(path: &Path) -> Result<Vec<PathBuf>> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "this stands for no file");
    files(path)
        .and_then(|files| if files.is_empty() { Err(none()) } else { Ok(files) })
        .map_err(|source| DataError::Io { file: name_of(path), source })
}

/// Returns the files that a path means: the files in a folder without those below it, the files
/// that match a path with `*`, or else the path itself. Files of a folder or a pattern are sorted
/// by their names; those whose name begins with `.` or `_` count only if the pattern says so.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let has_star = |path: &Path| path.as_os_str().to_string_lossy().contains('*');
    if path.is_dir() {
        return entries(path, "*", &|path| path.is_file());
    }
    if path.exists() || !has_star(path) {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = vec![PathBuf::new()];
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let is_last = components.peek().is_none();
        let pattern = match component {
            Component::Normal(name) if has_star(name.as_ref()) => name.to_string_lossy(),
            other => {
                found.iter_mut().for_each(|path| path.push(other));
                continue;
            }
        };
        let wanted = |path: &Path| if is_last { path.is_file() } else { path.is_dir() };
        let mut next = Vec::new();
        for folder in found.iter().filter(|folder| folder.is_dir() || folder.as_os_str().is_empty())
        {
            next.extend(entries(folder, &pattern, &wanted)?);
        }
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

/// Returns the entries of a folder whose names match a pattern, sorted by name.
fn entries(
    folder: &Path,
    pattern: &str,
    wanted: &dyn Fn(&Path) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let here = Path::new(".");
    let read = if folder.as_os_str().is_empty() { here } else { folder };
    let mut names = Vec::new();
    for entry in read.read_dir()? {
        names.push(entry?.file_name());
    }
    names.retain(|name| {
        let name = name.to_string_lossy();
        let is_hidden = name.starts_with(['.', '_']) && pattern.starts_with('*');
        !is_hidden && matches(pattern, &name)
    });
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).filter(|path| wanted(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "x", true),
            ("a*", "abc", true),
            ("a*", "ba", false),
            ("*c", "abc", true),
            ("*c", "cab", false),
            ("a*c", "abc", true),
            ("a*a", "a", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "acb", false),
            ("*é*", "caféx", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn folders_and_patterns_are_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["b.csv", "a.csv", "c.txt", ".d.csv", "_done", "x/1.csv", "y/1.csv", "y/2.csv"]
        {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let names = |pattern: &str| {
            let files = files(&root.join(pattern)).unwrap();
            let name = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
            files.into_iter().map(name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(""), "a.csv b.csv c.txt");
        assert_eq!(names("*.csv"), "a.csv b.csv");
        assert_eq!(names("*/1.csv"), "x/1.csv y/1.csv");
        assert_eq!(names("y/*"), "y/1.csv y/2.csv");
        assert_eq!(names("*/*"), "x/1.csv y/1.csv y/2.csv");
        assert_eq!(names("_*"), "_done");
        assert_eq!(names("z*"), "");
        assert_eq!(names("none.csv"), "none.csv");
        std::fs::write(root.join("a*"), "").unwrap();
        assert_eq!(names("a*"), "a*");
    }
}
