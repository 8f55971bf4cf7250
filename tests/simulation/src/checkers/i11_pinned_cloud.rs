//! I11: a database never opens against another cloud, and never for two controllers at once.

use azdr_controller::app::DataDirLock;

use crate::world::World;

/// Tries to start a second controller beside the one that lives.
///
/// # Errors
/// It was let in.
pub fn another_cloud_is_refused(world: &World) -> Result<(), String> {
    match DataDirLock::take(&world.dir.path().join("controller")) {
        Err(_) => Ok(()),
        Ok(_) => Err("a second controller took the database".to_owned()),
    }
}
