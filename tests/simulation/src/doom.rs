//! Where a controller dies: at the nth request or the nth commit from now, before or after it.
//!
//! Nothing that has met its doom goes on: whoever waits for the request or the commit waits until the
//! whole life is dropped. A request that was carried out has happened, and so has a commit.

use std::sync::{Arc, Mutex};

use azdr_controller::store::{StoreError, WriteGate};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::kinds::Kind;

/// A moment at which a process can die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A request is about to leave.
    BeforeRequest,
    /// Azure has carried it out.
    AfterRequest,
    /// A transaction is about to be written.
    BeforeCommit,
    /// It is committed, and nobody knows yet.
    AfterCommit,
}

impl Moment {
    /// All of them, with what a death there counts as.
    pub const ALL: [(Self, Kind); 4] = [
        (Self::BeforeRequest, Kind::CrashBeforeRequest),
        (Self::AfterRequest, Kind::CrashAfterRequest),
        (Self::BeforeCommit, Kind::CrashBeforeCommit),
        (Self::AfterCommit, Kind::CrashAfterCommit),
    ];
}

/// One life's doom.
pub struct Doom {
    /// The moment, and how many of its kind pass before.
    armed: Mutex<Option<(Moment, u64)>>,
    struck: watch::Sender<bool>,
}

impl Doom {
    /// None so far.
    pub fn none_yet() -> Arc<Self> {
        Arc::new(Self { armed: Mutex::new(None), struck: watch::channel(false).0 })
    }

    /// Lets `passing` of these moments pass, and strikes at the next.
    pub fn arm(&self, moment: Moment, passing: u64) {
        *self.armed.lock().expect("only counted down") = Some((moment, passing));
    }

    /// Resolves when it has struck.
    pub async fn struck(&self) {
        // The sender is here: it cannot be gone.
        let _ = self.struck.subscribe().wait_for(|struck| *struck).await;
    }

    /// Such a moment comes: it passes, or it is the last one.
    pub async fn pass(&self, moment: Moment) {
        {
            let mut armed = self.armed.lock().expect("only counted down");
            match &mut *armed {
                Some((at, 0)) if *at == moment => {
                    self.struck.send_replace(true);
                }
                Some((at, passing)) if *at == moment => *passing -= 1,
                _ => {}
            }
        }
        if *self.struck.borrow() {
            std::future::pending().await
        }
    }
}

/// The store's side of it.
pub struct Gate(pub Arc<Doom>);

impl WriteGate for Gate {
    fn before(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.0.pass(Moment::BeforeCommit).await;
            Ok(())
        })
    }

    fn after(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.0.pass(Moment::AfterCommit).await;
            Ok(())
        })
    }
}
