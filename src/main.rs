//! The `corelane` program: parses the command line and hands over.

fn main() -> std::process::ExitCode {
    corelane::cli::run().into()
}
