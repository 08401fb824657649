//! The `bagdot` program: results go to standard output, talk to standard error.
#![forbid(unsafe_code)]

mod eval;
mod generate;
mod info;
mod output;
mod predict;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::Cpu;
use crate::data::ShownLines;
use crate::train::TrainError;

/// Train, evaluate and serve deep-learning recommendation models (DLRM) on click data.
#[derive(Parser)]
#[command(name = "bagdot", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  bagdot train examples/clothing.toml              train, and keep the model in runs/clothing
  bagdot train examples/clothing.toml --resume     go on after Ctrl-C
  bagdot eval runs/clothing                        measure it on the test rows
  bagdot eval runs/clothing --data new.csv         measure it on other rows
  bagdot predict runs/clothing new.csv             print one probability for each row
  bagdot info --memory examples/clothing.toml      say what memory training will take
  bagdot generate 100000 --output clicks.tsv       write rows to try things with

Exit status: 0 if all went well, 1 for an error, 2 for wrong arguments, 130 after Ctrl-C,
128 plus its number after another signal.";

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Eval(eval::Eval),
    Predict(predict::Predict),
    Info(info::Info),
    Generate(generate::Generate),
}

/// Where to run, and how loud.
#[derive(clap::Args, Clone, Debug)]
struct Common {
    /// Worker threads; results do not depend on them [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where to run: `cpu`, `cuda` or `cuda:N`, the CUDA device with the number N
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Who multiplies matrices on a CUDA device
    #[cfg(feature = "cuda")]
    #[arg(long, value_enum, default_value_t)]
    gemm: crate::backend::cuda::Gemm,
    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// Where to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceChoice {
    Cpu,
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| "the number of a device is wanted")
            }
            _ => Err("`cpu`, `cuda` or `cuda:N` is wanted"),
        }
    }
}

impl Common {
    fn cpu(&self) -> crate::Result<Cpu> {
        self.threads.map_or_else(Cpu::new, |threads| Cpu::with_threads(threads.into()))
    }
}

/// Runs `$body` with `$device` bound to the backend that `$common` asks for: the one place where it
/// is chosen.
macro_rules! on_device {
    ($common:expr, $device:ident => $body:expr) => {
        match $common.device {
            $crate::cli::DeviceChoice::Cpu => {
                let $device = $common.cpu()?;
                // On a thread of its pool, else each op would wake one and wait for it.
                $device.clone().install(|| $body)
            }
            #[cfg(feature = "cuda")]
            $crate::cli::DeviceChoice::Cuda(number) => {
                let $device = $crate::Cuda::with_gemm(number, $common.gemm)?;
                $body
            }
            #[cfg(not(feature = "cuda"))]
            $crate::cli::DeviceChoice::Cuda(_) => Err($crate::cli::CliError::Usage(
                "this program was built without CUDA (feature `cuda`): --device cpu is all that it can do".into(),
            )),
        }
    };
}
use on_device;

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("cannot write {name}: {source}")]
    Output { name: String, source: std::io::Error },
    #[error("{0}")]
    Usage(String),
    /// The program was asked to end by a signal.
    #[error("{said}")]
    Signal { signal: u8, said: String },
}

impl From<crate::Error> for CliError {
    fn from(error: crate::Error) -> Self {
        Self::Train(error.into())
    }
}

impl From<crate::data::DataError> for CliError {
    fn from(error: crate::data::DataError) -> Self {
        Self::Train(error.into())
    }
}

type CliResult = Result<(), CliError>;

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    terminal::log_to_stderr();
    let result = match &arguments.command {
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Generate(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough, as `head` does: no error.
        Err(CliError::Output { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::say(&format!("bagdot: {error}"));
            match error {
                CliError::Signal { signal, .. } => ExitCode::from(128 + signal),
                CliError::Usage(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Prints a line on standard output.
fn print_line(line: &str) -> CliResult {
    use std::io::Write;
    let written = writeln!(std::io::stdout().lock(), "{}", ShownLines(line));
    written.map_err(|source| CliError::Output { name: "standard output".into(), source })
}
