//! The engine and its store: leases.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use graphloom::compile::{Catalog, Compiled, Providers};
use graphloom::engine::{Engine, Settings, Start};
use graphloom::id::Seq;
use graphloom::node::{Attempt, Done, Failure, Node, Outcome};
use graphloom::plan::{Job, Next, Plan, PlanNode, Target, Work};
use graphloom::store::{OnBusy, RunState};
use tokio::runtime::Builder;

use crate::support::{Subject, owner, part, process};

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
    }
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
    let neighbour = subject.store.clone();
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
