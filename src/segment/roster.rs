//! Which name each membership bit stood for, by generation.
//!
//! A user's memberships are bits in the order of the definitions at the time. When the definitions change, a new
//! generation begins, and every user is judged once in the background; until that is through, users of several
//! generations live side by side, and the names of all of them are kept.

/// At most so many generations wait for their users to be judged; more redefinitions than that have to wait for the
/// background to catch up.
pub const GENERATIONS_MAX: usize = 16;

/// The names by generation. Part of the shard's own record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Ascending by generation; the last is the present one.
    generations: Vec<(u32, Vec<Box<str>>)>,
}

/// Too many redefinitions wait for their users to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the segments were redefined {GENERATIONS_MAX} times before every user was judged by the last of them: go back to the \
     previous definitions until the background has caught up"
)]
pub struct TooManyGenerations;

impl Roster {
    /// From what was persisted, ascending by generation.
    #[must_use]
    pub fn from_parts(generations: Vec<(u32, Vec<Box<str>>)>) -> Self {
        debug_assert!(generations.is_sorted_by_key(|(generation, _)| *generation));
        Self { generations }
    }

    /// What to persist.
    #[must_use]
    pub fn parts(&self) -> &[(u32, Vec<Box<str>>)] {
        &self.generations
    }

    /// Begins a generation.
    ///
    /// # Errors
    /// [`TooManyGenerations`].
    ///
    /// # Panics
    /// If `generation` is not above all that came before.
    pub fn begin<'n>(
        &mut self,
        generation: u32,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(), TooManyGenerations> {
        if self.generations.len() >= GENERATIONS_MAX {
            return Err(TooManyGenerations);
        }
        assert!(self.generations.last().is_none_or(|(last, _)| *last < generation), "generations only go up");
        self.generations.push((generation, names.into_iter().map(Box::from).collect()));
        Ok(())
    }

    /// Every user was judged by the present generation: forgets all others.
    pub fn settled(&mut self) {
        self.generations.drain(..self.generations.len().saturating_sub(1));
    }

    /// The names of a generation, by bit; none for one from before there were segments.
    #[must_use]
    pub fn names(&self, generation: u32) -> &[Box<str>] {
        let at = self.generations.binary_search_by_key(&generation, |(known, _)| *known);
        at.map_or(&[], |at| &self.generations[at].1)
    }
}
