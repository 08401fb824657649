//! `bagdot init`

mod guess;
mod leak;
mod target;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use self::guess::Guesses;
use self::target::Target;
use super::error::{CliError, CliResult};
use super::output::Output;
use super::terminal::Bar;
use crate::data::{Layout, Profile, find_files};
use crate::train::{Config, parent_of};

/// Write a configuration for files that it reads, with a guess at the kind of every column.
///
/// The configuration trains as it stands. Each column has one line, with what it holds, and each
/// further key stands there with its default, as a comment. Columns that say nothing (ids,
/// constants) or that give the label away are commented out, with the reason.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  bagdot init clicks.csv --label clicked --output clicks.toml
  bagdot init ratings.csv --label 'rating >= 4' --output ratings.toml
  bagdot init clicks.csv                           list the columns that may be the label")]
pub(super) struct Init {
    /// Files, folders or patterns; all files have the same columns
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// The column to predict, or the condition under which a row counts as 1, such as
    /// `rating >= 4`
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file of --output if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    syntax: Syntax,
    /// Print only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// The syntax of files, where a guess at it is wrong.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Syntax {
    /// The character between fields [default: a guess]
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// True if the first line has the names of the columns [default: a guess]
    #[arg(long, value_name = "true|false")]
    header: Option<bool>,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => Ok(*byte),
        _ => Err("one ASCII character is needed, such as ';' or '\\t'".into()),
    }
}

impl Init {
    pub(super) fn run(&self) -> CliResult {
        if let Some(path) = &self.output
            && path.exists()
            && !self.force
        {
            return Err(CliError::Usage(format!(
                "{} is there already: choose another --output, or replace it with --force",
                path.display()
            )));
        }
        let folder = self.output.as_deref().map_or(Path::new("."), parent_of);
        let draft = draft(&self.data, self.label.as_deref(), self.syntax, folder, self.quiet)?;
        let mut out = Output::open(self.output.as_deref(), &draft.files)?;
        out.write_all(draft.text.as_bytes()).map_err(|error| out.fault(error))?;
        out.finish()?;
        if let Some(path) = self.output.as_deref().filter(|_| !self.quiet) {
            let path = path.display();
            super::terminal::say(&format!("{}; train with: bagdot train {path}", draft.summary));
        }
        Ok(())
    }
}

/// A configuration for some files.
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) files: Vec<PathBuf>,
    /// The number of columns of each kind, in words.
    pub(super) summary: String,
}

/// Reads files, and drafts a configuration that is to stand in `folder`.
pub(super) fn draft(
    data: &[PathBuf],
    label: Option<&str>,
    syntax: Syntax,
    folder: &Path,
    quiet: bool,
) -> Result<Draft, CliError> {
    let mut files = Vec::new();
    for path in data {
        if path.to_str() == Some("-") {
            let reason = "standard input can be read only once: write the rows into a file first";
            return Err(CliError::Usage(reason.into()));
        }
        files.extend(find_files(path)?);
    }
    let Some(first) = files.first() else {
        return Err(CliError::Usage("name at least one file".into()));
    };
    let column = label.map(target::column_of);
    let layout = Layout::of(first, syntax.delimiter, syntax.header, column.as_deref())?;
    let mut bar = Bar::new(quiet);
    let profile = Profile::read(&files, &layout, &mut |done, total| {
        bar.show("reading", done, total, true);
    });
    bar.clear();
    let profile = profile?;
    let Some(label) = label else {
        return Err(CliError::Usage(target::candidates(&profile)));
    };
    let target = Target::find(label, &profile, &files)?;
    let guesses = Guesses::of(&profile, &target);
    if guesses.columns.iter().all(|guess| guess.left_out.is_some()) {
        return Err(CliError::NothingToLearn(guesses.nothing(&profile)));
    }
    guesses.warnings(&profile).iter().for_each(|warning| bar.warn(warning));
    let paths: Vec<String> = data.iter().map(|path| relative(path, folder)).collect();
    let text = text::write(&paths, &layout, &profile, &target, &guesses);
    // The reader has the last word on what was written.
    if let Err(message) = Config::parse(&text) {
        return Err(CliError::Usage(format!(
            "no configuration can be written for these files: {message}"
        )));
    }
    Ok(Draft { text, files, summary: guesses.summary() })
}

/// Returns a path as it is written in a configuration that stands in `folder`.
fn relative(path: &Path, folder: &Path) -> String {
    let is_here = folder == Path::new(".") || folder.as_os_str().is_empty();
    if path.is_absolute() || is_here {
        return path.display().to_string();
    }
    let (Ok(here), Ok(there)) = (folder.canonicalize(), std::path::absolute(path)) else {
        return path.display().to_string();
    };
    // A pattern names no file, so that only its folder can be resolved.
    let there = match (there.parent().map(Path::canonicalize), there.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => there,
    };
    let common = here.components().zip(there.components()).take_while(|(a, b)| a == b).count();
    let up = here.components().skip(common).map(|_| Path::new("..").to_owned());
    let down = there.components().skip(common).map(|part| PathBuf::from(part.as_os_str()));
    up.chain(down).collect::<PathBuf>().display().to_string()
}
