//! One user, whole: the lifecycle, the standing in the segments, and what win-back measurement remembers. Pure. This is
//! what a shard keeps of a user, and what the store holds under the user's id.

use crate::lifecycle::User;
use crate::retention::Marks;
use crate::segment::Standing;
use crate::win_back::Trail;

/// Everything that is remembered of one user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Person {
    /// The lifecycle, the properties, the armed deadline.
    pub user: User,
    /// The segments the user is in.
    pub standing: Standing,
    /// Since the latest return, and since the latest entries into segments.
    pub trail: Trail,
    /// The first A and the B of each retention report.
    pub marks: Marks,
}

impl Person {
    /// Nobody yet, to be judged by the rules of `generation`.
    #[must_use]
    pub fn of_generation(generation: u32) -> Self {
        Self { user: User { generation, ..User::default() }, ..Self::default() }
    }
}

/// A user without segments and returns.
impl From<User> for Person {
    fn from(user: User) -> Self {
        Self { user, ..Self::default() }
    }
}
