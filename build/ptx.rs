//! Makes the PTX of nvcc readable for older drivers.
//!
//! A driver refuses PTX of a later `.version` than it knows. nvcc writes the version of its own
//! release, whatever the instructions need. The version can be lowered to the first one that has
//! them: the build assembles the result, and an assembler refuses instructions that are later than
//! the version.

/// The pragmas that stay: those of PTX 7.0.
const PRAGMAS: [&str; 1] = ["\"nounroll\";"];
/// A pragma that is left out: it tells the assembler which bytes of a wide load are used, which
/// changes no result. PTX knows it from 8.3 on, and assemblers that know it refuse it in text of an
/// earlier version.
const USED_BYTES: &str = "\"used_bytes_mask ";
/// The part of the place of an instruction that tells where its function was inlined, and the
/// first version of PTX with it.
const CALLER: (&str, (u32, u32)) = (", function_name ", (7, 2));

/// Returns the text with another version.
///
/// # Errors
/// Returns the reason if the text has not exactly one version, or a pragma that is not known.
pub(crate) fn at_version(text: &str, version: (u32, u32)) -> Result<String, String> {
    let (major, minor) = version;
    let (mut lowered, mut versions) = (String::with_capacity(text.len()), 0);
    for line in text.lines() {
        if line.starts_with(".version ") {
            versions += 1;
            lowered.push_str(&format!(".version {major}.{minor}\n"));
            continue;
        }
        let line = if version < CALLER.1 { without_caller(line) } else { line };
        match line.trim_start().strip_prefix(".pragma ") {
            Some(pragma) if pragma.starts_with(USED_BYTES) => continue,
            Some(pragma) if !PRAGMAS.contains(&pragma) => {
                return Err(format!("the pragma {pragma} is not known"));
            }
            _ => {}
        }
        lowered.push_str(line);
        lowered.push('\n');
    }
    match versions {
        1 => Ok(lowered),
        _ => Err(format!("there are {versions} lines with a version")),
    }
}

fn without_caller(line: &str) -> &str {
    match line.find(CALLER.0) {
        Some(end) if line.trim_start().starts_with(".loc") => &line[..end],
        _ => line,
    }
}

/// Returns the text without the places where functions were inlined: ptxas 12.0 crashes on them if
/// it assembles for 9.0.
pub(crate) fn without_callers(text: &str) -> String {
    text.lines().flat_map(|line| [without_caller(line), "\n"]).collect()
}

/// Returns the text with a limit of registers in place of the number of resident blocks by which
/// `kernel` limits them.
///
/// # Errors
/// Returns the reason if there is no such kernel, or if it has no number of blocks.
pub(crate) fn with_registers(text: &str, kernel: &str, most: u32) -> Result<String, String> {
    let missing = || format!("there is no kernel {kernel} that gives its resident blocks");
    let entry = text.find(&format!(".entry {kernel}(")).ok_or_else(missing)?;
    let body = entry + text[entry..].find('{').ok_or_else(missing)?;
    let begin = entry + text[entry..body].find(".minnctapersm ").ok_or_else(missing)?;
    let end = begin + text[begin..].find('\n').ok_or_else(missing)?;
    Ok(format!("{}.maxnreg {most}{}", &text[..begin], &text[end..]))
}
