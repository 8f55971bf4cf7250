//! The thaw process's executable: arguments only, see the library.

use std::process::ExitCode;

use azdr_thawd::{DEFAULT_SOCKET, Setup, run};

const USAGE: &str = "\
Freezes file systems for azdr-agent and thaws them whatever happens. Needs root.

Usage: azdr-thawd [--socket PATH]

  --socket PATH  Where to listen [default: /run/azdr/thawd.sock]. Must be on a file system that is
                 never frozen.
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut setup = Setup { socket: DEFAULT_SOCKET.to_owned() };
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next()) {
            ("--socket", Some(path)) => setup.socket = path,
            ("--help" | "-h", _) => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprint!("azdr-thawd: unknown or incomplete argument `{arg}`\n\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    match run(&setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("azdr-thawd: cannot serve at {}: {error}", setup.socket);
            ExitCode::FAILURE
        }
    }
}
