//! Who is asking, and may they?

use azdr_identity::{Identity, PeerInfo};
use tonic::{Code, Request, Status};

#[cfg(test)]
mod tests;

use super::Admin;
use super::errors::{hinted, unavailable};
use crate::store::{OperatorCertificateRow, OperatorRow};

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
    pub(super) fn parse(text: &str) -> Option<Self> {
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

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Admin {
    /// Refuses one who was revoked since their call began.
    pub(super) async fn still_in(&self, name: &str) -> Result<(), Status> {
        let operator = self.store.operator(name).await.map_err(unavailable)?;
        match operator {
            Some(operator) if operator.revoked.is_none() => Ok(()),
            _ => Err(hinted(
                Code::PermissionDenied,
                format!("operator {name} is not let in any more"),
                "ask an admin",
            )),
        }
    }

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
        let now = self.env.clock.wall();
        if !is_theirs(&operator, &peer.serial) {
            return Err(denied(format!(
                "this certificate of operator {name} is not valid any more"
            )));
        }
        if peer.not_after < now {
            return Err(denied(format!("the certificate of operator {name} has expired")));
        }
        if operator.expires.is_none() || operator.certificate_serial != peer.serial {
            let shown = OperatorCertificateRow { serial: peer.serial, not_after: peer.not_after };
            self.store.operator_showed(name.clone(), shown, now).await.map_err(unavailable)?;
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

/// Whether a certificate is one with which the operator may call now.
fn is_theirs(operator: &OperatorRow, serial: &str) -> bool {
    operator.revoked.is_none()
        && (operator.certificate_serial == serial
            || operator.pending_serial.as_deref() == Some(serial))
}
