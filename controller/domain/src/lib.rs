//! Pure rules.

pub mod arm_id;
pub mod consistency;
pub mod name;
pub mod period;
pub mod policy;
pub mod policy_tag;
pub mod recovery_point;
pub mod region;
pub mod schedule;
pub mod tier;
pub mod vm_description;

pub use arm_id::{ArmId, ArmIdError, RESOURCE_GROUP_TYPE};
pub use name::{NameError, NameKind, ResourceName};
pub use region::{Region, RegionError};
