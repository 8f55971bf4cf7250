//! azdr's gRPC interfaces: generated code only. The manual is in `proto/*.proto`.

#![allow(missing_docs, reason = "the proto files' comments are the documentation")]
#![allow(unused_qualifications, reason = "generated code")]

/// What operators call: `azdr.admin.v1`.
pub mod admin {
    tonic::include_proto!("azdr.admin.v1");
}

/// What agents call: `azdr.agent.v1`.
pub mod agent {
    tonic::include_proto!("azdr.agent.v1");
}

/// How an agent gets its first certificate: `azdr.enroll.v1`.
pub mod enroll {
    tonic::include_proto!("azdr.enroll.v1");
}
