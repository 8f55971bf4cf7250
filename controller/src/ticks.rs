//! A bell that many tasks listen to: "something has changed, look again".
//!
//! As a `tokio::sync::watch` of a counter, but listeners wake in the order in which they began to
//! listen; a watch wakes them in random order, and a simulation must repeat itself exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The bell. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ticks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    rung: Notify,
}

/// One listener.
#[derive(Debug)]
pub struct Listener {
    ticks: Ticks,
    seen: u64,
}

impl Ticks {
    /// Says that something has changed.
    pub fn tick(&self) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        self.inner.rung.notify_waiters();
    }

    /// A listener to every tick from now on.
    pub fn listen(&self) -> Listener {
        Listener { ticks: self.clone(), seen: self.inner.count.load(Ordering::SeqCst) }
    }
}

impl Listener {
    /// Waits until something has changed since the last time; at once if it has already.
    pub async fn changed(&mut self) {
        loop {
            let rung = self.ticks.inner.rung.notified();
            let mut rung = std::pin::pin!(rung);
            // From here on no tick is missed.
            rung.as_mut().enable();
            let now = self.ticks.inner.count.load(Ordering::SeqCst);
            if now != self.seen {
                self.seen = now;
                return;
            }
            rung.await;
        }
    }

    /// Takes everything up to now as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.ticks.inner.count.load(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_tick_is_missed_and_listeners_wake_in_order() {
        let ticks = Ticks::default();
        let mut early = ticks.listen();
        ticks.tick();
        early.changed().await;
        let woken = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let (mut listener, woken) = (ticks.listen(), woken.clone());
                tokio::spawn(async move {
                    listener.changed().await;
                    woken.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        ticks.tick();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }
}
