//! What happens to a cluster, and how it is put right again.

use std::time::Duration;

use super::client::Load;
use super::cluster::Stop;
use super::wire::Stage;
use crate::support::plain;

/// How long a trap may wait for a barrier.
const BARRIER: Duration = Duration::from_mins(1);
/// Taking a connection for longer means that none is left.
const EXHAUSTED: Duration = Duration::from_secs(5);

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A replica is killed with -9, and comes back at once or after a while.
    Kill,
    /// The same at a named place of a commit.
    KillAt(Stage),
    /// A replica stands still for so many seconds, and goes on as if nothing had been.
    Stall(u64),
    /// All connections of a replica to the database break.
    Cut,
    /// Commits take place, and their answers are lost.
    LostAnswers,
    /// The database is so many milliseconds away.
    Far(u64),
    /// The database is stopped and started.
    Restart(Stop),
    /// Others hold every connection that the database has.
    Exhausted,
    /// The disk of the database is full.
    Full,
}

/// Each of those that need no special disk and no minute.
pub(crate) const EACH: [Fault; 11] = [
    Fault::Kill,
    Fault::KillAt(Stage::Unsent),
    Fault::KillAt(Stage::Unanswered),
    Fault::KillAt(Stage::Untold),
    Fault::Stall(3),
    Fault::Cut,
    Fault::LostAnswers,
    Fault::Far(200),
    Fault::Restart(Stop::Fast),
    Fault::Restart(Stop::Immediate),
    Fault::Exhausted,
];

/// The rest.
pub(crate) const LONG: [Fault; 3] = [Fault::Stall(60), Fault::Far(2_000), Fault::Full];

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

/// Lets a fault happen to a replica or the database, and undoes it.
pub(crate) async fn strike(load: &Load, fault: Fault, random: &mut fastrand::Rng) {
    let cluster = &load.cluster;
    let n = random.usize(0..cluster.replicas.len());
    let replica = &cluster.replicas[n];
    let trap = async |stage, hold| {
        tokio::time::timeout(BARRIER, replica.wire.trap(stage, hold))
            .await
            .expect("no barrier came")
            .unwrap();
    };
    match fault {
        Fault::Kill => {
            cluster.kill(n);
            seconds(random.u64(0..3)).await;
            cluster.restart(n);
        }
        Fault::KillAt(stage) => {
            trap(stage, true).await;
            cluster.kill(n);
            cluster.restart(n);
        }
        Fault::Stall(time) => {
            let signal = |stop: bool| {
                if let Some(service) = replica.service.lock().unwrap().as_ref() {
                    if stop { service.process.pause() } else { service.process.go_on() }
                }
            };
            signal(true);
            seconds(time).await;
            signal(false);
        }
        Fault::Cut => replica.wire.cut(),
        Fault::LostAnswers => {
            for _ in 0..5 {
                trap(Stage::Unanswered, false).await;
            }
        }
        Fault::Far(by) => {
            let slow =
                |by| cluster.replicas.iter().for_each(|replica| replica.wire.slow(Duration::from_millis(by)));
            slow(by);
            seconds(3 + by / 200).await;
            slow(0);
        }
        Fault::Restart(how) => {
            tokio::task::block_in_place(|| cluster.postgres.stop(how));
            seconds(random.u64(0..3)).await;
            tokio::task::block_in_place(|| cluster.postgres.go());
        }
        Fault::Exhausted => {
            let mut held = Vec::new();
            cluster.replicas.iter().for_each(|replica| replica.wire.cut());
            let url = cluster.postgres.url("service", "chaos");
            for _ in 0..80 {
                // It tries again for as long as the server has none left.
                let more = tokio::time::timeout(EXHAUSTED, sea_orm::Database::connect(&url)).await;
                let Ok(Ok(more)) = more else { break };
                held.push(more);
            }
            assert!(held.len() > 20, "only {} connections were left", held.len());
            for one in held {
                one.close().await.unwrap();
            }
        }
        Fault::Full => {
            let ballast = cluster.ballast().expect("the disk has no bounds");
            let zeros = vec![0; 1 << 20];
            let mut file = std::fs::File::create(&ballast).unwrap();
            while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
            drop(file);
            seconds(10).await;
            std::fs::remove_file(ballast).unwrap();
            // It stops where it cannot write its log.
            if tokio::time::timeout(
                Duration::from_secs(5),
                plain_answers(&cluster.postgres.url("postgres", "chaos")),
            )
            .await
            .is_err()
            {
                tokio::task::block_in_place(|| cluster.postgres.go());
            }
        }
    }
}

/// Returns when the database answers.
async fn plain_answers(url: &str) {
    while sea_orm::Database::connect(url).await.is_err() {
        seconds(1).await;
    }
    plain(url).await.close().await.unwrap();
}
