//! The engine over a real database: leases, and how often it asks.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use graphloom::compile::{Catalog, Compiled, Providers};
use graphloom::engine::{Breakpoints, Engine, Settings, Start};
use graphloom::id::Seq;
use graphloom::node::{Attempt, Done, Failure, Node, Outcome};
use graphloom::plan::{Job, Next, Plan, PlanNode, Target, Work};
use graphloom::store::sql::SqlStore;
use graphloom::store::{OnBusy, RunState, Store};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::proxy::Proxy;
use crate::support::{Fresh, Subject, owner, part, process};

/// Keeps a thread of the runtime to itself, as code that blocks does.
#[derive(Debug)]
struct Block(Duration);

#[async_trait]
impl Node for Block {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        thread::sleep(self.0);
        Ok(Done::default().into())
    }
}

/// Works until it is stopped.
#[derive(Debug)]
struct Wait(watch::Sender<Doing>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Nothing,
    Works,
    Stopped,
}

struct Guard<'a>(&'a watch::Sender<Doing>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Doing::Stopped);
    }
}

#[async_trait]
impl Node for Wait {
    async fn run(&self, _attempt: &Attempt) -> Result<Outcome, Failure> {
        let _guard = Guard(&self.0);
        self.0.send_replace(Doing::Works);
        std::future::pending().await
    }
}

fn catalog(node: impl Node + 'static) -> Catalog {
    let node = PlanNode::new(Job::new("custom", Work::Node(Arc::new(node))), Next::To(Target::End));
    let plan = Plan {
        hash: "0123456789abcdef".into(),
        nodes: [("block".to_owned(), node)].into(),
        ..Plan::new("test", Next::To(Target::Node("block".into())))
    };
    let compiled = Compiled { plan: Arc::new(plan.seal()), body: Vec::new() };
    Catalog { graphs: [("test".to_owned(), compiled)].into(), ..Catalog::default() }
}

fn start() -> Start {
    Start {
        graph: "test".into(),
        session: part("s"),
        message: None,
        input: serde_json::Map::new(),
        on_busy: OnBusy::Enqueue,
        idempotency: None,
        durability: None,
        breakpoints: Breakpoints::default(),
        delay: None,
        wishes: graphloom::engine::Wishes::default(),
    }
}

async fn behind_proxy(fresh: &Fresh) -> (Arc<dyn Store>, Proxy) {
    let server = fresh.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
    let proxy = Proxy::to(server).await;
    let store = SqlStore::connect(&fresh.url.replace(server, &proxy.address)).await.unwrap();
    store.migrate().await.unwrap();
    (Arc::new(store), proxy)
}

/// The heartbeat was a task among the others, and a node that kept the runtime busy lost its own run to a neighbour.
fn a_blocked_runtime_loses_no_lease(subject: impl Future<Output = Subject> + Send + 'static) {
    let watcher = Builder::new_current_thread().enable_all().build().unwrap();
    // The service's runtime has one thread, and the node blocks it for four leases.
    let (lease, blocked) = (Duration::from_millis(1500), Duration::from_secs(6));
    let working = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (subject, engine) = working.block_on(async {
        let subject = subject.await;
        let mut settings = Settings::new("here".into());
        settings.process.lease = lease;
        let providers = Providers::without_secrets().unwrap();
        let open = Engine::open(subject.store.clone(), catalog(Block(blocked)), providers, settings);
        (subject, open.await.unwrap())
    });
    let neighbour: Arc<dyn Store> = match &subject.fresh {
        None => subject.store.clone(),
        Some(fresh) => watcher.block_on(async { Arc::new(fresh.open().await) }),
    };
    let run = working.block_on(engine.start(&owner("acme", "ann"), start())).unwrap().run;
    watcher.block_on(async {
        for _ in 0..50 {
            tokio::time::sleep(blocked / 60).await;
            assert_eq!(neighbour.claim(&process("there"), 10).await.unwrap(), []);
        }
    });
    working.block_on(async {
        let mut follower = engine.follower(&owner("acme", "ann"), &run, Seq::default(), false);
        while follower.next().await.is_some() {}
        let run = subject.store.run(&run.key.owner, run.run).await.unwrap().unwrap();
        assert_eq!((run.state, run.fence), (RunState::Completed, 1));
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
    });
}

#[test]
fn a_blocked_runtime_loses_no_lease_in_memory() {
    a_blocked_runtime_loses_no_lease(async { Subject::memory() });
}

#[test]
fn a_blocked_runtime_loses_no_lease_on_postgres() {
    a_blocked_runtime_loses_no_lease(Subject::postgres());
}

/// A heartbeat that was never answered held up the look at the clock: the worker went on for as long as it hung.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_renew_its_leases_stops_its_runs_by_its_own_clock() {
    let fresh = Fresh::postgres().await;
    let (store, proxy) = behind_proxy(&fresh).await;
    let mut settings = Settings::new("here".into());
    settings.process.lease = Duration::from_secs(3);
    let doing = watch::Sender::new(Doing::Nothing);
    let mut seen = doing.subscribe();
    let providers = Providers::without_secrets().unwrap();
    let engine = Engine::open(store, catalog(Wait(doing)), providers, settings).await.unwrap();
    engine.start(&owner("acme", "ann"), start()).await.unwrap();
    seen.wait_for(|doing| *doing == Doing::Works).await.unwrap();
    // Longer than the lease: it is renewed.
    assert!(timeout(Duration::from_secs(5), seen.wait_for(|doing| *doing == Doing::Stopped)).await.is_err());
    proxy.hang().await;
    // Two thirds of the lease, and some time for a busy machine.
    timeout(Duration::from_secs(6), seen.wait_for(|doing| *doing == Doing::Stopped)).await.unwrap().unwrap();
}

/// One to accept it, one to commit it, and at most one for what was said in between. Row-level security takes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_one_node_takes_three_round_trips_at_most() {
    let fresh = Fresh::postgres().await;
    let (store, proxy) = behind_proxy(&fresh).await;
    // Nothing in the background asks meanwhile.
    let mut settings = Settings { poll: Duration::from_hours(1), ..Settings::new("here".into()) };
    settings.process.lease = Duration::from_hours(1);
    let providers = Providers::without_secrets().unwrap();
    let engine = Engine::open(store, catalog(Block(Duration::ZERO)), providers, settings).await.unwrap();
    let turns = async |count: u64| {
        for _ in 0..count {
            let run = engine.start(&owner("acme", "ann"), start()).await.unwrap().run;
            let mut follower = engine.follower(&owner("acme", "ann"), &run, Seq::default(), false);
            while follower.next().await.is_some() {}
        }
    };
    // Connections are opened, and learn their statements.
    turns(20).await;
    let before = proxy.trips();
    turns(20).await;
    let trips = proxy.trips() - before;
    assert!((40..=60).contains(&trips), "{trips} in 20 turns");
}
