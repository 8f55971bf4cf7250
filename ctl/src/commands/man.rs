//! `azdr man`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::error::CliError;
use crate::man_page::{self, Page};
use crate::output::{Output, rows};

/// Print the manual page of a command, or write those of all commands to a folder
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr man backup restore | man -l -\n  \
    azdr man --dir ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The command, without azdr; the page of azdr itself if not given
    command: Vec<String>,
    /// Write the pages of all commands to this folder, which is created if it does not exist
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Needs no controller.
    pub(crate) fn run(self, out: Output) -> Result<(), CliError> {
        let pages = man_page::all(crate::command())
            .map_err(|e| CliError::failed("internal", format!("cannot make the pages: {e}")))?;
        if let Some(folder) = &self.dir {
            return write(&pages, folder, out);
        }
        let command = [&["azdr".to_owned()], self.command.as_slice()].concat().join(" ");
        let page = pages.into_iter().find(|page| page.command == command).ok_or_else(|| {
            CliError::usage(format!("there is no command {command:?}")).hint("See: azdr --help")
        })?;
        let document = json!({ "name": page.name, "command": page.command, "page": page.text });
        out.result(document, |_| page.text);
        Ok(())
    }
}

fn write(pages: &[Page], folder: &Path, out: Output) -> Result<(), CliError> {
    let failed = |path: &Path, e: std::io::Error| {
        CliError::failed("io", format!("cannot write {}: {e}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|e| failed(folder, e))?;
    let mut written = Vec::new();
    for page in pages {
        let file = folder.join(format!("{}.1", page.name));
        fs::write(&file, &page.text).map_err(|e| failed(&file, e))?;
        written.push(json!({
            "name": page.name,
            "command": page.command,
            "file": file.display().to_string(),
        }));
    }
    let document = json!({ "pages": written });
    let shown = out.many(&rows::PAGES, document, |style| {
        let sentence = format!("{} pages written to {}", pages.len(), folder.display());
        style.headline(true, &sentence)
    });
    out.show(&shown);
    Ok(())
}
