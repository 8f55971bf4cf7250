//! The context file: which controller, and who we are.
//!
//! ```toml
//! controller = "dr.example.org:7443"
//! ca = "ca.pem"
//! certificate = "client.pem"
//! key = "client.key"
//! ```
//!
//! Paths are relative to the file. `azdr-controller init` writes such a directory.

use std::path::{Path, PathBuf};

use azdr_identity::ClientIdentity;
use serde::Deserialize;

use crate::error::{CliError, Exit};

/// What a context file says. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) controller: String,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            bad(format!("cannot read the context file {}: {e}", path.display())).hint(
                "Name one with --context-file or AZDR_CONTEXT, or copy the bundle that \
                 `azdr-controller init` or `azdr operator add` wrote to ~/.config/azdr.",
            )
        })?;
        toml::from_str(&text).map_err(|e| {
            bad(format!("the context file {} is not valid: {}", path.display(), e.message()))
                .hint("It must set exactly controller (\"host:port\"), ca, certificate and key.")
        })
    }
}

/// The text of a context file.
pub(crate) fn text(controller: &str, ca: &Path, certificate: &Path, key: &Path) -> String {
    let quoted = |value: String| toml::Value::String(value).to_string();
    let path = |path: &Path| quoted(path.display().to_string());
    format!(
        "# Read by `azdr --context-file`; paths are relative to this file.\n\
         controller = {}\nca = {}\ncertificate = {}\nkey = {}\n",
        quoted(controller.to_owned()),
        path(ca),
        path(certificate),
        path(key)
    )
}

/// A controller, and the identity to show it.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) controller: String,
    pub(crate) identity: ClientIdentity,
    /// The file.
    pub(crate) path: PathBuf,
}

impl Context {
    /// Reads the given file, or that of `AZDR_CONTEXT`, or the default one.
    pub(crate) fn load(given: Option<&Path>) -> Result<Self, CliError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        let file = File::read(&path)?;
        let beside = |name: &Path| path.parent().unwrap_or(Path::new("")).join(name);
        let (key, certificate, ca) =
            (beside(&file.key), beside(&file.certificate), beside(&file.ca));
        let identity = ClientIdentity::load(&key, &certificate, &ca).map_err(|e| {
            bad(e.to_string()).hint(format!("It is named in the context file {}.", path.display()))
        })?;
        Ok(Self { controller: file.controller, identity, path })
    }
}

fn default_path() -> Result<PathBuf, CliError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("AZDR_CONTEXT") {
        return Ok(path);
    }
    // The XDG specification wants relative paths ignored.
    let xdg = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let folder = xdg.or_else(|| set("HOME").map(|home| home.join(".config"))).ok_or_else(|| {
        bad("there is no context file: neither XDG_CONFIG_HOME nor HOME is set".to_owned())
            .hint("Name one with --context-file or AZDR_CONTEXT.")
    })?;
    Ok(folder.join("azdr").join("context.toml"))
}

fn bad(message: String) -> CliError {
    CliError::new(Exit::Usage, "bad_context", message)
}
