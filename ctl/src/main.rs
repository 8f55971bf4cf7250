//! The `azdr` binary; everything is in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    azdr_ctl::main(std::env::args_os().collect())
}
