//! Whose turn it is: tenants that wait for a process take turns.
//!
//! Invariant: who has less at work goes first, so no tenant waits behind all that another one has queued.

/// What a tenant has to offer.
#[derive(Debug, Clone)]
pub(super) struct Asking<T> {
    /// Its runs that are at work.
    pub(super) working: u64,
    /// Those that can begin, with their places in order of acceptance, the oldest first.
    pub(super) ready: Vec<(u64, T)>,
}

/// Returns how many runs each of so many tenants may offer for one claim; what is left over is for the next.
pub(super) fn share(most: usize, tenants: usize) -> usize {
    most.div_ceil(tenants.max(1))
}

/// Chooses up to `most` runs. With `of_tenant`, a tenant gets no more than that to work at once.
pub(super) fn choose<T>(tenants: Vec<Asking<T>>, most: usize, of_tenant: Option<u32>) -> Vec<T> {
    let share = share(most, tenants.len());
    let offers = tenants.into_iter().flat_map(|Asking { working, ready }| {
        (working + 1..).zip(ready.into_iter().take(share)).map(|(turn, (place, run))| (turn, place, run))
    });
    let mut offers: Vec<_> =
        offers.filter(|(turn, ..)| of_tenant.is_none_or(|most| *turn <= u64::from(most))).collect();
    offers.sort_by_key(|(turn, place, _)| (*turn, *place));
    offers.into_iter().take(most).map(|(.., run)| run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tenants: &[(u64, &[u64])], most: usize, of_tenant: Option<u32>, expected: &[u64]) {
        let asking = |(working, places): &(u64, &[u64])| Asking {
            working: *working,
            ready: places.iter().map(|place| (*place, *place)).collect(),
        };
        let chosen = choose(tenants.iter().map(asking).collect(), most, of_tenant);
        assert_eq!(chosen, expected, "{tenants:?} most {most} of_tenant {of_tenant:?}");
    }

    #[test]
    fn tenants_take_turns_and_who_has_least_at_work_goes_first() {
        check(&[], 8, None, &[]);
        check(&[(0, &[1, 2, 3])], 2, None, &[1, 2]);
        // The last one to come is not behind all of the first.
        check(&[(0, &[1, 2, 3, 4]), (0, &[5])], 4, None, &[1, 5, 2]);
        check(&[(0, &[1, 2, 3, 4]), (0, &[5])], 1, None, &[1]);
        check(&[(1, &[2, 3, 4]), (0, &[5])], 1, None, &[5]);
        check(&[(7, &[1]), (2, &[4, 5]), (3, &[2, 3])], 6, None, &[4, 2, 5, 3, 1]);
        // More tenants than room: one each, and nobody a second.
        check(&[(0, &[1, 4]), (0, &[2, 5]), (0, &[3])], 2, None, &[1, 2]);
    }

    #[test]
    fn a_tenant_gets_no_more_than_its_limit() {
        check(&[(0, &[1, 2, 3])], 8, Some(2), &[1, 2]);
        check(&[(2, &[1, 2]), (1, &[3, 4])], 8, Some(2), &[3]);
        check(&[(5, &[1])], 8, Some(2), &[]);
        check(&[(0, &[1])], 8, Some(0), &[]);
    }
}
