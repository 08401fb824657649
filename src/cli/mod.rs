//! The `bagdot` program. Results go to standard output, messages to standard error.
#![forbid(unsafe_code)]

mod device;
mod encode;
mod error;
mod eval;
mod export;
mod generate;
mod help;
mod import;
mod info;
mod init;
mod output;
mod predict;
mod roofline;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::error::CliError;

/// Train, evaluate and serve deep-learning recommendation models (DLRM) on click data.
#[derive(Parser)]
#[command(name = "bagdot", version, arg_required_else_help = true, after_help = AFTER_HELP)]
#[command(disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  bagdot init clicks.csv --label clicked           write a configuration for a file
  bagdot train clicks.csv --label clicked          train with that configuration
  bagdot train examples/clothing.toml              train, and keep the model in runs/clothing
  bagdot train examples/clothing.toml --resume     go on after Ctrl-C
  bagdot train new.toml --from runs/clothing       go on from this model with new rows
  bagdot eval runs/clothing                        measure it on the test rows
  bagdot eval runs/clothing new.csv                measure it on other rows
  bagdot predict runs/clothing new.csv             print one probability for each row
  bagdot export runs/clothing --format onnx --output clothing.onnx
                                                   write it for onnxruntime and others
  bagdot encode runs/clothing new.csv --output rows.safetensors
                                                   write rows as the inputs of clothing.onnx
  bagdot info --memory examples/clothing.toml      print the memory that training needs
  bagdot info --roofline mlperf                    print what a step costs a GPU at least
  bagdot generate 100000 --output clicks.tsv       write synthetic rows
  bagdot help config                               list every key of a configuration
  bagdot help config data.dense.missing            explain one key
  bagdot help numbers                              explain the numbers that are printed

Exit status: 0 for success, 1 for an error, 2 for wrong arguments, 130 after Ctrl-C,
128 plus its number after another signal.";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Train(train::Train),
    Eval(eval::Eval),
    Predict(predict::Predict),
    Export(export::Export),
    Import(import::Import),
    Encode(encode::Encode),
    Info(info::Info),
    Generate(generate::Generate),
    Help(help::Help),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    terminal::log_to_stderr();
    let result = match &arguments.command {
        Command::Init(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Encode(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Help(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has closed it, as `head` does: this is no error.
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
