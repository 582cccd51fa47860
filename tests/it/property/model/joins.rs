//! Which branches wait for others (`design.md` §3).

use super::*;

impl Level {
    /// A fan-out that only one live branch carries is dropped.
    pub(super) fn settle(&mut self) {
        let all: Vec<Activation> = self.tokens.iter().flat_map(|token| token.open.clone()).collect();
        for token in &mut self.tokens {
            token.open.retain(|activation| all.iter().filter(|other| *other == activation).count() > 1);
        }
    }

    /// Which tasks run, and which branches wait.
    pub(super) fn ready(&self, graph: &Graph) -> (Vec<Task>, Vec<Token>) {
        let joins: Vec<bool> = (0..graph.nodes.len()).map(|at| graph.joins(at)).collect();
        let (mut groups, mut alone): (BTreeMap<usize, Vec<Token>>, Vec<Token>) = Default::default();
        for token in &self.tokens {
            if joins[token.at] && token.held.is_none() {
                groups.entry(token.at).or_default().push(token.clone());
            } else {
                alone.push(token.clone());
            }
        }
        // Whom a group waits for: branches that are no members of groups, and groups.
        let waits = |join: usize, members: &[Token], live: &Token| {
            let shared: Vec<Option<usize>> = live
                .open
                .iter()
                .filter(|activation| members.iter().any(|member| member.open.contains(activation)))
                .map(|(_, _, node)| *node)
                .collect();
            graph.leads(live.at, join, &|at| shared.contains(&Some(at)))
        };
        let for_branch = |join: usize| alone.iter().any(|live| waits(join, &groups[&join], live));
        let for_groups = |join: usize| -> BTreeSet<usize> {
            let waited = |(other, members): (&usize, &Vec<Token>)| {
                (*other != join && members.iter().any(|live| waits(join, &groups[&join], live)))
                    .then_some(*other)
            };
            groups.iter().filter_map(waited).collect()
        };
        let direct: BTreeMap<usize, BTreeSet<usize>> =
            groups.keys().map(|&join| (join, for_groups(join))).collect();
        let reach = |from: usize| {
            let mut seen = BTreeSet::new();
            let mut todo = vec![from];
            while let Some(at) = todo.pop() {
                todo.extend(direct[&at].iter().filter(|next| seen.insert(**next)));
            }
            seen
        };
        // It runs when all that it waits for, one behind another, are groups that wait for it in turn.
        let runs = |join: usize| {
            let ahead = reach(join);
            !for_branch(join) && ahead.iter().all(|&other| !for_branch(other) && reach(other).contains(&join))
        };
        let (run, wait): (Vec<usize>, Vec<usize>) = groups.keys().partition(|&&join| runs(join));
        let single = |token: Token| {
            let arrivals = vec![token.clone()];
            let Token { at, by, open, error, held } = token;
            Task { at, by, open, error, held, arrivals }
        };
        let mut tasks: Vec<Task> = alone.iter().cloned().map(single).collect();
        for join in run {
            let mut members = groups[&join].clone();
            members.sort_by(|a, b| a.by.cmp(&b.by));
            let open = members.iter().flat_map(|member| member.open.clone()).collect();
            let error = members.iter().find_map(|member| member.error.clone());
            let by = members[0].by.clone();
            tasks.push(Task { at: join, by, open, error, held: None, arrivals: members });
        }
        let name = |task: &Task| graph.nodes[task.at].name.clone();
        tasks.sort_by(|a, b| (name(a), &a.by).cmp(&(name(b), &b.by)));
        (tasks, wait.into_iter().flat_map(|join| groups[&join].clone()).collect())
    }
}

impl Graph {
    /// Whether its arrivals wait for one another: it has several sources, is no handler, and does not say `each`.
    pub(super) fn joins(&self, at: usize) -> bool {
        let from_start = crate::property::graph::targets(&self.start).contains(&Some(at));
        let sources = (0..self.nodes.len()).filter(|&from| self.successors(from).contains(&at)).count();
        sources + usize::from(from_start) > 1 && !self.nodes[at].handles && !self.nodes[at].each
    }

    /// Whether a way leads from a node to another that does not start in or pass through a barred one.
    pub(super) fn leads(&self, from: usize, to: usize, barred: &dyn Fn(usize) -> bool) -> bool {
        let mut seen = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(at) = todo.pop() {
            if barred(at) {
                continue;
            }
            for next in self.successors(at) {
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        false
    }
}
