//! The `bagdot` program.

fn main() -> std::process::ExitCode {
    bagdot::cli::main()
}
