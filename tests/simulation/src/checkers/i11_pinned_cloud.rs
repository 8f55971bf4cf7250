//! I11: a database never opens against another cloud, and never for two controllers at once.

use azdr_controller::app::{DataDirLock, claim_database};
use azdr_controller::store::{Executor, Stamp, Store};

use crate::life::stamp;
use crate::world::World;

/// Tries to start a second controller beside the one that lives.
///
/// # Errors
/// It was let in.
pub fn another_controller_is_refused(world: &World) -> Result<(), String> {
    match DataDirLock::take(&world.dir.path().join("controller")) {
        Err(_) => Ok(()),
        Ok(_) => Err("a second controller took the database".to_owned()),
    }
}

/// While no controller lives: tries to open its database for every other kind of cloud.
///
/// # Errors
/// It opened.
pub async fn another_cloud_is_refused(world: &World) -> Result<(), String> {
    let own = stamp();
    let others = [
        // The same names in Azure itself.
        Stamp { cloud: "AzureCloud".into(), ..own.clone() },
        Stamp { tenant_id: "00000000-0000-0000-0000-0000000000bb".into(), ..own.clone() },
        Stamp { subscriptions: vec!["00000000-0000-0000-0000-000000000002".into()], ..own.clone() },
        Stamp { subscriptions: Vec::new(), ..own.clone() },
        Stamp {
            subscriptions: [own.subscriptions.clone(), vec![own.tenant_id.clone()]].concat(),
            ..own.clone()
        },
    ];
    for other in others {
        let store = Store::open(&world.database, Executor::Inline).map_err(|e| e.to_string())?;
        // An empty database would refuse everybody.
        if store.read_stamp().await.map_err(|e| e.to_string())?.is_none() {
            return Err("the database that was tried is not the controller's".to_owned());
        }
        let words = format!("the database of {own:?} opened for {other:?}");
        if claim_database(store, &other).await.is_ok() {
            return Err(words);
        }
    }
    Ok(())
}
