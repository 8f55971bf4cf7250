//! `azdr operator add`

use std::path::PathBuf;

use azdr_identity::generate_key_and_csr;
use azdr_proto::admin::AddOperatorRequest;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::bundle::{self, Bundle};
use crate::error::CliError;
use crate::json;
use crate::quantity::minute;
use crate::session::Session;

/// Let an operator in: make a key and a certificate, and write them to a new folder
///
/// The key is made here, and nobody else has it: hand over the whole folder in a safe way, and keep no
/// copy. Whoever has it is that operator, with --context-file FOLDER/context.toml, or when it is
/// ~/.config/azdr. A viewer sees everything and changes nothing; an operator also backs up, restores and
/// configures; an admin also lets others in, and decides what cannot be undone.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr operator add bob --role operator --bundle ./bob")]
pub(crate) struct Add {
    /// Name of the operator: letters, digits and . _ - @
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What the operator may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// The new folder, for the key, the certificate and the context file; the operator's name if not given
    #[arg(long, value_name = "FOLDER")]
    bundle: Option<PathBuf>,
    /// For how many days the certificate is valid, 1 to 730
    #[arg(long, value_name = "DAYS", default_value_t = 365, allow_negative_numbers = true, value_parser = crate::whole::whole::<1, 730>)]
    valid_days: u32,
    /// Give an existing operator a new certificate and this role; the old certificate ends at once
    #[arg(long)]
    replace: bool,
}

/// What an operator may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum RoleName {
    Viewer,
    Operator,
    Admin,
}

impl RoleName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Add {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let folder = self.bundle.unwrap_or_else(|| PathBuf::from(&self.name));
        // All that can go wrong here goes wrong before anybody is let in.
        let draft = bundle::Draft::begin(&folder)?;
        let (key_pem, csr_der) = generate_key_and_csr(&self.name)
            .map_err(|e| CliError::failed("io", format!("cannot make a key: {e}")))?;
        let request = AddOperatorRequest {
            name: self.name.clone(),
            role: self.role.as_str().to_owned(),
            csr_der,
            valid_days: self.valid_days,
            replace: self.replace,
        };
        let answer = s.client.add_operator(request).await?.into_inner();
        draft.finish(&Bundle {
            controller: s.controller.clone(),
            ca_pem: answer.ca_pem.clone(),
            certificate_pem: answer.certificate_pem.clone(),
            key_pem,
        })?;
        let operator = answer.operator.unwrap_or_default();
        s.out.result(json::operator_added(&operator, &folder), |style| {
            let sentence = format!("Operator {} may call, as {}", operator.name, operator.role);
            format!(
                "{}\n  Folder: {}\n  Valid until: {} UTC\n\nIt holds a private key: hand it over by a \
                 safe way, and keep no copy.\n",
                style.headline(true, &sentence),
                folder.display(),
                minute(operator.certificate_expires_unix_ms),
            )
        });
        Ok(())
    }
}
