//! The `graphloom` command.

fn main() -> std::process::ExitCode {
    graphloom::cli::main()
}
