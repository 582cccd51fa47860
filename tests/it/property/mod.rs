//! Properties of whole graphs: random ones, written as YAML, compiled by the compiler and run by the engine.
//!
//! - `any_order`: tasks that end in another order make the same checkpoints, byte for byte, and those are what the rules
//!   say: `model` is the rules written a second time, from the page (`design.md` §3) and not from the engine.
//! - `any_death`: a process that dies after or before any write, and its successors, leave the same checkpoints, and do
//!   nothing a second time whose result was stored.
//! - `stored`: the same on databases, for a few of the graphs.
//! - `stops`: a run that is told to stop, and let go on, leaves the same checkpoints.
//! - `later`: the same holds where barriers are stored beside the next superstep, or all at the end, but for the work.
//! - `safe`: what the validator calls safe is not read unset, and does not meet in a `replace` channel.
//! - `typed`: what compiles runs without an error of types when the model keeps to the declared types.
//!
//! Nothing sleeps by the wall clock: the model waits on paused time, for as long as the seed says. The seed is fixed, so
//! CI sees the same graphs each time. By hand: `PROPERTY_FACTOR=20` makes that many times more, `PROPERTY_SEED=7` others.
//! What fails is shrunk, and printed as YAML; it then belongs into `found`.

mod found;
mod graph;
mod model;
mod mortal;
mod play;
mod tape;
mod typed;
mod yaml;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graphloom::engine::Breakpoints;
use graphloom::plan::Durability;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use graph::{Flavour, Program};
use mortal::Death;
use play::{Lab, On, Played, Ready};
use tape::tapes;

const PROJECT: &str = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n";

/// Mixes a seed with a text.
fn mix(seed: u64, text: &str) -> u64 {
    // FNV-1a: the same on every machine and for ever.
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash ^ hash >> 29
}

/// What the model says to a prompt, or the kind of its error and the wider ones; a prompt that ends in `!` may fail.
fn answer(prompt: &str, attempt: u32) -> Result<String, (&'static str, &'static [&'static str])> {
    let hash = mix(7, prompt);
    if prompt.ends_with('!') && hash % 5 < 2 && (attempt < 2 || hash.is_multiple_of(2)) {
        return Err(match hash / 16 % 4 {
            0 => ("rate_limit", &[]),
            1 => ("http_503", &["http_5xx", "server_error"]),
            2 => ("connection", &[]),
            _ => ("timeout", &[]),
        });
    }
    Ok(format!("{}~{}", prompt.split(' ').next().unwrap_or_default(), hash % 5))
}

/// Which calls of the tool the model makes after so many rounds of them, by their arguments; none: it answers.
fn wants(prompt: &str, rounds: u64) -> Vec<i64> {
    let hash = mix(13 + rounds, prompt);
    let count = match rounds {
        0 => hash % 3,
        1 => u64::from(hash.is_multiple_of(4)),
        _ => 0,
    };
    (0..count).map(|n| (hash / 16 + n) as i64 % 4).collect()
}

/// What the model makes of all that its calls came to.
fn heard(results: &[String]) -> String {
    if results.is_empty() { String::new() } else { format!("+{}", mix(17, &results.join("|")) % 97) }
}

/// What a person says to a question; nothing: it is cancelled.
fn reply(question: &str) -> Option<String> {
    let hash = mix(11, question);
    (!hash.is_multiple_of(4)).then(|| format!("yes {}", hash % 7))
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a long run by hand is told so")]
    let set = std::env::var(name);
    set.ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn factor() -> u32 {
    setting("PROPERTY_FACTOR").unwrap_or(1) as u32
}

fn runner(name: &str, cases: u32) -> (TestRunner, u64) {
    let seed = setting("PROPERTY_SEED").unwrap_or(1);
    let mut bytes = [0; 32];
    for (n, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(seed, &format!("{name} {n}")).to_le_bytes());
    }
    let config = Config {
        cases: cases * factor(),
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: 90_000,
        max_global_rejects: u32::MAX,
        ..Config::default()
    };
    (TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)), seed)
}

/// Why a property was not held against a graph, or does not hold for it.
enum Why {
    /// The validator says no; by its code.
    Refused(&'static str),
    TooLong,
    Fails(String),
}

/// Holds a property against so many programs that compile.
fn hold(
    name: &str,
    cases: u32,
    flavour: Flavour,
    property: impl Fn(&Program, &Ready<'_>, u64) -> Result<(), Why>,
) {
    let (mut runner, seed) = runner(name, cases);
    let lab = Lab::new();
    let refused = RefCell::new(BTreeMap::<&str, u32>::new());
    let outcome = runner.run(&tapes(9), |tapes| {
        let program = Program::read(&tapes, flavour);
        let held = match lab.ready(&program.files()) {
            Ok(ready) => property(&program, &ready, seed),
            // What the validator may say of such graphs; else the generator, or the validator, is wrong.
            Err((codes, _)) if codes.iter().all(|code| ["S404", "S406", "G219"].contains(code)) => {
                Err(Why::Refused(codes[0]))
            }
            Err((_, text)) => Err(Why::Fails(format!("it does not compile: {text}"))),
        };
        held.map_err(|why| match why {
            Why::Refused(code) => {
                *refused.borrow_mut().entry(code).or_default() += 1;
                TestCaseError::reject(code)
            }
            Why::TooLong => TestCaseError::reject("too long"),
            Why::Fails(why) => TestCaseError::fail(format!("{why}\n{}", program.text())),
        })
    });
    println!("{name}: {} held, refused: {:?}", cases * factor(), refused.borrow());
    if let Err(TestError::Fail(why, _)) = outcome {
        panic!("{name}: {why}");
    }
}

#[test]
fn any_order_of_the_tasks_makes_the_checkpoints_that_the_rules_say() {
    let nth = std::cell::Cell::new(0);
    hold("order", 500, Flavour::Any, |program, ready, seed| {
        let told = model::run(program).ok_or(Why::TooLong)?;
        let first = ready.play(On::Memory, seed, Death::Never);
        same(&told, &first.told).map_err(Why::Fails)?;
        if program.root.runs_each_once() {
            let root = first.told.begun.iter().filter(|(_, node)| !node.contains('/'));
            let names: Vec<&String> = root.map(|(_, node)| node).collect();
            let distinct: BTreeSet<&&String> = names.iter().collect();
            if distinct.len() < names.len() {
                return Err(Why::Fails(format!("a node runs twice: {names:?}")));
            }
        }
        let again = |on, seed| match first.differs(&ready.play(on, seed, Death::Never)) {
            None => Ok(()),
            Some(why) => Err(Why::Fails(format!("in another order: {why}"))),
        };
        again(On::Memory, seed + 1)?;
        nth.set(nth.get() + 1);
        if nth.get() % 100 == 0 { again(On::Sqlite, seed + 2) } else { Ok(()) }
    });
}

#[test]
fn any_death_of_a_process_leaves_the_same_checkpoints_and_repeats_nothing() {
    hold("death", 500, Flavour::Any, |program, ready, seed| {
        if model::run(program).is_none() {
            return Err(Why::TooLong);
        }
        let whole = ready.play(On::Memory, seed, Death::Never);
        let (calls, writes) = (ready.fate.calls().0, ready.fate.writes());
        let dies = |death| {
            let played = ready.play(On::Memory, seed, death);
            if let Some(why) = whole.differs(&played) {
                return Err(Why::Fails(format!("{death:?}: {why}")));
            }
            let (all, mut lost) = ready.fate.calls();
            lost.extend(calls.clone());
            lost.sort();
            if all != lost {
                let why = format!("{death:?}: calls were made again\ncalled {all:?}\ndue    {lost:?}");
                return Err(Why::Fails(why));
            }
            Ok(())
        };
        dies(Death::EachBarrier)?;
        dies(Death::EachTask)?;
        // By hand at as many single writes as the factor says; else at one of them.
        let turn = mix(seed, &program.text()) as usize;
        for n in 0..(factor() as usize).min(writes * 2) {
            let nth = (turn + n) % (writes * 2);
            dies(Death::At(nth / 2 + 1, nth.is_multiple_of(2)))?;
        }
        Ok(())
    });
}

/// Databases take their time, so they get few of the graphs: what a dying process had under way in them may be done or not.
#[test]
fn any_death_of_a_process_on_a_database_leaves_the_same_checkpoints_and_repeats_nothing_that_is_stored() {
    hold("stored", 6, Flavour::Any, |program, ready, seed| {
        if model::run(program).is_none_or(|told| told.begun.len() < 4) {
            return Err(Why::TooLong);
        }
        let whole = ready.play(On::Memory, seed, Death::Never);
        let (calls, writes) = (ready.fate.calls().0, ready.fate.writes());
        let nth = mix(seed, &program.text()) as usize % (writes * 2);
        let once = Death::At(nth / 2 + 1, nth.is_multiple_of(2));
        let plays = [(On::Sqlite, Death::EachBarrier), (On::Sqlite, once), (On::Postgres, Death::EachTask)];
        for (on, death) in plays {
            if let Some(why) = whole.differs(&ready.play(on, seed, death)) {
                return Err(Why::Fails(format!("{on:?} {death:?}: {why}")));
            }
            let (all, lost) = ready.fate.calls();
            let mut due = calls.clone();
            due.extend(lost);
            for call in &all {
                match due.iter().position(|due| due == call) {
                    Some(at) => drop(due.swap_remove(at)),
                    None => return Err(Why::Fails(format!("{on:?} {death:?}: `{call}` was made again"))),
                }
            }
        }
        Ok(())
    });
}

/// A run that is told to stop, and let go on, is the same run, and stops wherever it was told to.
#[test]
fn any_breakpoint_leaves_the_same_checkpoints_and_repeats_nothing() {
    hold("stops", 60, Flavour::Any, |program, ready, seed| {
        if model::run(program).is_none() {
            return Err(Why::TooLong);
        }
        let whole = ready.play(On::Memory, seed, Death::Never);
        let calls = ready.fate.calls().0;
        let turn = mix(seed, &program.text()) as usize;
        let node = &program.root.nodes[turn % program.root.nodes.len()].name;
        let begun = whole.told.begun.iter().filter(|(_, begun)| begun == node);
        let steps: BTreeSet<u64> = begun.map(|(step, _)| *step).collect();
        let (nothing, one) = (Vec::new, || vec![node.clone()]);
        for (stops, count) in [
            (Breakpoints { before: one(), after: nothing() }, Some(steps.len())),
            (Breakpoints { before: nothing(), after: one() }, None),
            (Breakpoints { before: vec!["*".into()], after: one() }, None),
        ] {
            ready.stops.replace(stops.clone());
            let fails = |why: String| Err(Why::Fails(format!("{stops:?}: {why}")));
            for death in [Death::Never, Death::EachBarrier] {
                let played = ready.play(On::Memory, seed, death);
                if let Some(why) = whole.differs(&played) {
                    return fails(format!("{death:?}: {why}"));
                }
                if death == Death::Never && ready.fate.calls().0 != calls {
                    return fails(format!("called {:?}\ndue    {calls:?}", ready.fate.calls().0));
                }
                if count.is_some_and(|count| death == Death::Never && played.stopped != count) {
                    return fails(format!(
                        "it stopped {} times, and `{node}` began in {steps:?}",
                        played.stopped
                    ));
                }
            }
        }
        Ok(())
    });
}

/// What a crash costs is work, and never a checkpoint that was told, or another result. Results of nodes are kept with their
/// barrier, so where that is late the run does more work: not with graphs that keep some.
#[test]
fn a_run_whose_barriers_are_stored_later_leaves_the_same_checkpoints_whatever_dies() {
    hold("later", 120, Flavour::Any, |program, ready, seed| {
        let told = model::run(program).filter(|_| !program.keeps()).ok_or(Why::TooLong)?;
        let whole = ready.play(On::Memory, seed, Death::Never);
        let writes = ready.fate.writes();
        let turn = mix(seed, &program.text()) as usize;
        for mode in [Durability::Async, Durability::Exit] {
            ready.durability.set(mode);
            let same = |death| match whole.differs(&ready.play(On::Memory, seed, death)) {
                Some(why) => Err(Why::Fails(format!("{mode:?} {death:?}: {why}"))),
                None => Ok(()),
            };
            same(Death::Never)?;
            let later = ready.fate.writes();
            if later > writes || mode == Durability::Exit && told.asked.is_empty() && later != 1 {
                return Err(Why::Fails(format!("{mode:?}: {later} writes, and {writes} when each waits")));
            }
            let nth = turn % (later * 2);
            same(Death::At(nth / 2 + 1, nth.is_multiple_of(2)))?;
            if turn.is_multiple_of(4) {
                same(Death::EachBarrier)?;
            }
        }
        Ok(())
    });
}

/// Whenever the process dies: all that led to the call is stored before it, so that the call is known again.
#[test]
fn a_call_that_must_not_happen_twice_is_made_once_also_where_barriers_are_stored_later() {
    let graph = "\
format: 1
allow: {G216: what it says is not what counts}
state: {messages: messages, log: {type: [string], merge: append}}
start: first
nodes:
  first: {kind: llm, text: first, into: log, next: once}
  once: {kind: llm, text: once, effects: at_most_once, into: log, next: last}
  last: {kind: llm, text: last, into: log, next: end}
output: [log]
";
    let lab = Lab::new();
    let ready = lab.ready(&[("root.yaml", graph.to_owned()), ("project.yaml", PROJECT.to_owned())]);
    let ready = ready.unwrap_or_else(|(_, why)| panic!("{why}"));
    for mode in [Durability::Sync, Durability::Async, Durability::Exit] {
        ready.durability.set(mode);
        let whole = ready.play(On::Memory, 1, Death::Never);
        let writes = ready.fate.writes();
        assert_eq!(writes, 4, "{mode:?}: before the call, its intent, after it, and the end");
        let mut done = 0;
        for (n, before) in (1..=writes).flat_map(|n| [(n, true), (n, false)]) {
            let played = ready.play(On::Memory, 1, Death::At(n, before));
            let calls = ready.fate.calls().0.iter().filter(|prompt| *prompt == "once").count();
            assert!(calls <= 1, "{mode:?}: {calls} calls");
            done += usize::from(whole.differs(&played).is_none());
        }
        // It is not known what became of the call where the process died behind the intent and before the next barrier.
        assert_eq!(done, 6, "{mode:?}");
    }
}

#[test]
fn what_the_validator_calls_safe_is_set_when_it_is_read_and_has_one_writer() {
    hold("safe", 400, Flavour::Plain, |program, ready, seed| {
        let told = model::run(program).ok_or(Why::TooLong)?;
        let played = ready.play(On::Memory, seed, Death::Never);
        same(&told, &played.told).map_err(Why::Fails)?;
        if told.unset > 0 {
            return Err(Why::Fails("a channel is read that nobody has written".into()));
        }
        // Where several fan-outs meet, who runs beside whom is not provable: then the second writer fails.
        if told.conflicts > 0 && program.root.fan_outs() == 1 {
            return Err(Why::Fails("two writers meet in a `replace` channel".into()));
        }
        Ok(())
    });
}

#[test]
fn what_compiles_runs_without_an_error_of_types_when_the_model_keeps_to_its_types() {
    let (mut runner, seed) = runner("typed", 300);
    let model = typed::Keeps::default();
    let told = model.0.clone();
    let lab = Lab::with(Arc::new(model), Arc::default());
    let refused = RefCell::new(BTreeMap::<&str, u32>::new());
    let project =
        format!("format: 1\nmodels: {{m: {{provider: demo}}}}\ndefault_model: m\ntypes:\n{}", typed::TREE);
    let outcome = runner.run(&typed::tapes(), |tapes| {
        let (graph, types) = typed::read(&tapes);
        let files = [("project.yaml", project.clone()), ("root.yaml", graph.clone())];
        let ready = lab.ready(&files).map_err(|(codes, text)| {
            if setting("PROPERTY_SHOW").is_some() {
                println!("{text}");
            }
            *refused.borrow_mut().entry(codes[0]).or_default() += 1;
            TestCaseError::reject(codes[0])
        })?;
        for seed in seed..seed + 3 {
            *told.lock().unwrap() = (seed, types.clone());
            let played = ready.play(On::Memory, seed, Death::Never);
            if played.told.failed.is_some() {
                let result = String::from_utf8_lossy(&played.result).into_owned();
                return Err(TestCaseError::fail(format!("{result}\n{graph}")));
            }
        }
        Ok(())
    });
    println!("typed: refused: {:?}", refused.borrow());
    if let Err(TestError::Fail(why, _)) = outcome {
        panic!("typed: {why}");
    }
}

/// Says where the engine leaves the rules.
fn same(rules: &model::Told, engine: &model::Told) -> Result<(), String> {
    for (n, (due, found)) in rules.barriers.iter().zip(&engine.barriers).enumerate() {
        if due != found {
            let way: Vec<&Vec<String>> = rules.barriers[..n].iter().map(|barrier| &barrier.tokens).collect();
            return Err(format!("barrier {n}\nrules  {due:?}\nengine {found:?}\nbefore {way:?}"));
        }
    }
    let differs = |what: &str, due: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
        let (due, found) = (format!("{due:?}"), format!("{found:?}"));
        if due == found { Ok(()) } else { Err(format!("{what}\nrules  {due}\nengine {found}")) }
    };
    differs("its end", &rules.failed, &engine.failed)?;
    differs("the number of barriers", &rules.barriers.len(), &engine.barriers.len())?;
    differs("what began", &rules.begun, &engine.begun)?;
    differs("calls of the model", &rules.calls, &engine.calls)?;
    differs("questions at each pause", &rules.asked, &engine.asked)
}

impl Played {
    /// Says where another run of the same program left something else in the store.
    fn differs(&self, other: &Self) -> Option<String> {
        for (n, (a, b)) in self.rows.iter().zip(&other.rows).enumerate() {
            if a != b {
                let text = |row: &play::Row| {
                    let (step, source, delta, frontier) = row;
                    let (delta, frontier) =
                        (String::from_utf8_lossy(delta), String::from_utf8_lossy(frontier));
                    format!("{step} {source} {delta} {frontier}")
                };
                return Some(format!("checkpoint {n}\nonce  {}\nagain {}", text(a), text(b)));
            }
        }
        if self.rows.len() != other.rows.len() {
            return Some(format!("{} checkpoints, and {} again", self.rows.len(), other.rows.len()));
        }
        let text = |result: &[u8]| String::from_utf8_lossy(result).into_owned();
        (self.result != other.result)
            .then(|| format!("its end\nonce  {}\nagain {}", text(&self.result), text(&other.result)))
    }
}
