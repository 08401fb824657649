//! `bagdot help`

use clap::CommandFactory;

use super::Arguments;
use super::error::{CliError, CliResult};
use super::terminal::print_line;
use crate::train::Config;

/// The explanation of the numbers that training and evaluation print.
const NUMBERS: &str = include_str!("../../docs/numbers.md");

/// Print help on a command; on `config`, the keys of configuration files; on `numbers`, what
/// training and evaluation print.
#[derive(clap::Args, Debug)]
pub(super) struct Help {
    /// A command, `config` or `numbers`
    topic: Option<String>,
    /// After `config`, a key such as `data.dense.missing`, or the end of its path
    key: Option<String>,
    /// After `config`, print the JSON schema of configuration files, for editors
    #[arg(long, conflicts_with = "key")]
    schema: bool,
}

impl Help {
    pub(super) fn run(&self) -> CliResult {
        match (self.topic.as_deref(), self.key.as_deref()) {
            (Some("config"), None) if self.schema => print_line(Config::schema().trim_end()),
            (Some("config"), key) => {
                let text = Config::reference(key).map_err(CliError::Usage)?;
                print_line(text.trim_end())
            }
            (Some(_) | None, _) if self.schema => {
                Err(CliError::Usage("--schema stands after `config`".into()))
            }
            (Some(topic), Some(key)) => {
                Err(CliError::Usage(format!("help on {topic} takes no key, but there is {key:?}")))
            }
            (Some("numbers"), None) => print_line(NUMBERS.trim_end()),
            (topic, None) => print_command(topic),
            (None, Some(_)) => Ok(()),
        }
    }
}

/// Prints the help of a command; without one, that of the program.
fn print_command(name: Option<&str>) -> CliResult {
    let mut program = Arguments::command();
    program.build();
    let command = match name {
        None => Some(&mut program),
        Some(name) => program.find_subcommand_mut(name),
    };
    let unknown = || {
        let name = name.unwrap_or_default();
        CliError::Usage(format!(
            "there is no help on {name:?}: name a command, `config` or `numbers`"
        ))
    };
    print_line(command.ok_or_else(unknown)?.render_long_help().to_string().trim_end())
}
