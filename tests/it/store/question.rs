//! Questions and answers, results that outlive their process, and runs that go on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use graphloom::id::{InterruptId, Seq, TaskId, ThreadKey};
use graphloom::store::{
    Accepted, Actor, Answer, Answering, Commit, Committed, Idempotency, Keyed, NewRun, Question, Resume,
    Resumed, Run, RunState, Store,
};

use super::on_every_store;
use crate::support::{
    barrier, batch, claimed, last_barrier, new_run, owner, part, process, queued, resume, session,
};

on_every_store![
    sealed:
    of_many_answers_one_is_taken_and_the_run_is_claimed_with_it,
    an_answer_that_came_before_the_pause_is_never_waited_for,
    an_answer_that_races_with_the_pause_is_never_lost,
    a_question_is_only_for_those_whom_it_asks,
    a_question_whose_time_is_over_wakes_its_run_once,
    an_answer_that_comes_too_late_is_refused_as_such,
    a_thread_whose_question_is_over_takes_the_next_turn,
    the_end_of_a_run_that_waits_is_at_once,
    what_is_pending_needs_the_fence_and_goes_with_its_barrier,
    a_run_goes_on_after_a_failure_only_as_the_newest,
    a_repeated_answer_finds_what_the_first_one_did,
    a_key_of_an_answer_races_with_itself_and_goes_with_its_thread,
    a_repeated_resume_finds_what_the_first_one_did,
    a_thread_that_waits_says_so_whatever_the_version,
    what_is_asked_of_agents_comes_in_pages_and_ends_with_its_run,
];

fn id(text: &str) -> InterruptId {
    InterruptId(text.into())
}

fn question(name: &str, agent: bool) -> Question {
    Question { id: id(name), agent, data: name.as_bytes().to_vec(), expires_at: None }
}

fn asking(run: &Run, questions: Vec<Question>) -> Commit {
    Commit { questions, ..barrier(run) }
}

fn pause(run: &Run) -> Commit {
    Commit { next: Some((RunState::Interrupted, None)), ..barrier(run) }
}

fn answer(run: &Run, names: &[&str]) -> Answer {
    Answer {
        owner: run.key.owner.clone(),
        agent: false,
        run: run.run,
        key: run.key.clone(),
        answers: names.iter().map(|name| (id(name), format!("to {name}").into_bytes())).collect(),
        by: "ann".into(),
        idempotency: None,
        process: process("here"),
        input: None,
        wishes: graphloom::store::Wishes::default(),
    }
}

async fn state(store: &dyn Store, run: &Run) -> RunState {
    store.run(&run.key.owner, run.run).await.unwrap().unwrap().state
}

async fn done(store: &dyn Store, commit: Commit) {
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Done { cancel_requested: false, kept: true });
}

async fn of_many_answers_one_is_taken_and_the_run_is_claimed_with_it(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let commit = Commit { questions: vec![question("a", false), question("b", false)], ..pause(&run) };
    done(&*store, commit).await;
    assert_eq!(state(&*store, &run).await, RunState::Interrupted);
    let open = store.questions(&key).await.unwrap();
    assert_eq!(open.iter().map(|open| &open.id).collect::<Vec<_>>(), [&id("a"), &id("b")]);
    let answers = (0..16).map(|_| {
        let (store, run) = (store.clone(), run.clone());
        async move { store.answer(answer(&run, &["a"])).await.unwrap() }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = answers.map(tokio::spawn).collect();
    let outcomes: Vec<Answering> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let mut claims = outcomes.iter().filter_map(|outcome| match outcome {
        Answering::Claimed(claim) => Some(claim.clone()),
        Answering::Taken { by, .. } => {
            assert_eq!(by, "ann");
            None
        }
        other => panic!("{other:?}"),
    });
    let claim = claims.next().unwrap();
    assert!(claims.next().is_none());
    assert_eq!((claim.run.state, claim.run.fence, claim.crashed), (RunState::Running, 2, false));
    assert_eq!(store.answers(&key.owner, run.run).await.unwrap(), [(id("a"), b"to a".to_vec())]);
    assert_eq!(store.questions(&key).await.unwrap().len(), 1);
    // All or none.
    let both = store.answer(answer(&run, &["b", "a"])).await.unwrap();
    assert!(matches!(both, Answering::Taken { .. }));
    assert_eq!(store.questions(&key).await.unwrap().len(), 1);
    let Answering::Stored { .. } = store.answer(answer(&run, &["b"])).await.unwrap() else { panic!() };
    done(&*store, Commit { closed: vec![id("a"), id("b")], ..barrier(&claim.run) }).await;
    assert!(store.answers(&key.owner, run.run).await.unwrap().is_empty());
    let given = store.given(&key.owner, run.run).await.unwrap();
    assert!(given.len() == 2 && given.contains(&(id("a"), b"to a".to_vec())), "{given:?}");
    let eve = graphloom::id::Owner { user: "eve".parse().unwrap(), ..key.owner.clone() };
    assert!(store.given(&eve, run.run).await.unwrap().is_empty());
    // Who comes later learns who was first, also when it was long ago.
    assert!(matches!(store.answer(answer(&run, &["a"])).await.unwrap(), Answering::Taken { .. }));
    assert!(store.question(&key.owner, false, &id("a")).await.unwrap().unwrap().answered.is_some());
}

async fn an_answer_that_came_before_the_pause_is_never_waited_for(store: Arc<dyn Store>) {
    let key = session("s");
    let mut run = claimed(&*store, &key).await;
    done(&*store, asking(&run, vec![question("a", false)])).await;
    run.step += 1;
    assert!(matches!(store.answer(answer(&run, &["a"])).await.unwrap(), Answering::Stored { .. }));
    done(&*store, pause(&run)).await;
    assert_eq!(state(&*store, &run).await, RunState::Queued);
    let mut claims = store.claim(&process("there"), 10).await.unwrap();
    let run = claims.remove(0).run;
    // What was taken with this barrier is not waited for again.
    done(&*store, Commit { closed: vec![id("a")], ..pause(&run) }).await;
    assert_eq!(state(&*store, &run).await, RunState::Interrupted);
}

async fn an_answer_that_races_with_the_pause_is_never_lost(store: Arc<dyn Store>) {
    for round in 0..20 {
        let key = session(&format!("s{round}"));
        let name = format!("q{round}");
        let mut run = claimed(&*store, &key).await;
        done(&*store, asking(&run, vec![question(&name, false)])).await;
        run.step += 1;
        let (pausing, answering) = (store.clone(), store.clone());
        let (commit, reply) = (pause(&run), answer(&run, &[&name]));
        #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
        let tasks = (
            tokio::spawn(async move { pausing.commit(commit).await.unwrap() }),
            tokio::spawn(async move { answering.answer(reply).await.unwrap() }),
        );
        let (_, answered) = (tasks.0.await.unwrap(), tasks.1.await.unwrap());
        let now = state(&*store, &run).await;
        match answered {
            Answering::Claimed(_) => assert_eq!(now, RunState::Running),
            Answering::Stored { .. } => assert_eq!(now, RunState::Queued, "it waits for what has come"),
            other => panic!("{other:?}"),
        }
    }
}

async fn a_question_is_only_for_those_whom_it_asks(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let commit = Commit { questions: vec![question("user", false), question("desk", true)], ..pause(&run) };
    done(&*store, commit).await;
    let sees = async |who: &str, agent: bool, name: &str| {
        let (tenant, user) = who.split_once(':').unwrap();
        store.question(&owner(tenant, user), agent, &id(name)).await.unwrap().is_some()
    };
    for (who, agent, name, expected) in [
        ("acme:ann", false, "user", true),
        ("acme:bob", false, "user", false),
        ("acme:bob", true, "user", false),
        ("other:ann", true, "user", false),
        ("acme:ann", false, "desk", false),
        ("acme:bob", true, "desk", true),
        ("other:bob", true, "desk", false),
    ] {
        assert_eq!(sees(who, agent, name).await, expected, "{who} {agent} {name}");
        let (tenant, user) = who.split_once(':').unwrap();
        if !expected {
            let reply = Answer { owner: owner(tenant, user), agent, ..answer(&run, &[name]) };
            assert_eq!(store.answer(reply).await.unwrap(), Answering::Unknown(id(name)), "{who}");
        }
    }
    let nothing = Answer { owner: owner("acme", "bob"), ..answer(&run, &[]) };
    assert_eq!(store.answer(nothing).await.unwrap(), Answering::Unknown(id("")));
    assert_eq!(state(&*store, &run).await, RunState::Interrupted);
    let desk = store.approvals(&part("acme"), None, 10).await.unwrap();
    assert_eq!(desk.iter().map(|open| &open.id).collect::<Vec<_>>(), [&id("desk")]);
    assert!(store.approvals(&part("other"), None, 10).await.unwrap().is_empty());
}

async fn a_question_whose_time_is_over_wakes_its_run_once(store: Arc<dyn Store>) {
    let run = claimed(&*store, &session("s")).await;
    let questions = vec![Question { expires_at: Some(soon()), ..question("a", false) }];
    done(&*store, Commit { questions, ..pause(&run) }).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let claims = join_all((0..4).map(|n| {
        let store = store.clone();
        async move { store.claim(&process(&format!("there {n}")), 10).await.unwrap() }
    }));
    let claims: Vec<_> = claims.await.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].run.fence, claims[0].run.crashes, claims[0].crashed), (2, 0, false));
}

fn soon() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now() + chrono::TimeDelta::milliseconds(30)
}

/// An answer in the moment between a question's time and the waking of its run was taken, and then thrown away.
async fn an_answer_that_comes_too_late_is_refused_as_such(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let end = soon();
    let late = Question { expires_at: Some(end), ..question("late", true) };
    done(&*store, Commit { questions: vec![late, question("open", false)], ..pause(&run) }).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let reply = |names: &[&str]| Answer { agent: true, ..answer(&run, names) };
    let too_late = async |names: &[&str]| match store.answer(reply(names)).await.unwrap() {
        Answering::Expired { id, at } => (id, at.timestamp_micros()),
        other => panic!("{other:?}"),
    };
    let expected = (id("late"), end.timestamp_micros());
    assert_eq!(too_late(&["late"]).await, expected);
    assert_eq!(too_late(&["open", "late"]).await, expected, "all or none");
    // It is not open any more, and whoever comes for it hears why.
    let open = store.questions(&key).await.unwrap();
    assert_eq!(open.iter().map(|open| &open.id).collect::<Vec<_>>(), [&id("open")]);
    assert!(store.approvals(&part("acme"), None, 10).await.unwrap().is_empty());
    let asked = store.question(&key.owner, true, &id("late")).await.unwrap().unwrap();
    assert_eq!(asked.expired.map(|at| at.timestamp_micros()), Some(end.timestamp_micros()));
    assert!(store.question(&owner("acme", "bob"), false, &id("late")).await.unwrap().is_none());
    // Also when the run has gone on without it.
    let claim = store.claim(&process("there"), 10).await.unwrap().remove(0);
    done(&*store, Commit { closed: vec![id("late")], ..barrier(&claim.run) }).await;
    assert_eq!(too_late(&["late"]).await, expected);
    assert!(matches!(store.answer(reply(&["open"])).await.unwrap(), Answering::Stored { .. }));
}

async fn a_thread_whose_question_is_over_takes_the_next_turn(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let questions = vec![Question { expires_at: Some(soon()), ..question("late", false) }];
    done(&*store, Commit { questions, ..pause(&run) }).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let next = queued(&*store, &key).await;
    // First the run goes on without an answer, then comes the turn.
    let mut claims = store.claim(&process("there"), 10).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.run.run).collect::<Vec<_>>(), [run.run]);
    done(&*store, last_barrier(&claims.remove(0).run, RunState::Completed)).await;
    let claims = store.claim(&process("there"), 10).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.run.run).collect::<Vec<_>>(), [next.run]);
}

async fn the_end_of_a_run_that_waits_is_at_once(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    done(&*store, Commit { questions: vec![question("a", false)], ..pause(&run) }).await;
    let end = store
        .request_cancel(&key.owner, run.run, Actor::User, false, b"over".to_vec(), batch(0, 2, 2, b"end"))
        .await;
    let end = end.unwrap().unwrap();
    assert_eq!((end.state, end.fence), (RunState::Cancelled, 2));
    assert!(store.questions(&key).await.unwrap().is_empty());
    assert!(matches!(store.answer(answer(&run, &["a"])).await.unwrap(), Answering::Unknown(_)));
    claimed(&*store, &key).await;
}

async fn what_is_pending_needs_the_fence_and_goes_with_its_barrier(store: Arc<dyn Store>) {
    let key = session("s");
    let mut run = claimed(&*store, &key).await;
    let task = TaskId("t".into());
    let put = async |fence: u64, step: u64, data: &[u8]| {
        store.put_pending(&key.owner, run.run, fence, step, &task, data.to_vec()).await.unwrap()
    };
    assert!(put(1, 1, b"first").await);
    assert!(put(1, 1, b"second").await, "what is there stays");
    assert!(!put(2, 1, b"zombie").await);
    let pending = async |step| store.pending(&key.owner, run.run, step).await.unwrap();
    assert_eq!(pending(1).await, [(task.clone(), b"first".to_vec())]);
    assert!(pending(2).await.is_empty());
    assert!(store.pending(&owner("acme", "bob"), run.run, 1).await.unwrap().is_empty());
    assert!(put(1, 2, b"kept").await);
    done(&*store, Commit { pending: Some(1), ..barrier(&run) }).await;
    assert!(pending(1).await.is_empty());
    assert_eq!(pending(2).await.len(), 1, "it is of the next superstep, which has begun");
    run.step += 1;
    done(&*store, Commit { pending: Some(2), ..last_barrier(&run, RunState::Failed) }).await;
    assert_eq!(store.pending(&key.owner, run.run, 2).await.unwrap().len(), 1, "a resume wants it");
    assert!(!store.put_pending(&key.owner, run.run, 1, 2, &task, Vec::new()).await.unwrap());
}

async fn a_run_goes_on_after_a_failure_only_as_the_newest(store: Arc<dyn Store>) {
    let key = session("s");
    let run = claimed(&*store, &key).await;
    let resume = async |run: &Run, user: &str| match store
        .resume(resume(&ThreadKey { owner: owner("acme", user), ..run.key.clone() }, run.run, "there"))
        .await
        .unwrap()
    {
        Resumed::Claimed(claim) => Some(*claim),
        Resumed::Nothing => None,
        other => panic!("{other:?}"),
    };
    assert!(resume(&run, "ann").await.is_none(), "it has not failed");
    done(&*store, last_barrier(&run, RunState::Failed)).await;
    assert!(resume(&run, "bob").await.is_none());
    let claim = resume(&run, "ann").await.unwrap();
    assert_eq!((claim.run.state, claim.run.fence, claim.run.result), (RunState::Running, 2, None));
    assert!(resume(&run, "ann").await.is_none());
    let waiting = queued(&*store, &key).await;
    done(&*store, last_barrier(&Run { fence: 2, step: 1, ..run.clone() }, RunState::Failed)).await;
    assert!(resume(&run, "ann").await.is_none(), "another run came after it");
    assert_eq!(state(&*store, &waiting).await, RunState::Queued);
}

fn key(route: &str, body: &str) -> Idempotency {
    Idempotency { route: route.into(), key: "k".into(), body_hash: body.into() }
}

/// A message that answered a question was not found again by its key: repeated, it was another turn, or a second answer.
async fn a_repeated_answer_finds_what_the_first_one_did(store: Arc<dyn Store>) {
    let thread = session("s");
    let mut run = claimed(&*store, &thread).await;
    let asked = ["a", "b", "c"].map(|name| question(name, false)).to_vec();
    let events = Some(batch(1, 2, 5, b"asked"));
    done(&*store, Commit { questions: asked, events, ..barrier(&run) }).await;
    run.step += 1;
    let reply = |name: &str, idempotency| Answer { idempotency, ..answer(&run, &[name]) };
    // While the run works, what follows the answer comes after the last event.
    let here = Seq { fence: 1, n: 5 };
    let first = store.answer(reply("a", Some(key("answer/a", "x")))).await.unwrap();
    assert!(matches!(&first, Answering::Stored { after, .. } if *after == here), "{first:?}");
    let same = |known: &Keyed, place: Seq| matches!(known, Keyed::Same { after, .. } if *after == place);
    let again = store.answer(reply("a", Some(key("answer/a", "x")))).await.unwrap();
    assert!(matches!(&again, Answering::Known(known) if same(known, here)), "{again:?}");
    let other = store.answer(reply("a", Some(key("answer/a", "y")))).await.unwrap();
    assert_eq!(other, Answering::Known(Keyed::Other));
    assert!(matches!(store.answer(reply("a", None)).await.unwrap(), Answering::Taken { .. }));
    // A key is not used up by what is refused.
    assert!(matches!(
        store.answer(reply("a", Some(key("answer/z", "x")))).await.unwrap(),
        Answering::Taken { .. }
    ));
    assert_eq!(store.keyed(&thread.owner, &key("answer/z", "x")).await.unwrap(), None);
    // When it waits, what follows comes under the next fence; a message is found by the key of its turn.
    done(&*store, Commit { closed: vec![id("a")], ..pause(&run) }).await;
    let turn = Some(key("chat/support", "turn"));
    let claim = store.answer(reply("b", turn.clone())).await.unwrap();
    assert!(matches!(&claim, Answering::Claimed(claim) if claim.run.fence == 2), "{claim:?}");
    let repeated = store.accept(NewRun { idempotency: turn, ..new_run(&thread) }).await.unwrap();
    let Accepted::Known(Keyed::Same { run: found, after }) = repeated else { panic!("{repeated:?}") };
    assert_eq!((found.run, after.fence), (run.run, 1));
    assert!(Seq { fence: 1, n: 1 << 60 } < after && after < Seq { fence: 2, n: 0 });
    assert!(store.keyed(&owner("acme", "bob"), &key("chat/support", "turn")).await.unwrap().is_none());
}

async fn a_key_of_an_answer_races_with_itself_and_goes_with_its_thread(store: Arc<dyn Store>) {
    let thread = session("s");
    let run = claimed(&*store, &thread).await;
    done(&*store, Commit { questions: vec![question("a", true)], ..pause(&run) }).await;
    let agent = owner("acme", "bob");
    let reply = Answer {
        owner: agent.clone(),
        agent: true,
        idempotency: Some(key("answer/a", "x")),
        ..answer(&run, &["a"])
    };
    let answers = (0..8).map(|_| {
        let (store, reply) = (store.clone(), reply.clone());
        async move { store.answer(reply).await.unwrap() }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = answers.map(tokio::spawn).collect();
    let outcomes: Vec<Answering> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let count = |is: fn(&Answering) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    assert_eq!(count(|outcome| matches!(outcome, Answering::Claimed(_))), 1, "{outcomes:?}");
    assert_eq!(count(|outcome| matches!(outcome, Answering::Known(Keyed::Same { .. }))), 7);
    let used = key("answer/a", "x");
    assert!(store.keyed(&agent, &used).await.unwrap().is_some());
    assert!(store.delete_thread(&thread).await.unwrap());
    assert_eq!(store.keyed(&agent, &used).await.unwrap(), None);
}

async fn a_repeated_resume_finds_what_the_first_one_did(store: Arc<dyn Store>) {
    let thread = session("s");
    let run = claimed(&*store, &thread).await;
    done(&*store, last_barrier(&run, RunState::Failed)).await;
    let resume = async |body: &str| {
        let used = Some(key("resume/s", body));
        store.resume(Resume { idempotency: used, ..resume(&thread, run.run, "there") }).await.unwrap()
    };
    assert!(matches!(resume("x").await, Resumed::Claimed(_)));
    let again = resume("x").await;
    let Resumed::Known(Keyed::Same { run: found, after }) = again else { panic!("{again:?}") };
    assert_eq!((found.run, after.fence), (run.run, 1));
    assert_eq!(resume("y").await, Resumed::Known(Keyed::Other));
    // What was given up is for the operator.
    let lost = claimed(&*store, &session("t")).await;
    done(&*store, last_barrier(&lost, RunState::Dead)).await;
    let outcome = store.resume(crate::support::resume(&thread, lost.run, "there")).await.unwrap();
    assert_eq!(outcome, Resumed::Nothing);
}

/// An answer was held against the graph of today, of which it is no turn.
async fn a_thread_that_waits_says_so_whatever_the_version(store: Arc<dyn Store>) {
    let thread = session("s");
    let run = claimed(&*store, &thread).await;
    done(&*store, Commit { questions: vec![question("a", false)], ..pause(&run) }).await;
    let newer = NewRun { hash: "hash-2".into(), ..new_run(&thread) };
    assert_eq!(store.accept(newer).await.unwrap(), Accepted::Waits);
    let foreign = NewRun { graph: "other".into(), ..new_run(&thread) };
    assert!(matches!(store.accept(foreign).await.unwrap(), Accepted::OtherVersion { .. }));
}

async fn what_is_asked_of_agents_comes_in_pages_and_ends_with_its_run(store: Arc<dyn Store>) {
    let mut runs = Vec::new();
    for (n, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        let run = claimed(&*store, &session(name)).await;
        let questions = vec![question(&format!("q{n}b"), true), question(&format!("q{n}a"), true)];
        done(&*store, Commit { questions, ..barrier(&run) }).await;
        runs.push(Run { step: 1, ..run });
    }
    let acme = part("acme");
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.approvals(&acme, after, 4).await.unwrap();
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = Some((last.created_at, last.id.clone()));
        names.extend(page.iter().map(|asked| asked.id.to_string()));
    }
    assert_eq!(names, ["q0b", "q0a", "q1b", "q1a", "q2b", "q2a"]);
    let listed = async || {
        let open = store.approvals(&acme, None, 10).await.unwrap();
        open.iter().map(|asked| asked.id.to_string()).collect::<Vec<_>>()
    };
    done(&*store, last_barrier(&runs[0], RunState::Failed)).await;
    assert_eq!(listed().await, ["q1b", "q1a", "q2b", "q2a"]);
    assert!(store.delete_thread(&runs[1].key).await.unwrap());
    assert_eq!(listed().await, ["q2b", "q2a"]);
    done(&*store, pause(&runs[2])).await;
    store
        .request_cancel(
            &runs[2].key.owner,
            runs[2].run,
            Actor::User,
            false,
            b"".to_vec(),
            batch(0, 2, 2, b"end"),
        )
        .await
        .unwrap();
    assert!(listed().await.is_empty());
    // A failure may be taken back.
    store.resume(resume(&runs[0].key, runs[0].run, "there")).await.unwrap();
    assert_eq!(listed().await, ["q0b", "q0a"]);
}
