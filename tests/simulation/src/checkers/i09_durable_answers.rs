//! I9: what the API acknowledged survives every crash.

use azdr_controller::store::RunId;

use crate::life::Life;

/// Looks for every promised job in a new life.
///
/// # Errors
/// Which one is missing.
pub async fn promises_are_kept(life: &Life, promised: &[RunId]) -> Result<(), String> {
    for id in promised {
        match life.store.run(*id).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("job {id} was acknowledged and is not there")),
            Err(e) => return Err(format!("job {id} cannot be read: {e}")),
        }
    }
    Ok(())
}
