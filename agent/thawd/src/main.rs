//! The thaw process's executable: arguments only, see the library.

use std::process::ExitCode;

use azdr_thawd::run;
use azdr_thawd_protocol::DEFAULT_SOCKET;

const USAGE: &str = "\
usage: azdr-thawd [--socket PATH]
PATH is where to listen, on a file system that is never frozen [default: /run/azdr/thawd.sock]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let socket = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => DEFAULT_SOCKET,
        ["--socket", path] => path,
        _ => {
            eprintln!("azdr-thawd: unknown or incomplete arguments: {}\n{USAGE}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    if let Err(error) = run(socket.as_ref()) {
        eprintln!("azdr-thawd: cannot serve at {socket}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
