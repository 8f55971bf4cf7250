//! Operators: who may call, and as what. The key is made where it is used; only its signing request
//! comes here.

use std::time::Duration;

use azdr_identity::{Identity, Serial};
use azdr_proto::admin as api;
use tonic::{Code, Status};

use super::Admin;
use super::authorise::Role;
use super::errors::{hinted, unavailable};
use crate::pki::bundle::OPERATOR_LIFETIME;
use crate::store::{OperatorCertificateRow, OperatorRow, StoreError};

/// Clocks of clients may be behind by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Names that stand for something else where a job says who asked for it.
const RESERVED: [&str; 3] = ["schedule", "job", "azdr"];

impl Admin {
    pub(super) async fn add_an_operator(
        &self,
        by: String,
        request: api::AddOperatorRequest,
    ) -> Result<api::OperatorCertificate, Status> {
        let api::AddOperatorRequest { name, csr_der, valid_days, replace, .. } = request;
        let role = Role::parse(&request.role).ok_or_else(|| {
            Status::invalid_argument(format!(
                "role cannot be {:?}: viewer, operator or admin",
                request.role
            ))
        })?;
        if RESERVED.iter().any(|word| name.eq_ignore_ascii_case(word)) {
            return Err(Status::invalid_argument(format!(
                "name cannot be {name:?}: jobs say so of themselves"
            )));
        }
        if name == by {
            return Err(hinted(
                Code::InvalidArgument,
                format!("name cannot be {name:?}: that is you"),
                "renew your own certificate with `azdr operator renew`",
            ));
        }
        let (row, answer) = self.certify(&name, &csr_der, valid_days)?;
        let now = self.env.clock.wall();
        let added = self.store.add_operator(name.clone(), role.as_str(), row, replace, by, now);
        added.await.map_err(|e| match e {
            StoreError::Refused(why) if why.ends_with("already") => hinted(
                Code::AlreadyExists,
                why,
                "--replace gives them a new certificate and role, and ends the old certificate",
            ),
            other => unavailable(other),
        })?;
        self.certified(&name, answer).await
    }

    pub(super) async fn all_operators(&self) -> Result<api::ListOperatorsResponse, Status> {
        let operators = self.store.operators().await.map_err(unavailable)?;
        Ok(api::ListOperatorsResponse { operators: operators.iter().map(shown).collect() })
    }

    pub(super) async fn revoke_an_operator(
        &self,
        by: String,
        request: api::RevokeOperatorRequest,
    ) -> Result<api::Operator, Status> {
        let now = self.env.clock.wall();
        self.store.revoke_operator(request.name.clone(), by, now).await.map_err(unavailable)?;
        self.one_operator(&request.name).await
    }

    pub(super) async fn renew_myself(
        &self,
        me: OperatorRow,
        request: api::RenewOperatorRequest,
    ) -> Result<api::OperatorCertificate, Status> {
        let (row, answer) = self.certify(&me.name, &request.csr_der, 0)?;
        let now = self.env.clock.wall();
        self.store.renew_operator(me.name.clone(), row, now).await.map_err(unavailable)?;
        self.certified(&me.name, answer).await
    }

    fn certify(
        &self,
        name: &str,
        csr_der: &[u8],
        valid_days: u32,
    ) -> Result<(OperatorCertificateRow, api::OperatorCertificate), Status> {
        let most = (OPERATOR_LIFETIME.as_secs() / DAY.as_secs()) as u32;
        let lifetime = match valid_days {
            0 => OPERATOR_LIFETIME,
            days if days <= most => DAY * days,
            days => {
                return Err(Status::invalid_argument(format!(
                    "valid_days cannot be {days}: 1 to {most}"
                )));
            }
        };
        let identity =
            Identity::operator(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let now = self.env.clock.wall();
        let issued = self
            .authority
            .issue_from_csr(
                csr_der,
                &identity,
                now.minus(CLOCK_SKEW),
                now.plus(lifetime),
                Serial::random(&*self.env.ids),
            )
            .map_err(|e| Status::invalid_argument(format!("csr_der cannot be used: {e}")))?;
        let answer = api::OperatorCertificate {
            operator: None,
            certificate_pem: issued.cert_pem(),
            ca_pem: self.authority.cert_pem(),
        };
        let row = OperatorCertificateRow { serial: issued.serial_hex, not_after: issued.not_after };
        Ok((row, answer))
    }

    async fn certified(
        &self,
        name: &str,
        answer: api::OperatorCertificate,
    ) -> Result<api::OperatorCertificate, Status> {
        let operator = Some(self.one_operator(name).await?);
        Ok(api::OperatorCertificate { operator, ..answer })
    }

    async fn one_operator(&self, name: &str) -> Result<api::Operator, Status> {
        let row = self.store.operator(name).await.map_err(unavailable)?;
        row.as_ref()
            .map(shown)
            .ok_or_else(|| Status::not_found(format!("there is no operator {name}")))
    }
}

fn shown(row: &OperatorRow) -> api::Operator {
    let (revoked_unix_ms, revoked_by) = match &row.revoked {
        Some((at, by)) => (at.unix_ms(), by.clone()),
        None => (0, String::new()),
    };
    api::Operator {
        name: row.name.clone(),
        role: row.role.clone(),
        added_unix_ms: row.added.0.unix_ms(),
        added_by: row.added.1.clone().unwrap_or_default(),
        certificate_expires_unix_ms: row.expires.map_or(0, |at| at.unix_ms()),
        renewal_pending: row.pending_serial.is_some(),
        revoked_unix_ms,
        revoked_by,
    }
}
