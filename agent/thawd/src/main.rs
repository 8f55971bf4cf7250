//! The thaw process's executable: arguments only, see the library.

use std::path::Path;
use std::process::ExitCode;

use azdr_thawd::run;
use azdr_thawd_protocol::DEFAULT_SOCKET;

const USAGE: &str = "\
Freezes file systems for azdr-agent and thaws them whatever happens. Needs root.

Usage: azdr-thawd [--socket PATH]

  --socket PATH  Where to listen [default: /run/azdr/thawd.sock]. Must be on a file system that is
                 never frozen.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let socket = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => DEFAULT_SOCKET,
        ["--socket", path] => path,
        ["--help" | "-h", ..] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("azdr-thawd: unknown or incomplete arguments: {}\n\n{USAGE}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    if let Err(error) = run(Path::new(socket)) {
        eprintln!("azdr-thawd: cannot serve at {socket}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
