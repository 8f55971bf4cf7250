//! The api-versions that each resource type accepts.

use super::request::ArmRequest;
use crate::world::ArmError;

const DISKS: &[&str] = &[
    "2020-12-01",
    "2021-04-01",
    "2021-08-01",
    "2021-12-01",
    "2022-03-02",
    "2022-07-02",
    "2023-01-02",
    "2023-04-02",
    "2023-10-02",
    "2024-03-02",
    "2025-01-02",
    "2026-03-02",
];

const MACHINES: &[&str] = &[
    "2020-12-01",
    "2021-03-01",
    "2021-04-01",
    "2021-07-01",
    "2021-11-01",
    "2022-03-01",
    "2022-08-01",
    "2022-11-01",
    "2023-03-01",
    "2023-07-01",
    "2023-09-01",
    "2024-03-01",
    "2024-07-01",
    "2024-11-01",
    "2025-04-01",
    "2025-11-01",
    "2026-04-01",
];

const NETWORKS: &[&str] = &[
    "2020-11-01",
    "2021-02-01",
    "2021-05-01",
    "2021-08-01",
    "2022-01-01",
    "2022-05-01",
    "2022-07-01",
    "2022-11-01",
    "2023-02-01",
    "2023-04-01",
    "2023-05-01",
    "2023-06-01",
    "2023-09-01",
    "2023-11-01",
    "2024-01-01",
    "2024-03-01",
    "2024-05-01",
    "2024-07-01",
    "2024-10-01",
    "2025-01-01",
    "2025-03-01",
    "2025-05-01",
];

const RESOURCES: &[&str] = &[
    "2016-06-01",
    "2018-05-01",
    "2018-06-01",
    "2019-06-01",
    "2019-10-01",
    "2019-11-01",
    "2020-01-01",
    "2020-06-01",
    "2020-10-01",
    "2021-01-01",
    "2021-04-01",
    "2022-09-01",
    "2022-12-01",
    "2023-07-01",
    "2024-03-01",
    "2024-07-01",
    "2024-11-01",
    "2025-04-01",
];

const LOCKS: &[&str] = &["2016-09-01", "2017-04-01", "2020-05-01"];

/// The versions of a type, named by provider and first type segment, both in lower case.
pub(super) fn accepted(namespace: &str, collection: &str) -> Option<&'static [&'static str]> {
    Some(match (namespace, collection) {
        ("microsoft.compute", "disks" | "snapshots" | "diskoperations") => DISKS,
        ("microsoft.compute", "virtualmachines" | "operations") => MACHINES,
        (
            "microsoft.network",
            "networkinterfaces"
            | "virtualnetworks"
            | "networksecuritygroups"
            | "publicipaddresses"
            | "operations"
            | "operationresults",
        ) => NETWORKS,
        ("microsoft.resources", _) => RESOURCES,
        ("microsoft.authorization", "locks") => LOCKS,
        _ => return None,
    })
}

/// The request's api-version, if the type accepts it.
pub(super) fn check<'r>(
    request: &'r ArmRequest,
    namespace: &str,
    collection: &str,
) -> Result<&'r str, ArmError> {
    let Some(version) = request.param("api-version").filter(|v| !v.is_empty()) else {
        return Err(gateway(ArmError::bad_request(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )));
    };
    let shape = version.trim_end_matches("-preview");
    if shape.len() != 10 || !shape.chars().all(|c| c.is_ascii_digit() || c == '-') {
        return Err(gateway(ArmError::bad_request(
            "InvalidApiVersionParameter",
            format!("The api-version '{version}' is invalid."),
        )));
    }
    let Some(accepted) = accepted(namespace, collection) else {
        return Err(gateway(ArmError::new(
            404,
            "InvalidResourceType",
            format!(
                "The resource type '{collection}' could not be found in the namespace '{namespace}' \
                 for api version '{version}'."
            ),
        )));
    };
    if accepted.contains(&version) {
        return Ok(version);
    }
    Err(gateway(ArmError::bad_request(
        "NoRegisteredProviderFound",
        format!(
            "No registered resource provider found for API version '{version}' for type \
             '{collection}'. The supported api-versions are '{}'.",
            accepted.join(", ")
        ),
    )))
}

fn gateway(error: ArmError) -> ArmError {
    ArmError { gateway: true, ..error }
}
