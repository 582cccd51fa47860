//! Tells a difference to people.

use super::{Effect, Fate, GraphDiff, Sign};

/// How much of a hash is shown.
const SHOWN: usize = 12;

impl GraphDiff {
    /// Says whether the engine may refuse a thread's state.
    pub fn may_refuse(&self) -> bool {
        self.states.iter().any(|effect| effect.effect == Fate::Refused)
    }

    /// Writes what changed, one line a thing.
    pub fn text(&self) -> String {
        let hash = |hash: &Option<String>| {
            hash.as_deref().map_or("none", |hash| hash.get(..SHOWN).unwrap_or(hash)).to_owned()
        };
        let mut text = format!(
            "{} graph {}: {} -> {}\n",
            mark(self.change),
            self.graph,
            hash(&self.old),
            hash(&self.new)
        );
        for change in &self.changes {
            let detail =
                if change.detail.is_empty() { String::new() } else { format!(": {}", change.detail) };
            text += &format!("  {} {} {}{detail}\n", mark(change.change), change.what, change.name);
        }
        text += match self.change {
            Sign::Added => "",
            Sign::Removed => "  Its threads cannot go on; runs that are not over end on their version.\n",
            Sign::Changed if self.may_refuse() => {
                "  The next run of a thread is refused with 409 `state_incompatible` where its state does not fit:\n"
            }
            Sign::Changed if self.states.is_empty() => {
                "  The next run of a thread takes the new version; its state fits.\n"
            }
            Sign::Changed => "  The next run of a thread takes the new version; its state fits:\n",
        };
        for effect in &self.states {
            text += &format!("    {}\n", told(effect));
        }
        if self.may_refuse() {
            text +=
                "    To let such threads go on, give the channel another name, and rules under `migrate:`.\n";
        }
        if self.change == Sign::Changed {
            text += "  Runs that are under way, wait or are paused end on the old version.\n";
        }
        text
    }
}

fn mark(sign: Sign) -> char {
    match sign {
        Sign::Added => '+',
        Sign::Removed => '-',
        Sign::Changed => '~',
    }
}

fn told(effect: &Effect) -> String {
    let Effect { channel, effect, detail } = effect;
    match effect {
        Fate::Fits => format!("`{channel}` fits: {detail}"),
        Fate::Moved => format!("`{channel}` moves {detail}"),
        Fate::Dropped => format!("`{channel}` is deleted"),
        Fate::Aside => format!("`{channel}` is kept aside, and seen again when a channel has that name"),
        Fate::Given => format!("`{channel}` gets a value where it has none"),
        Fate::Refused => format!("`{channel}` may not fit: {detail}"),
    }
}
