//! Who is kept out of a campaign, decided by a stable hash of the user and a salt.

/// The share of users that segment deliveries mark as held out.
#[derive(Clone, Debug, PartialEq)]
pub struct Holdout {
    /// Users whose hash lies below are held out; 2^64 would be everybody.
    below: u128,
    salt: String,
}

/// The share is no share.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{share} is no share of users: from 0 to 1")]
pub struct NoShare {
    /// What was given.
    pub share: f64,
}

impl Holdout {
    /// Keeps `share` (0 to 1) of all users out. Another salt draws other users; a larger share with the same salt keeps
    /// those that a smaller one held out.
    ///
    /// # Errors
    /// [`NoShare`].
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^64, as checked")]
    pub fn new(share: f64, salt: impl Into<String>) -> Result<Self, NoShare> {
        if !(0.0..=1.0).contains(&share) {
            return Err(NoShare { share });
        }
        Ok(Self { below: (share * 2f64.powi(64)) as u128, salt: salt.into() })
    }

    /// Whether this user is held out. Never changes for the same salt, whatever the build or the machine.
    #[must_use]
    pub fn holds_out(&self, user_id: &str) -> bool {
        u128::from(hash(&self.salt, user_id)) < self.below
    }
}

/// FNV-1a over salt, a separator that neither can hold, and user, mixed by splitmix64's finaliser: FNV alone spreads the
/// last bytes of short ids too little over the high bits that decide. Frozen: a change would swap treated and held-out
/// users in the middle of a campaign.
fn hash(salt: &str, user_id: &str) -> u64 {
    let bytes = salt.bytes().chain([0xff]).chain(user_id.bytes());
    let fnv =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
