//! One case per workflow: how the world is prepared, and what is run.

use std::sync::OnceLock;
use std::time::Duration;

use azdr_controller::store::{Item, NewRun};
use azdr_controller::workflows::{
    self, backup, dr_test, prune, replicate, restore_in_place, restore_new_vm, verify,
};
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::PointName;

use crate::cloud::SUBSCRIPTION;
use crate::life::{Bench, Life, Prepared, db};

/// A workflow's case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Backup,
    Replicate,
    Verify,
    RestoreInPlace,
    RestoreNewVm,
    DrTest,
    Prune,
}

impl Case {
    pub(crate) const ALL: [Self; 7] = [
        Self::Backup,
        Self::Replicate,
        Self::Verify,
        Self::RestoreInPlace,
        Self::RestoreNewVm,
        Self::DrTest,
        Self::Prune,
    ];

    pub(crate) fn workflow(self) -> &'static str {
        match self {
            Self::Backup => backup::RUN.0,
            Self::Replicate => replicate::RUN.0,
            Self::Verify => verify::RUN.0,
            Self::RestoreInPlace => restore_in_place::RUN.0,
            Self::RestoreNewVm => restore_new_vm::RUN.0,
            Self::DrTest => dr_test::RUN.0,
            Self::Prune => prune::RUN.0,
        }
    }

    /// The world that the workflow needs, at rest, and the run; made once.
    pub(crate) fn prepared(self) -> &'static (Prepared, NewRun) {
        static WORLDS: [OnceLock<(Prepared, NewRun)>; Case::ALL.len()] =
            [const { OnceLock::new() }; Case::ALL.len()];
        let place = Self::ALL.iter().position(|c| *c == self).unwrap();
        WORLDS[place].get_or_init(|| {
            // On a clock of its own.
            let make = async move {
                let bench = Bench::new();
                let life = bench.life().await;
                let run = self.prepare(&bench, &life).await;
                (bench.keep(life).await, run)
            };
            let thread = std::thread::spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_time().start_paused(true).build().unwrap().block_on(make)
            });
            thread.join().unwrap()
        })
    }

    /// Makes the world that the workflow needs, and the run.
    async fn prepare(self, bench: &Bench, life: &Life) -> NewRun {
        let item = bench.protect(life, PolicyChange::default()).await;
        match self {
            Self::Backup => back_up(&item),
            Self::Replicate => {
                let point = take(life, &item).await;
                let input =
                    replicate::Input { item: item.id, vm: db(), point, region: "westus2".into() };
                workflows::new_run(replicate::RUN, &input, item.id, "test")
            }
            Self::Verify => {
                let point = take(life, &item).await;
                let input =
                    verify::Input { item: item.id, vm: db(), point, region: "eastus".into() };
                workflows::new_run(verify::RUN, &input, item.id, "test")
            }
            Self::RestoreInPlace => {
                let point = take(life, &item).await;
                let declared = bench.env.clock.wall();
                let input = restore_in_place::Input { item: item.id, vm: db(), point, declared };
                workflows::new_run(restore_in_place::RUN, &input, item.id, "test")
            }
            Self::RestoreNewVm => {
                let point = take(life, &item).await;
                let new_vm = ArmId::virtual_machine(SUBSCRIPTION, "prod", "db-restored").unwrap();
                let declared = bench.env.clock.wall();
                let input =
                    restore_new_vm::Input { item: item.id, vm: db(), point, new_vm, declared };
                workflows::new_run(restore_new_vm::RUN, &input, item.id, "test")
            }
            Self::DrTest => {
                let point = take(life, &item).await;
                let input = dr_test::Input {
                    item: item.id,
                    vm: db(),
                    point,
                    region: "eastus".into(),
                    resource_group: None,
                    declared: bench.env.clock.wall(),
                };
                workflows::new_run(dr_test::RUN, &input, item.id, "test")
            }
            Self::Prune => {
                for _ in 0..3 {
                    take(life, &item).await;
                    // A jump: nothing in between is of interest.
                    tokio::time::advance(Duration::from_secs(86_400)).await;
                }
                // The policy now wants one of the three.
                let change = PolicyChange { daily: Some(1), ..PolicyChange::default() };
                bench.protect(life, change).await;
                let input = prune::Input { item: item.id, vm: db() };
                workflows::new_run(prune::RUN, &input, item.id, "test")
            }
        }
    }
}

pub(crate) fn back_up(item: &Item) -> NewRun {
    let input = backup::Input { item: item.id, vm: db(), tier: None };
    workflows::new_run(backup::RUN, &input, item.id, "test")
}

/// Takes a recovery point and lets what follows from it end.
pub(crate) async fn take(life: &Life, item: &Item) -> PointName {
    let id = life.engine.submit(back_up(item)).await.unwrap();
    let row = life.ended(id).await;
    let point = row.result.unwrap_or_else(|| panic!("the backup failed: {:?}", row.error));
    life.settle().await;
    serde_json::from_value(point["backup"]["point"].clone()).unwrap()
}
