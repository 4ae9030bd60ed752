//! How many retries a worker may add to its requests, so that a failing backend is not hit harder for failing.

use std::cell::Cell;

/// Retries that a request earns.
const PER_REQUEST: f32 = 0.2;
/// Retries that each tick earns, so that quiet services can retry as well.
const PER_TICK: f32 = 5.0;
/// Most that can be saved up: a burst that finds an endpoint gone is carried to the others.
const MOST: f32 = 200.0;

/// A worker's budget.
#[derive(Debug)]
pub struct RetryBudget(Cell<f32>);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Cell::new(MOST))
    }
}

impl RetryBudget {
    /// A request came.
    pub fn earn(&self) {
        self.0.set((self.0.get() + PER_REQUEST).min(MOST));
    }

    /// A tick passed.
    pub fn tick(&self) {
        self.0.set((self.0.get() + PER_TICK).min(MOST));
    }

    /// Takes one retry; `false` when there is none left.
    pub fn spend(&self) -> bool {
        let rest = self.0.get() - 1.0;
        if rest >= 0.0 {
            self.0.set(rest);
        }
        rest >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_savings_are_spent_a_fifth_of_the_requests_may_be_retried() {
        let budget = RetryBudget::default();
        while budget.spend() {}
        let retried = (0..1000)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert!((195..=201).contains(&retried), "{retried}");
    }
}
