//! The binary `mangrove`.

fn main() -> std::process::ExitCode {
    homeserver::memory::give_back();
    homeserver::cmd::main()
}
