//! Readers on a replica that does not own what they read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use graphloom::compile::{Catalog, Compiled, Providers};
use graphloom::engine::{Engine, Followed, Follower, Settings, Start};
use graphloom::event::Body;
use graphloom::id::{RunId, Seq};
use graphloom::node::{Attempt, Done, Failure, Node, Outcome};
use graphloom::plan::{Job, Next, Plan, PlanNode, Target, Work};
use graphloom::store::Store;
use graphloom::store::sql::SqlStore;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::proxy::Proxy;
use crate::support::turn::turn;
use crate::support::{Fresh, owner, part};

/// Longer than anything takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Says so many pieces, each as soon as it may.
#[derive(Debug)]
struct Speak {
    pieces: usize,
    may: watch::Receiver<usize>,
}

#[async_trait]
impl Node for Speak {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let mut may = self.may.clone();
        may.wait_for(|may| *may > 0).await.unwrap();
        let message_id = attempt.message_id();
        attempt.emit.send(Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        for n in 0..self.pieces {
            may.wait_for(|may| *may > n).await.unwrap();
            let delta = "x".repeat(200);
            attempt.emit.send(Body::MessageDelta { message_id: message_id.clone(), delta });
        }
        Ok(Done::default().into())
    }
}

fn catalog(node: impl Node + 'static) -> Catalog {
    let node = PlanNode::new(Job::new("custom", Work::Node(Arc::new(node))), Next::To(Target::End));
    let plan = Plan {
        hash: "0123456789abcdef".into(),
        nodes: [("speak".to_owned(), node)].into(),
        ..Plan::new("test", Next::To(Target::Node("speak".into())))
    };
    let compiled = Compiled { plan: Arc::new(plan.seal()), body: Vec::new() };
    Catalog { graphs: [("test".to_owned(), compiled)].into(), ..Catalog::default() }
}

async fn engine(store: Arc<dyn Store>, name: &str, claims: u32, catalog: Catalog) -> Engine {
    let settings = Settings { claims, ..Settings::new(name.into()) };
    Engine::open(store, catalog, Providers::without_secrets().unwrap(), settings).await.unwrap()
}

/// An owner of runs, a replica that reads them, and the count of what it asks the database.
struct Pair {
    owns: Engine,
    reads: Engine,
    trips: Proxy,
    may: watch::Sender<usize>,
    _fresh: Fresh,
}

impl Pair {
    async fn start(pieces: usize) -> Self {
        let fresh = Fresh::postgres().await;
        let server = fresh.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
        let trips = Proxy::to(server).await;
        let (may, receiver) = watch::channel(0);
        let speak = || catalog(Speak { pieces, may: receiver.clone() });
        let near = fresh.open().await;
        near.migrate().await.unwrap();
        let owns = engine(Arc::new(near), "owns", 64, speak()).await;
        let far = SqlStore::connect(&fresh.url.replace(server, &trips.address)).await.unwrap();
        let reads = engine(Arc::new(far), "reads", 0, speak()).await;
        Self { owns, reads, trips, may, _fresh: fresh }
    }

    async fn run(&self, session: &str) -> RunId {
        let start = Start { session: part(session), message: None, ..turn("") };
        self.owns.start(&owner("acme", "ann"), start).await.unwrap().run.run
    }

    async fn follow(&self, run: RunId) -> Follower {
        self.follow_after(run, Seq::default()).await
    }

    async fn follow_after(&self, run: RunId, after: Seq) -> Follower {
        let found = self.reads.follow(&owner("acme", "ann"), run, after, false).await.unwrap();
        let Some(Followed::Events(follower)) = found else { panic!("nothing to follow") };
        follower
    }
}

/// Counts what the readers' replica does, as long as it does so on this thread.
struct Looks(PrometheusHandle);

impl Looks {
    fn count(&self) -> u64 {
        let text = self.0.render();
        let line = text.lines().find_map(|line| line.strip_prefix("graphloom_tail_looks_total "));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until it has looked so often more.
    async fn pass(&self, more: u64) {
        let until = self.count() + more;
        while self.count() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Reads until the node is at work.
async fn so_far(follower: &mut Follower) -> Vec<Seq> {
    let mut read = Vec::new();
    loop {
        let frame = follower.next().await.unwrap().expect("the stream was cut");
        read.push(frame.seq());
        if matches!(frame.event.body, Body::NodeStarted { .. }) {
            return read;
        }
    }
}

async fn rest(follower: &mut Follower) -> Vec<Seq> {
    let mut read = Vec::new();
    while let Some(frame) = follower.next().await {
        read.push(frame.expect("the stream was cut").seq());
    }
    read
}

#[tokio::test]
async fn two_hundred_readers_of_fifty_runs_ask_the_database_as_one() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let looks = Looks(recorder.handle());
    let _counts = metrics::set_default_local_recorder(&recorder);
    let pair = Pair::start(3).await;
    let mut followers = Vec::new();
    for n in 0..50 {
        let run = pair.run(&format!("s{n}")).await;
        for _ in 0..4 {
            followers.push(pair.follow(run).await);
        }
    }
    let begun = join_all(followers.iter_mut().map(so_far)).await;
    assert!(begun.iter().all(|read| *read == begun[0] && !read.is_empty()), "{begun:?}");
    // While nothing happens: one round trip a look, and now and then a heartbeat. Before, each reader asked as often.
    let mut reading = Box::pin(join_all(followers.iter_mut().map(rest)));
    for round in ["joining", "waiting"] {
        let (trips, before) = (pair.trips.trips(), looks.count());
        tokio::select! {
            read = &mut reading => panic!("{read:?}"),
            () = looks.pass(8) => {}
            () = tokio::time::sleep(PATIENCE) => panic!("{} looks", looks.count() - before),
        }
        let (trips, looks) = (pair.trips.trips() - trips, looks.count() - before);
        assert!(round == "joining" || trips <= 5 * looks, "{trips} round trips for {looks} looks");
    }
    // What happens is read once for all readers.
    let (trips, before) = (pair.trips.trips(), looks.count());
    pair.may.send_replace(usize::MAX);
    let read = timeout(PATIENCE, reading).await.expect("they come to the end");
    let (trips, looks) = (pair.trips.trips() - trips, looks.count() - before);
    assert!(trips <= 50 + 5 * looks, "{trips} round trips for 200 readers, {looks} looks");
    for read in &read {
        assert!(read.len() >= 5 && read.is_sorted(), "{read:?}");
        assert_eq!(read.len(), read.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
    assert!(read.iter().all(|one| one.len() == read[0].len()), "each the same");
    pair.reads.close(Duration::ZERO, Duration::from_secs(5)).await;
    pair.owns.close(Duration::ZERO, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_falls_behind_misses_nothing_and_holds_nobody_up() {
    // Far more than is kept for readers.
    let pair = Pair::start(6000).await;
    let run = pair.run("s").await;
    let (mut slow, mut fast) = (pair.follow(run).await, pair.follow(run).await);
    let begun = so_far(&mut slow).await;
    assert_eq!(so_far(&mut fast).await, begun);
    // Each waits for what comes before anything does.
    for follower in [&mut slow, &mut fast] {
        assert!(timeout(Duration::from_millis(600), follower.next()).await.is_err());
    }
    pair.may.send_replace(usize::MAX);
    let read = timeout(PATIENCE, rest(&mut fast)).await.expect("the fast one waits for nobody");
    assert!(read.len() > 6000);
    // Who comes later reads the same from the start.
    let mut late = pair.follow(run).await;
    assert_eq!(rest(&mut slow).await, read);
    assert_eq!(rest(&mut late).await, [begun, read].concat());
    pair.reads.close(Duration::ZERO, Duration::from_secs(5)).await;
    pair.owns.close(Duration::ZERO, Duration::from_secs(5)).await;
}

/// The tail that all readers of a run share began at the place that the first of them named. Where that was behind all that
/// there was, nobody got anything until the run ended or changed its owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_one_reader_made_up_silences_no_other() {
    let pair = Pair::start(2).await;
    let run = pair.run("s").await;
    let mut made_up = pair.follow_after(run, Seq { fence: 1, n: 999_999 }).await;
    // It waits for what is behind its place, and keeps what is new of the run.
    assert!(timeout(Duration::from_millis(600), made_up.next()).await.is_err());
    let mut honest = pair.follow(run).await;
    so_far(&mut honest).await;
    assert!(timeout(Duration::from_millis(600), honest.next()).await.is_err());
    pair.may.send_replace(1);
    let piece = async {
        loop {
            let frame = honest.next().await.unwrap().expect("the stream was cut");
            if matches!(frame.event.body, Body::MessageDelta { .. }) {
                return;
            }
        }
    };
    timeout(Duration::from_mins(1), piece).await.expect("what was said is there while the run goes on");
    pair.may.send_replace(2);
    assert!(rest(&mut honest).await.len() >= 3);
    pair.reads.close(Duration::ZERO, Duration::from_secs(5)).await;
    pair.owns.close(Duration::ZERO, Duration::from_secs(5)).await;
}
