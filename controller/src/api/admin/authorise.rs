//! Who is asking, and may they?

use azdr_identity::{Identity, PeerInfo};
use tonic::{Code, Request, Status};

#[cfg(test)]
mod tests;

use super::Admin;
use super::errors::{hinted, unavailable};
use crate::store::OperatorRow;

/// What an operator may do; each includes the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    /// Look.
    Viewer,
    /// Back up, restore, drill.
    Operator,
    /// Revoke, abandon.
    Admin,
}

impl Role {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "viewer" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    /// The role of an operator; `None` for one that this program does not know.
    pub(super) fn of(operator: &OperatorRow) -> Option<Self> {
        Self::parse(&operator.role)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Admin {
    /// The operator behind a request, if their role is enough.
    pub(super) async fn authorise<T>(
        &self,
        request: &Request<T>,
        needed: Role,
    ) -> Result<OperatorRow, Status> {
        let peer = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(|info| info.peer.clone())
            .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
        let name = match &peer.identity {
            Identity::Operator { name } => name.clone(),
            other => {
                return Err(hinted(
                    Code::PermissionDenied,
                    format!("{other} is not an operator's certificate"),
                    "the admin API takes operators' certificates only, as `azdr-controller init` \
                     writes one",
                ));
            }
        };
        let denied = |why: String| hinted(Code::PermissionDenied, why, "ask an admin");
        let operator = self.store.operator(&name).await.map_err(unavailable)?;
        let operator =
            operator.ok_or_else(|| denied(format!("there is no operator {name} here")))?;
        if operator.revoked || operator.certificate_serial != peer.serial {
            return Err(denied(format!(
                "this certificate of operator {name} is not valid any more"
            )));
        }
        if peer.not_after < self.env.clock.wall() {
            return Err(denied(format!("the certificate of operator {name} has expired")));
        }
        match Role::parse(&operator.role) {
            Some(role) if role >= needed => Ok(operator),
            _ => Err(denied(format!(
                "operator {name} is {}; this needs role {}",
                operator.role,
                needed.as_str()
            ))),
        }
    }
}
