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
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::proxy::Proxy;
use crate::support::turn::turn;
use crate::support::{Fresh, owner, part};

/// Says so many pieces as soon as it may.
#[derive(Debug)]
struct Speak {
    pieces: usize,
    may: watch::Receiver<bool>,
}

#[async_trait]
impl Node for Speak {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        self.may.clone().wait_for(|may| *may).await.unwrap();
        let message_id = attempt.message_id();
        attempt.emit.send(Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() });
        for _ in 0..self.pieces {
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
    may: watch::Sender<bool>,
    _fresh: Fresh,
}

impl Pair {
    async fn start(pieces: usize) -> Self {
        let fresh = Fresh::postgres().await;
        let server = fresh.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
        let trips = Proxy::to(server).await;
        let (may, receiver) = watch::channel(false);
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
        let found = self.reads.follow(&owner("acme", "ann"), run, Seq::default(), false).await.unwrap();
        let Some(Followed::Events(follower)) = found else { panic!("nothing to follow") };
        follower
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

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_of_fifty_runs_ask_the_database_as_one() {
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
    // While nothing happens: four looks a second, and now and then a heartbeat. Before, each reader asked twice as often.
    let mut reading = Box::pin(join_all(followers.iter_mut().map(rest)));
    assert!(timeout(Duration::from_secs(2), &mut reading).await.is_err());
    let before = pair.trips.trips();
    assert!(timeout(Duration::from_secs(2), &mut reading).await.is_err());
    let idle = pair.trips.trips() - before;
    assert!((3..=14).contains(&idle), "{idle} round trips in two seconds");
    // What happens is read once for all readers.
    let before = pair.trips.trips();
    pair.may.send_replace(true);
    let read = reading.await;
    let busy = pair.trips.trips() - before;
    assert!(busy <= 60, "{busy} round trips for 200 readers");
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
    pair.may.send_replace(true);
    let read =
        timeout(Duration::from_secs(30), rest(&mut fast)).await.expect("the fast one waits for nobody");
    assert!(read.len() > 6000);
    // Who comes later reads the same from the start.
    let mut late = pair.follow(run).await;
    assert_eq!(rest(&mut slow).await, read);
    assert_eq!(rest(&mut late).await, [begun, read].concat());
    pair.reads.close(Duration::ZERO, Duration::from_secs(5)).await;
    pair.owns.close(Duration::ZERO, Duration::from_secs(5)).await;
}
