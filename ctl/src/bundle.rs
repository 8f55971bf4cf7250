//! Writes what an operator holds: a folder as `azdr-controller init` makes one, with a private key.
//!
//! A folder appears whole or not at all. A renewal writes new files beside the old ones and then turns
//! the context file over to them at once: killed anywhere, either the old pair or the new one is named
//! there, never half of each.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use azdr_identity::ClientIdentity;

use crate::context;
use crate::error::CliError;

/// The content of the folder.
pub(crate) struct Bundle {
    /// host:port.
    pub(crate) controller: String,
    pub(crate) ca_pem: String,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// A folder that is being made under another name; removed again unless it is finished.
pub(crate) struct Draft {
    folder: PathBuf,
    draft: PathBuf,
    finished: bool,
}

impl Draft {
    /// # Errors
    /// When there is something of this name already: it may hold somebody's only key.
    pub(crate) fn begin(folder: &Path) -> Result<Self, CliError> {
        if folder.symlink_metadata().is_ok() {
            let message = format!("{} exists already", folder.display());
            return Err(CliError::usage(message).hint("Name another folder with --bundle."));
        }
        let name = folder.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            CliError::usage(format!("{} is no name for a folder", folder.display()))
        })?;
        let draft = folder.with_file_name(format!(".{name}.azdr-draft"));
        // Left by one that was killed: nobody can use what is in it.
        let remade = match fs::remove_dir_all(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => DirBuilder::new().mode(0o700).create(&draft),
        };
        remade.map_err(|e| cannot_write(&draft, &e))?;
        Ok(Self { folder: folder.to_owned(), draft, finished: false })
    }

    pub(crate) fn finish(mut self, bundle: &Bundle) -> Result<(), CliError> {
        let written = self.write(bundle);
        written.map_err(|e| {
            cannot_write(&self.folder, &e).hint(
                "The operator is let in already; make the certificate anew with --replace when this \
                 is mended.",
            )
        })?;
        self.finished = true;
        Ok(())
    }

    fn write(&self, bundle: &Bundle) -> io::Result<()> {
        let file = |name: &str| self.draft.join(name);
        write_private(&file("ca.pem"), &bundle.ca_pem)?;
        write_private(&file("client.pem"), &bundle.certificate_pem)?;
        write_private(&file("client.key"), &bundle.key_pem)?;
        let context = context::text(
            &bundle.controller,
            Path::new("ca.pem"),
            Path::new("client.pem"),
            Path::new("client.key"),
        );
        write_private(&file("context.toml"), &context)?;
        File::open(&self.draft)?.sync_all()?;
        fs::rename(&self.draft, &self.folder)?;
        sync_folder_of(&self.folder)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // Being left behind does no harm, but for the mess.
            let _mess = fs::remove_dir_all(&self.draft);
        }
    }
}

/// Puts a new key and certificate into the place of those that a context file names.
pub(crate) fn replace(
    context_file: &Path,
    key_pem: &str,
    certificate_pem: &str,
    identity: &ClientIdentity,
) -> Result<(), CliError> {
    let old = context::File::read(context_file)?;
    let serial: String = identity
        .chain_der
        .first()
        .map(|der| azdr_identity::fingerprint(der))
        .unwrap_or_default()
        .chars()
        .take(8)
        .collect();
    let named = |extension: &str| PathBuf::from(format!("client-{serial}.{extension}"));
    let beside = |name: &Path| context_file.with_file_name(name);
    let (certificate, key) = (named("pem"), named("key"));
    let turn_over = || -> io::Result<()> {
        write_private(&beside(&certificate), certificate_pem)?;
        write_private(&beside(&key), key_pem)?;
        let draft = context_file.with_extension("toml.azdr-draft");
        match fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        write_private(&draft, &context::text(&old.controller, &old.ca, &certificate, &key))?;
        fs::rename(&draft, context_file)?;
        sync_folder_of(context_file)
    };
    turn_over().map_err(|e| cannot_write(context_file, &e))?;
    for name in [&old.certificate, &old.key] {
        // Nobody is let in with them any more, so that they stay there does no harm.
        let folder = context_file.parent().unwrap_or(Path::new(""));
        let _old = fs::remove_file(folder.join(name));
    }
    Ok(())
}

/// A new file that nobody else can read, on disk when this returns.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::failed("io", format!("cannot write {}: {error}", path.display()))
}
