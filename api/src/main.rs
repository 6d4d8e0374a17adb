//! The program `ektola`: everything it can do is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything can open a TLS connection: with two providers in reach, rustls refuses to choose by itself.
    // It fails only if a provider is installed already, and nothing has run before this line.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    api::cli::main()
}
