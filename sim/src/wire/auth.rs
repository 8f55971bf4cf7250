//! Tokens: issued here, demanded by ARM.

use azdr_env::WallTime;
use http::Method;
use serde_json::json;

use super::reply::Reply;
use super::request::ArmRequest;
use super::router::Scope;
use crate::signing::{Signer, base64url};
use crate::world::{ArmError, Facts};

const AUDIENCES: [&str; 2] =
    ["https://management.azure.com", "https://management.core.windows.net"];

/// An access token for `audience`, good for `secs`.
pub(super) fn issue(
    signer: &Signer,
    facts: &Facts,
    client: &str,
    audience: &str,
    now: WallTime,
    secs: u64,
) -> String {
    let start = now.unix_ms() / 1000;
    let claims = json!({
        "aud": audience,
        "iss": format!("https://sts.windows.net/{}/", facts.tenant),
        "iat": start,
        "nbf": start,
        "exp": start + i64::try_from(secs).unwrap_or(i64::MAX / 2),
        "appid": client,
        "oid": client,
        "sub": client,
        "tid": facts.tenant,
        "idtyp": "app",
        "ver": "1.0",
    });
    let header = json!({"typ": "JWT", "alg": "HS256", "kid": "simulated"});
    let signed = format!(
        "{}.{}",
        base64url(header.to_string().as_bytes()),
        base64url(claims.to_string().as_bytes())
    );
    let signature = signer.sign(&format!("token {signed}"));
    format!("{signed}.{signature}")
}

impl Scope<'_> {
    /// ARM's demand for a token that was issued here and has not expired.
    pub(super) fn check_token(&self) -> Result<(), ArmError> {
        let unauthorised = |code: &str, message: &str| ArmError {
            gateway: true,
            ..ArmError::new(401, code, message)
        };
        if self.request.header("authorization").is_none() {
            return Err(unauthorised(
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing.",
            ));
        }
        let claims = self.request.bearer().and_then(|token| self.signer.claims(token));
        let Some(claims) = claims else {
            return Err(unauthorised("InvalidAuthenticationToken", "The access token is invalid."));
        };
        if claims["exp"].as_i64().unwrap_or(0) <= self.now.unix_ms() / 1000 {
            return Err(unauthorised(
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
            ));
        }
        let audience = claims["aud"].as_str().unwrap_or_default().trim_end_matches('/');
        if !AUDIENCES.contains(&audience) {
            return Err(unauthorised(
                "InvalidAuthenticationTokenAudience",
                &format!(
                    "The access token has been obtained for wrong audience or resource '{audience}'."
                ),
            ));
        }
        Ok(())
    }

    /// What needs no token: the token endpoint itself and discovery documents.
    pub(super) fn public(&self, lower: &[&str]) -> Option<Result<Reply, ArmError>> {
        match lower {
            [_, "oauth2", "v2.0", "token"] | [_, "oauth2", "token"]
                if self.request.method == Method::POST =>
            {
                Some(Ok(self.token()))
            }
            [tenant, "v2.0", ".well-known", "openid-configuration"]
            | [tenant, ".well-known", "openid-configuration"] => Some(Ok(self.openid(tenant))),
            ["metadata", "endpoints"] => Some(Ok(self.endpoints())),
            _ => None,
        }
    }

    fn openid(&self, tenant: &str) -> Reply {
        let base = format!("{}/{tenant}", self.request.base);
        Reply::json(
            200,
            json!({
                "issuer": format!("{base}/v2.0"),
                "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
                "token_endpoint": format!("{base}/oauth2/v2.0/token"),
                "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
                "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
                "jwks_uri": format!("{base}/discovery/v2.0/keys"),
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "tenant_region_scope": null,
            }),
        )
    }

    fn endpoints(&self) -> Reply {
        let base = &self.request.base;
        Reply::json(
            200,
            json!({
                "name": "Simulated",
                "resourceManager": base,
                "authentication": {
                    "loginEndpoint": base, "audiences": AUDIENCES, "tenant": "common",
                    "identityProvider": "AAD",
                },
                "suffixes": {"storage": "core.windows.net"},
            }),
        )
    }

    fn token(&self) -> Reply {
        let form: Vec<(String, String)> =
            url::form_urlencoded::parse(&self.request.body).into_owned().collect();
        let field = |name: &str| {
            form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
        };
        let facts = &self.world.state.facts;
        let tenant = self.request.segments.first().map(String::as_str).unwrap_or_default();
        if !tenant.eq_ignore_ascii_case(&facts.tenant) {
            return refusal(400, "invalid_request", "AADSTS90002: Tenant not found.");
        }
        if field("grant_type") != Some("client_credentials") {
            return refusal(
                400,
                "unsupported_grant_type",
                "AADSTS70003: The grant type is not supported.",
            );
        }
        let client = field("client_id").unwrap_or_default();
        let Some(secret) = facts.clients.get(client) else {
            return refusal(
                400,
                "unauthorized_client",
                "AADSTS700016: Application not found in the directory.",
            );
        };
        // An assertion is taken at its word: there is no key to check it with.
        if field("client_assertion").is_none() && field("client_secret") != Some(secret) {
            return refusal(
                401,
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided.",
            );
        }
        let scope = field("scope").or_else(|| field("resource")).unwrap_or(AUDIENCES[0]);
        let audience = scope.split(' ').next().unwrap_or_default().trim_end_matches(".default");
        let audience = audience.trim_end_matches('/');
        let secs = self.world.limits.token_secs;
        let token = issue(self.signer, facts, client, audience, self.now, secs);
        Reply::json(
            200,
            json!({
                "token_type": "Bearer", "expires_in": secs, "ext_expires_in": secs,
                "access_token": token,
            }),
        )
    }
}

fn refusal(status: u16, error: &str, description: &str) -> Reply {
    Reply::json(
        status,
        json!({"error": error, "error_description": description, "error_codes": []}),
    )
}

/// The answer of a managed identity endpoint: numbers as strings.
pub(super) fn managed_identity(
    request: &ArmRequest,
    signer: &Signer,
    facts: &Facts,
    now: WallTime,
    secs: u64,
) -> Reply {
    let Some(resource) = request.param("resource").filter(|r| !r.is_empty()) else {
        return Reply::json(
            400,
            json!({"error": "invalid_request", "error_description": "Required query variable 'resource' is missing"}),
        );
    };
    let audience = resource.trim_end_matches(".default").trim_end_matches('/');
    let client = request.param("client_id").unwrap_or(&facts.managed_identity);
    let token = issue(signer, facts, client, audience, now, secs);
    let start = now.unix_ms() / 1000;
    let end = start + i64::try_from(secs).unwrap_or(0);
    Reply::json(
        200,
        json!({
            "access_token": token,
            "client_id": client,
            "expires_in": secs.to_string(),
            "expires_on": end.to_string(),
            "ext_expires_in": secs.to_string(),
            "not_before": start.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        }),
    )
}
