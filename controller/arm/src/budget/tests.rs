use super::*;

const SUB: &str = "s";

async fn take(budget: &Budget, class: OperationClass, n: u32) {
    for _ in 0..n {
        budget.acquire(SUB, class, Priority::Backup).await.unwrap();
    }
}

fn elapsed(env: &Env) -> Duration {
    env.clock.monotonic().as_duration()
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_free_and_then_the_refill_paces() {
    let env = Env::simulated(1);
    let budget = Budget::new(env.clone());
    take(&budget, OperationClass::Writes, 200).await;
    assert_eq!(elapsed(&env), Duration::ZERO);
    take(&budget, OperationClass::Writes, 10).await;
    let waited = elapsed(&env);
    assert!((0.99..1.2).contains(&waited.as_secs_f64()), "{waited:?}");
    // Another class and another subscription have their own buckets.
    take(&budget, OperationClass::Deletes, 1).await;
    budget.acquire("other", OperationClass::Writes, Priority::Backup).await.unwrap();
    assert_eq!(elapsed(&env), waited);
}

#[tokio::test(start_paused = true)]
async fn restores_overtake_backups_and_housekeeping_goes_last() {
    let budget = Budget::new(Env::simulated(1));
    take(&budget, OperationClass::Deletes, 200).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for priority in [Priority::Housekeeping, Priority::Backup, Priority::Restore, Priority::Drill] {
        let (budget, order) = (budget.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            budget.acquire(SUB, OperationClass::Deletes, priority).await.unwrap();
            order.lock().unwrap().push(priority);
        }));
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        *order.lock().unwrap(),
        [Priority::Restore, Priority::Drill, Priority::Backup, Priority::Housekeeping]
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_blocks_nobody() {
    let budget = Budget::new(Env::simulated(1));
    take(&budget, OperationClass::Reads, 250).await;
    let first = budget.clone();
    let task =
        tokio::spawn(
            async move { first.acquire(SUB, OperationClass::Reads, Priority::Restore).await },
        );
    tokio::task::yield_now().await;
    task.abort();
    let _ = task.await;
    budget.acquire(SUB, OperationClass::Reads, Priority::Housekeeping).await.unwrap();
    assert!(budget.lock().queues.is_empty());
}

#[tokio::test(start_paused = true)]
async fn reserved_writes_do_not_wait_and_others_leave_them_alone() {
    let env = Env::simulated(1);
    let budget = Budget::new(env.clone());
    take(&budget, OperationClass::Writes, 190).await;
    let passes = budget.reserve(8, Priority::Backup).await;
    assert_eq!(elapsed(&env), Duration::ZERO);
    take(&budget, OperationClass::Writes, 2).await;
    let before = elapsed(&env);
    take(&budget, OperationClass::Writes, 1).await;
    let after = elapsed(&env);
    assert!(after > before, "the ninth token from the bottom had to be earned");
    for _ in 0..8 {
        assert!(passes.take(SUB));
    }
    assert!(!passes.take(SUB));
    assert_eq!(elapsed(&env), after);
}

#[tokio::test(start_paused = true)]
async fn a_reservation_waits_for_room_and_gives_back_what_is_unused() {
    let env = Env::simulated(1);
    let budget = Budget::new(env.clone());
    take(&budget, OperationClass::Writes, 200).await;
    let passes = budget.reserve(20, Priority::Backup).await;
    assert!(elapsed(&env) >= Duration::from_secs(2));
    assert!(passes.take(SUB));
    drop(passes);
    assert_eq!(budget.lock().reserved, 0);
}

#[tokio::test(start_paused = true)]
async fn azures_remaining_count_lowers_the_level_and_never_raises_it() {
    let env = Env::simulated(1);
    let budget = Budget::new(env.clone());
    budget.learn(SUB, OperationClass::Writes, 11_999.0);
    take(&budget, OperationClass::Writes, 200).await;
    assert_eq!(elapsed(&env), Duration::ZERO);
    budget.learn(SUB, OperationClass::Reads, 0.0);
    take(&budget, OperationClass::Reads, 1).await;
    assert!(elapsed(&env) >= Duration::from_millis(40));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_class_stays_closed_for_the_pause() {
    let env = Env::simulated(1);
    let budget = Budget::new(env.clone());
    let class = OperationClass::Writes;
    budget.count_request(&[class]);
    budget.throttled(SUB, &[class], Some(class), Duration::from_secs(17));
    take(&budget, OperationClass::Writes, 1).await;
    assert!(elapsed(&env) >= Duration::from_secs(17));
    let counters = budget.counters();
    assert_eq!((counters.requests, counters.throttled), (1, 1));
    assert_eq!(counters.by_class[&class], ClassCounters { requests: 1, throttled: 1 });
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_forever() {
    let budget = Budget::new(Env::simulated(1));
    let class = OperationClass::Writes;
    budget.throttled(SUB, &[class], Some(class), Duration::from_secs(100_000));
    let error = budget.acquire(SUB, class, Priority::Backup).await.unwrap_err();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Throttled, "ClientBudget"));
}
