//! Requests of nodes over retries and crashes: a real process, a real server that is asked.

use crate::support::Fresh;
use crate::support::receiver::{Came, Receiver};
use crate::support::stream::status;
use crate::support::world::{GRAPH, World};

/// Asks one address in its first superstep and another one in its second.
const BOOK: &str = "\
format: 1
state: {messages: messages, n: {type: integer, merge: add}}
start: book
nodes:
  book:
    kind: http
    method: POST
    url: \"http://ADDRESS/{{ ('500' if state.n == 0 else 'hang') | urlencode }}/1/book\"
    body: \"{{ state.n }}\"
    effects: idempotent
    retry: twice
    into: {n: '1'}
    next: [{when: state.n < 2, to: book}, {else: tell}]
    max_visits: 2
    on_max: tell
  tell: {kind: say, text: Booked., next: end}
";

/// Whoever is asked knows a call again by its key, whichever attempt and whichever process makes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_request_outlives_attempts_and_processes_and_is_another_one_in_each_superstep() {
    let receiver = Receiver::start().await;
    let address = &receiver.address;
    let settings = format!("allow_private = [\"{address}\"]\n");
    let mut world = World::with_settings(Fresh::postgres().await, GRAPH, &settings).await;
    world.service.process.crash();
    let project = format!(
        "format: 1\nhosts: {{allow: [\"{address}\"]}}\nretries: {{twice: {{attempts: 2, first: 10ms, for: [any]}}}}\n"
    );
    world.folder.write("graphs/project.yaml", &project);
    world.folder.write("graphs/chat.yaml", &BOOK.replace("ADDRESS", address));
    std::fs::remove_dir_all(world.folder.path().join("graphs/prompts")).unwrap();
    world.restart();
    let run = world.chat("s", "A hat").await.run();
    let sent = |came: &Came| (came.header("idempotency-key"), came.header("x-attempt"));
    receiver.wait("/hang/1/book", 1).await;
    world.service.process.crash();
    world.restart();
    let events = world.follow(&run, "").await.rest().await;
    assert_eq!(status(&events), "completed", "{events:?}");
    let first: Vec<_> = receiver.wait("/500/1/book", 2).await.iter().map(sent).collect();
    let second: Vec<_> = receiver.wait("/hang/1/book", 2).await.iter().map(sent).collect();
    let (one, two) = (&first[0].0, &second[0].0);
    assert!(one != two && one.len() >= 20, "{one} {two}");
    // A process counts its own attempts.
    let due = |key: &str, attempts: [&str; 2]| attempts.map(|nth| (key.to_owned(), nth.to_owned()));
    assert_eq!((&*first, &*second), (&due(one, ["1", "2"])[..], &due(two, ["1", "1"])[..]));
}
