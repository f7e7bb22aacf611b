//! Calls `cli`.

fn main() -> std::process::ExitCode {
    outrigger::cli::main()
}
