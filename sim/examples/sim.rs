//! The `sim` subcommand on its own, for whoever works on the router.

use clap::Parser;

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(flatten)]
    args: sim::cli::Args,
}

fn main() -> std::process::ExitCode {
    sim::cli::run(Cli::parse().args)
}
