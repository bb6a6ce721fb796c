//! The binary `mangrove`.

fn main() -> std::process::ExitCode {
    homeserver::cmd::main()
}
