//! Chaos: three replicas, a database and a model server that fail in every way that has a name, and clients that must not
//! notice. A part runs with the other tests; the long one runs by hand:
//!
//! ```console
//! $ CHAOS_SECONDS=600 CHAOS_THREADS=200 CHAOS_SEED=7 cargo nextest run chaos::random --no-capture
//! $ CHAOS_KILLS=50 cargo nextest run chaos::recovery --no-capture
//! ```

mod client;
mod cluster;
mod failover;
mod faults;
mod judge;
mod recovery;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::select_all;

use self::client::{Load, Talk};
use self::cluster::Cluster;
use self::faults::{EACH, Fault, LONG, strike};

#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}

/// Reads a number that a person set for a long run.
#[expect(clippy::disallowed_methods, reason = "long runs are asked for so")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Lets so many clients talk while `what` happens, and judges.
async fn talk(
    threads: usize,
    seed: u64,
    small_disk: bool,
    what: impl AsyncFnOnce(&Load, &mut fastrand::Rng),
) {
    let load = Arc::new(Load {
        cluster: Cluster::start(3, small_disk).await,
        over: AtomicBool::new(false),
        turns: AtomicUsize::new(0),
        accepted: std::sync::Mutex::default(),
    });
    let begun = Instant::now();
    let mut talks: Vec<_> = (0..threads).map(|n| spawn(Talk::new(n, seed).run(load.clone()))).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let loaded = load.cluster.memory().into_iter().max().unwrap();
    tokio::select! {
        () = what(&load, &mut random) => {}
        // No talk ends by itself.
        (wrong, ..) = select_all(talks.iter_mut()) => panic!("{:?}\n{}", wrong.err(), load.cluster.logs()),
    }
    load.over.store(true, Ordering::Relaxed);
    let (struck, calm) = (begun.elapsed(), Instant::now());
    let mut done = Vec::new();
    for talk in talks {
        done.push(talk.await.unwrap_or_else(|error| panic!("{error}\n{}", load.cluster.logs())));
    }
    judge::rest(&load, &mut done).await;
    let memory = load.cluster.memory();
    assert!(
        memory.iter().all(|now| *now < loaded + 100),
        "{loaded} MiB under load, and {memory:?} MiB at rest"
    );
    println!(
        "{} runs on {threads} threads, faults for {struck:.0?}, at rest after {:.1?}, memory {loaded} MiB under load, then {memory:?} MiB",
        load.accepted.lock().unwrap().len(),
        calm.elapsed(),
    );
}

async fn hit(load: &Load, fault: Fault, random: &mut fastrand::Rng) {
    let (begun, before) = (Instant::now(), load.turns.load(Ordering::Relaxed));
    strike(load, fault, random).await;
    judge::moment(load, &format!("{fault:?}")).await;
    let turns = load.turns.load(Ordering::Relaxed) - before;
    println!("{fault:?}: {:.1?}, {turns} turns came to their end meanwhile", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_loses_nothing_and_doubles_nothing() {
    let seed = number("CHAOS_SEED").unwrap_or(1);
    talk(24, seed, false, async |load, random| {
        let mut faults = EACH;
        random.shuffle(&mut faults);
        for fault in faults {
            hit(load, fault, random).await;
            tokio::time::sleep(Duration::from_millis(random.u64(200..1_500))).await;
        }
    })
    .await;
}

/// The long part. It needs root for a disk that can be full.
#[tokio::test(flavor = "multi_thread")]
async fn random_faults_for_as_long_as_asked_lose_nothing() {
    let Some(time) = number("CHAOS_SECONDS") else { return };
    let threads = number("CHAOS_THREADS").unwrap_or(200) as usize;
    let seed = number("CHAOS_SEED").unwrap_or(1);
    talk(threads, seed, true, async |load, random| {
        let end = Instant::now() + Duration::from_secs(time);
        for fault in LONG {
            hit(load, fault, random).await;
        }
        while Instant::now() < end {
            let fault = match random.u8(0..12) {
                0..=4 => Fault::Kill,
                _ => EACH[random.usize(0..EACH.len())],
            };
            hit(load, fault, random).await;
            tokio::time::sleep(Duration::from_millis(random.u64(200..3_000))).await;
        }
    })
    .await;
}
