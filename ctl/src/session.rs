//! A connected controller, and what every command needs besides.

use std::path::PathBuf;
use std::time::Duration;

use azdr_env::{Clock, SystemClock, WallTime};
use azdr_identity::connect_mutual;
use azdr_proto::admin::VmRef;
use azdr_proto::admin::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;

use crate::cli::Global;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Output;
use crate::quantity::minute;

/// The largest answer that is read: some ten thousand VMs or recovery points.
const ANSWER_LIMIT: usize = 64 << 20;

/// A certificate that ends so soon is to be renewed.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) struct Session {
    pub(crate) client: AdminServiceClient<Channel>,
    pub(crate) out: Output,
    pub(crate) clock: Box<dyn Clock>,
    /// host:port as in the context file.
    pub(crate) controller: String,
    pub(crate) context_file: PathBuf,
    /// When our certificate ends.
    certificate_ends: Option<WallTime>,
    resource_group: String,
}

impl Session {
    pub(crate) async fn open(global: &Global, out: Output) -> Result<Self, CliError> {
        let context = Context::load(global.context_file.as_deref())?;
        let channel = connect_mutual(&context.controller, &context.identity).await?;
        let clock = SystemClock::new();
        let certificate = context.identity.certificate(clock.wall());
        Ok(Self {
            client: AdminServiceClient::new(channel).max_decoding_message_size(ANSWER_LIMIT),
            out,
            clock: Box::new(clock),
            controller: context.controller,
            context_file: context.path,
            certificate_ends: certificate.ok().map(|c| c.not_after),
            resource_group: global.resource_group.clone(),
        })
    }

    /// Tells people in time that they will not be let in any more.
    pub(crate) fn warn_of_expiry(&self) {
        let now = self.clock.wall();
        let Some(ends) = self.certificate_ends.filter(|ends| *ends < now.plus(WARN_BEFORE)) else {
            return;
        };
        let (warning, at) = (self.out.err.warning(), minute(ends.unix_ms()));
        self.out.words(&format!(
            "{warning}: your certificate ends on {at} UTC; renew it: azdr operator renew\n"
        ));
    }

    /// The VM that a command names.
    pub(crate) fn vm(&self, name: &str) -> Option<VmRef> {
        let resource_group = self.resource_group.clone();
        Some(VmRef { name: name.to_owned(), resource_group })
    }

    /// The resource group that was given; empty: none.
    pub(crate) fn resource_group(&self) -> &str {
        &self.resource_group
    }

    /// A VM that the controller named by its ARM resource ID.
    pub(crate) fn vm_by_id(resource_id: &str) -> Option<VmRef> {
        Some(VmRef { name: resource_id.to_owned(), resource_group: String::new() })
    }
}
