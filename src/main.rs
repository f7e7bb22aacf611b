//! Calls `cli`.

/// Gives memory back after a burst, and is quick where glibc is not: above a kilobyte (ADR 7).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    outrigger::cli::main()
}
