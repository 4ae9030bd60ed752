//! One of several, by weight.

use crate::random;
use crate::reason::Reason;

/// Choices with their shares.
#[derive(Debug)]
pub struct Weighted<T> {
    /// The sum of the weights up to and with the choice at the same place.
    cumulative: Box<[u64]>,
    choices: Box<[T]>,
}

impl<T> Weighted<T> {
    /// Choices, each with its weight.
    pub(crate) fn new(weighted: impl IntoIterator<Item = (u32, T)>) -> Self {
        let mut sum = 0;
        let summed = weighted.into_iter().map(|(weight, choice)| {
            sum += u64::from(weight);
            (sum, choice)
        });
        let (cumulative, choices): (Vec<_>, Vec<_>) = summed.unzip();
        Self { cumulative: cumulative.into(), choices: choices.into() }
    }

    /// One of them, at random by weight.
    ///
    /// # Errors
    /// [`Reason::InvalidBackend`] when all weights are 0 (Gateway API), or there is no choice.
    pub fn choose(&self) -> Result<&T, Reason> {
        if let [only] = &*self.choices
            && self.cumulative.last().is_some_and(|&sum| sum > 0)
        {
            return Ok(only);
        }
        self.drawn(random::bits())
    }

    /// The one that belongs to `draw`, any number: the same for the same number.
    ///
    /// # Errors
    /// As [`Weighted::choose`].
    pub fn drawn(&self, draw: u64) -> Result<&T, Reason> {
        let point = random::scale(draw, self.cumulative.last().copied().unwrap_or_default());
        let position = self.cumulative.partition_point(|&sum| sum <= point);
        self.choices.get(position).ok_or(Reason::InvalidBackend)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.choices.iter()
    }

    /// Those that have a share.
    pub fn with_share(&self) -> impl Iterator<Item = &T> {
        let before = [0].into_iter().chain(self.cumulative.iter().copied());
        let shares = self.cumulative.iter().zip(before).map(|(sum, before)| sum - before);
        self.choices.iter().zip(shares).filter(|(_, share)| *share > 0).map(|(choice, _)| choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: &[u32]) -> Weighted<usize> {
        Weighted::new(weights.iter().copied().zip(0..))
    }

    #[test]
    fn shares_follow_the_weights() {
        let weighted = weighted(&[1, 0, 3]);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[*weighted.choose().unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_200..2_800).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn draws_are_shared_by_weight_and_the_same_has_the_same_choice() {
        let weighted = weighted(&[0, 1, 0, 3]);
        assert_eq!(weighted.with_share().collect::<Vec<_>>(), [&1, &3]);
        assert_eq!(weighted.drawn(0).unwrap(), &1);
        assert_eq!(weighted.drawn(u64::MAX).unwrap(), &3);
        let chosen = (0..1 << 10).filter(|draw| *weighted.drawn(draw << 54).unwrap() == 1).count();
        assert_eq!(chosen, 1 << 8);
    }

    #[test]
    fn no_weight_at_all_is_an_invalid_backend() {
        assert_eq!(weighted(&[0]).choose().unwrap_err(), Reason::InvalidBackend);
        assert_eq!(weighted(&[0, 0]).choose().unwrap_err(), Reason::InvalidBackend);
        assert_eq!(weighted(&[]).choose().unwrap_err(), Reason::InvalidBackend);
    }
}
